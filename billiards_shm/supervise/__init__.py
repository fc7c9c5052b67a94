"""Supervision of several capture processes, each restarted when it dies or hangs."""
