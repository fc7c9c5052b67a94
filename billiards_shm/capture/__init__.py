"""The capture process: one source, one loop, one shared-memory segment."""
