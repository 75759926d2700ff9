"""Turns a scan into who holds what: referrers, paths, retained sizes, by names of places."""
