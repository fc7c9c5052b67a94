"""Recording of segments: files of every frame."""
