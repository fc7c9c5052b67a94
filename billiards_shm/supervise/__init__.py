"""Several capture processes, each started again when it dies or hangs."""
