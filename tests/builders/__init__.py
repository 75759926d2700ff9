"""Builders of synthetic dumps, and of real ones from small programs."""
