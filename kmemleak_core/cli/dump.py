"""Turns ``kmemleak dump`` into a core file of a running process."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..report.escape import printable
from ..report.units import size_text
from . import output, values

_DESCRIPTION = """\
Writes a core file of a running process, which is stopped meanwhile and then goes on. For
machines where the kernel pipes its cores elsewhere, and for processes that shall live.

The file holds all that the process has in memory: it is readable by you alone.
"""

_EPILOG = """\
examples:
  kmemleak dump 1234 -o core && kmemleak scan core

exit codes:
  0  the file is written
  2  wrong usage
  3  the process is not there, or must not be read
"""


def prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "dump",
        help="write a core file of a running process",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.set_defaults(run=run)
    parser.add_argument("pid", type=values.process_id, metavar="PID", help="the process")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="write the core there"
    )
    parser.add_argument("--force", action="store_true", help="replace the file")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")


def run(arguments: argparse.Namespace) -> int:
    """Write the core, and return the exit code."""
    from ..dumps.capture import capture
    from .command import ExitCode

    output.check_output(arguments.output, arguments.force)
    capture(arguments.pid, arguments.output, force=arguments.force)
    if not arguments.quiet:
        size = size_text(arguments.output.stat().st_size)
        print(f"{printable(str(arguments.output))}: {size}", file=sys.stdout)
    return ExitCode.CLEAN
