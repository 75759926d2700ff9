"""Turns ``kmemleak diff`` into what has changed between two dumps, or two reports."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import output, scan_options, values

if TYPE_CHECKING:
    from ..compare.difference import Difference
    from ..gate import Gate

_DESCRIPTION = """\
Tells what grew between two dumps, and who holds the growth, whether it leaks or not.

Each is a dump as `kmemleak scan` takes it, what `kmemleak census` kept of one, or a report that
`kmemleak scan --json` wrote. Two dumps of one process, or one boot of a kernel, are compared object
by object; two dumps of one program by what objects look like. A report knows of leaks alone.
"""

_EPILOG = """\
examples:
  kmemleak diff core.monday core.tuesday
  kmemleak diff --limit 3 --sort count core.monday core.tuesday
  kmemleak diff --json -o diff.json vmcore.1 vmcore.2
  kmemleak diff --fail-on leaks --fail-on growth:10MB core.before core.after
  kmemleak diff leaks.monday.json leaks.tuesday.json
  kmemleak census -o monday.census core.monday
  kmemleak diff monday.census core.tuesday

exit codes:
  0  no new leaks
  1  new leaks
  2  wrong usage
  3  a dump cannot be read, or holds no known heap

With --fail-on the code is 1 from so much on of what it names, and 0 otherwise.
"""


def prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "diff",
        help="tell what grew between two dumps, and who holds it",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "old", type=Path, metavar="OLD", help="a core file, vmcore, census or JSON report"
    )
    parser.add_argument("new", type=Path, metavar="NEW", help="a later one")
    parser.add_argument(
        "--match",
        choices=("auto", "address", "signature"),
        default="auto",
        help="an object is the same where it is at one address in both; or only groups are"
        " compared, by type, size and where pointers are; auto (default): what fits",
    )
    parser.add_argument(
        "--fail-on",
        type=_gate,
        action="append",
        default=[],
        metavar="WHAT[:N]",
        help="exit with 1 only from so much on: growth of all objects, or new leaks; N objects or,"
        " with a unit, bytes: growth:10MB, leaks:5 (can be given more than once: one is enough;"
        " `none`: never)",
    )
    scan_options.add_analysis_options(parser, graph=True)
    shown = parser.add_argument_group("how it is shown")
    shown.add_argument(
        "--limit",
        type=values.count,
        metavar="N",
        help="rows of each table to show (0: all; default 10, all in JSON)",
    )
    shown.add_argument(
        "--sort",
        choices=("bytes", "count", "size"),
        default="bytes",
        help="which groups come first: those that have grown most by bytes (default) or objects,"
        " or those of the largest objects",
    )
    shown.add_argument(
        "--min-size",
        type=values.size,
        default=0,
        metavar="BYTES",
        help="only groups of objects of at least so many bytes (K, M, G: powers of 1024)",
    )
    output.add_answer(shown, "diff_schema.json")


def run(arguments: argparse.Namespace) -> int:
    """Scan both, compare, show, and return the exit code."""
    output.check_output(arguments.output, arguments.force)

    from ..compare.pipeline import diff
    from ..report.diff_json import render_diff_json
    from ..report.diff_text import render_diff_text
    from ..report.model import RenderOptions

    with output.progress(arguments.quiet) as progress:
        found = diff(
            arguments.old,
            arguments.new,
            match=arguments.match,
            options=scan_options.analyse_options(arguments),
            progress=progress,
        )
    render = render_diff_json if arguments.json else render_diff_text
    options = RenderOptions(
        limit=arguments.limit,
        min_size=arguments.min_size,
        sort=arguments.sort,
        redact=arguments.redact,
    )
    with output.opened(arguments.output, arguments.force) as stream:
        render(found, stream, options)
    return _exit_code(found, arguments.fail_on)


def _exit_code(found: Difference, gates: list[Gate | None]) -> int:
    from .command import ExitCode

    if not gates:
        new = found.new_leaks
        return ExitCode.LEAKS if new.objects or new.nbytes else ExitCode.CLEAN
    tripped = [g for g in gates if g is not None and found.amount(g) >= g.least]
    for gate in tripped:
        unit = " bytes" if gate.nbytes else ""
        print(f"kmemleak: --fail-on {gate}: {found.amount(gate)}{unit}", file=sys.stderr)
    return ExitCode.LEAKS if tripped else ExitCode.CLEAN


def _gate(text: str) -> Gate | None:
    from ..compare.difference import GATES
    from ..gate import Gate

    try:
        return None if text == "none" else Gate.parse(text, GATES)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
