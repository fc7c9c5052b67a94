"""The command line: a module for each group of commands. Options follow from the configuration model."""
