"""Devices: what a layer must know of others, placement, and the compilation of steps."""
