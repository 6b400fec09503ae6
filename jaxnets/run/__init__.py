"""A run: its task, loop, signals, log, folder and checkpoints."""
