"""The command line: each module holds one group of commands; options come from the configuration model."""
