"""Faults in real training runs, and whether the runs survive them."""
