"""Rates, metrics and health of segments, for the command line, the server and the capture process."""
