"""Turns ``kmemleak paths`` into one line for each way from a root to an object."""

from __future__ import annotations

import argparse

from . import output, values
from .scanned import add_asked, add_shown, scanned

_DESCRIPTION = """\
Lists the shortest paths to an object, one a line, for scripts: from roots, or for a leak from the
heads of leaked clusters that lead to it. Each path begins at another object that a root holds, the
nearest first. Columns are separated by tabs: what the path begins at (root, unconditional, leak),
how many references it has, and its places, joined by " -> ".
"""

_EPILOG = """\
examples:
  kmemleak paths core 0x557033f8a2a0
  kmemleak paths --limit 10 core 0x557033f8a2a0

exit codes:
  0  a root leads to it
  1  it leaks
  2  wrong usage, or no object is at the address
  3  the dump cannot be read, or holds no known heap
"""


def prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "paths",
        help="list the shortest paths from roots to an object",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.set_defaults(run=run)
    add_asked(parser)
    shown = add_shown(parser)
    shown.add_argument(
        "--limit",
        type=values.count,
        default=1,
        metavar="N",
        help="how many paths (0: all; default 1)",
    )


def run(arguments: argparse.Namespace) -> int:
    """List, and return the exit code."""
    from .command import ExitCode

    explainer = scanned(arguments)
    routes = explainer.paths(arguments.address, arguments.limit)
    with output.opened(arguments.output, arguments.force) as stream:
        if arguments.json:
            from ..report.who_json import write_paths

            write_paths(arguments.address, routes, stream)
        else:
            from ..report.who_text import list_paths

            list_paths(routes, stream)
    row = explainer.row(arguments.address)
    return ExitCode.LEAKS if bool(explainer.found.result.white[row]) else ExitCode.CLEAN
