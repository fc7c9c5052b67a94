"""Segments of other hosts, here: a sender answers requests for frames, a receiver writes what it gets into a copy."""
