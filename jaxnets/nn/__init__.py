"""Layers over `jaxnets.ops`."""
