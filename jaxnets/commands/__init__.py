"""The command line: a config and a runner for each command."""
