"""Turns ``kmemleak explain`` into what is known of one object, and who still holds it."""

from __future__ import annotations

import argparse

from . import output, values
from .scanned import add_asked, add_shown, scanned

_DESCRIPTION = """\
Explains one object of a dump: what it is, whether it leaks, which words refer to it (variables by
their names, registers, the frames of functions on stacks, other objects), the shortest path from a
root, what every way to it leads through, what would go with it, and what it refers to. Places
that look like leftovers are marked.

Names come from the symbol tables of the mapped files, of their debug files under
/usr/lib/debug/.build-id, or of the kernel; without them, from module and offset. Where these have
DWARF (compiled with -g), members and elements of variables are named as well: cache.buckets[3].
"""

_EPILOG = """\
examples:
  kmemleak explain core 0x557033f8a2a0
  kmemleak explain --sysroot /srv/images/web core 557033f8a2a0
  kmemleak explain --json --redact vmcore ffff888003a1c000

exit codes:
  0  something holds it
  1  it leaks
  2  wrong usage, or no object is at the address
  3  the dump cannot be read, or holds no known heap
"""


def prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "explain",
        help="tell what an object is, and who holds it",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.set_defaults(run=run)
    add_asked(parser)
    shown = add_shown(parser)
    shown.add_argument(
        "--limit",
        type=values.count,
        default=20,
        metavar="N",
        help="referring words, steps and references to show (0: all; default 20)",
    )
    shown.add_argument(
        "--hex",
        type=values.count,
        default=64,
        metavar="BYTES",
        help="bytes of content to show (default 64)",
    )
    shown.add_argument(
        "--no-retained",
        action="store_true",
        help="do not find what every way to the object leads through, nor what would go with it:"
        " faster where there are many millions of objects",
    )


def run(arguments: argparse.Namespace) -> int:
    """Explain, and return the exit code."""
    from .command import ExitCode

    explainer = scanned(arguments)
    told = explainer.explain(arguments.address, arguments.hex, retained=not arguments.no_retained)
    with output.opened(arguments.output, arguments.force) as stream:
        if arguments.json:
            from ..report.who_json import write_explanation

            write_explanation(told, stream)
        else:
            from ..report.who_text import render_explanation

            render_explanation(told, stream, limit=arguments.limit)
    return ExitCode.LEAKS if told.leaked else ExitCode.CLEAN
