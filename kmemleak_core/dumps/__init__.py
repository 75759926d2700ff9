"""Reads dump files into memory images, one module a format."""
