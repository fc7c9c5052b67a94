"""Services of every long-running command: signals, the service manager, logs, exit codes."""
