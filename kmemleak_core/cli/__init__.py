"""The ``kmemleak`` command, one module a subcommand."""

from .command import main

__all__ = ["main"]
