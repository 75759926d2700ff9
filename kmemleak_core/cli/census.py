"""Turns ``kmemleak census`` into a small file that ``kmemleak diff`` takes instead of a dump."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import output, scan_options

_DESCRIPTION = """\
Takes down what a dump comes to, for kmemleak diff to compare it with another one later: which
objects there are, how they look, which leak, who holds them. The dump is no longer needed then;
the census has 21 to 33 bytes an object, and nothing of what the memory held.
"""

_EPILOG = """\
examples:
  kmemleak census -o monday.census core
  kmemleak diff monday.census core

exit codes:
  0  done
  2  wrong usage
  3  the dump cannot be read, or holds no known heap
"""


def prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "census",
        help="keep of a dump what diff wants to know of it",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.set_defaults(run=run)
    scan_options.add_scan_options(parser, graph=True)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", required=True, help="the file to write"
    )
    parser.add_argument("--force", action="store_true", help="replace the file")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def run(arguments: argparse.Namespace) -> int:
    """Scan, write, and return the exit code."""
    source = scan_options.source(arguments)
    output.check_output(arguments.output, arguments.force)

    from ..compare.pipeline import census
    from .command import ExitCode

    asked = scan_options.analyse_options(arguments)
    with output.progress(arguments.quiet) as progress:
        found = census(source, options=asked, progress=progress)
    found.save(arguments.output, force=arguments.force)
    return ExitCode.CLEAN
