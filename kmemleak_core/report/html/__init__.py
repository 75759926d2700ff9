"""Turns a report into HTML: a page that is one file, and a short piece for notebooks."""
