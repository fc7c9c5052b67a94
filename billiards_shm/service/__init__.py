"""What any long-running command needs: signals, the service manager, logs, exit codes."""
