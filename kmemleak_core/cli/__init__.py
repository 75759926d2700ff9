"""The ``kmemleak`` command, one module a subcommand."""
