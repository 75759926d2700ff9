"""Turns ``kmemleak referrers`` into one line for each word that refers to an object."""

from __future__ import annotations

import argparse

from . import output
from .scanned import add_asked, add_shown, scanned

_DESCRIPTION = """\
Lists the words that refer to an object, one a line, for scripts: how they count (live: in a root or
in an object that is held; leaked: in an object that leaks; stale: in memory that is no root), the
word's address (- for a register), its value, where it points (start, interior, end), and what holds
it. Columns are separated by tabs.
"""

_EPILOG = """\
examples:
  kmemleak referrers core 0x557033f8a2a0 | grep ^live

exit codes:
  0  something live refers to it
  1  nothing live does
  2  wrong usage, or no object is at the address
  3  the dump cannot be read, or holds no known heap
"""


def prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "referrers",
        help="list the words that refer to an object",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.set_defaults(run=run)
    add_asked(parser)
    add_shown(parser)


def run(arguments: argparse.Namespace) -> int:
    """List, and return the exit code."""
    from .command import ExitCode

    holders = scanned(arguments).holders(arguments.address)
    with output.opened(arguments.output, arguments.force) as stream:
        if arguments.json:
            from ..report.who_json import write_referrers

            write_referrers(arguments.address, holders, stream)
        else:
            from ..report.who_text import list_holders

            list_holders(holders, stream)
    return ExitCode.CLEAN if any(h.word.live for h in holders) else ExitCode.LEAKS
