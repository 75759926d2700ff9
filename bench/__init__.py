"""Benchmarks: the engine beside what a user would do instead."""
