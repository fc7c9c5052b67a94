"""What is said of a segment: rates, metrics and health, for the command line, the server and the capture process."""
