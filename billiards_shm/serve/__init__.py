"""Frames for people to look at."""
