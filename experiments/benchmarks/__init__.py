"""Benchmarks of the library's compiled steps."""
