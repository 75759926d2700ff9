"""Turns ``kmemleak parse`` into a digest of what a kernel's kmemleak reports."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UsageError
from . import kernel_output, output

_DESCRIPTION = """\
Reads what the kernel's own kmemleak reports, in the form of any release of Linux: its file
/sys/kernel/debug/kmemleak, or a log of the console with such reports in it (dmesg, syslog,
journalctl, a serial console). Leaks are told once each, grouped by backtrace, the
allocator's own functions left out.
"""

_EPILOG = """\
examples:
  sudo kmemleak parse /sys/kernel/debug/kmemleak
  dmesg | kmemleak parse -
  kmemleak parse --json report.txt > leaks.json
  kmemleak parse --diff before.txt after.txt
  kmemleak parse --suppressions known.txt --skip-frame 'my_alloc*' report.txt

exit codes:
  0  no leaks (with --diff: no new ones)
  1  leaks were found
  2  wrong usage
  3  the report cannot be read
"""


def prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "parse",
        help="tell what leaks in a report of the kernel's own kmemleak",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.set_defaults(run=run, format="text")
    parser.add_argument("file", metavar="FILE", help="the report or log; - for standard input")
    parser.add_argument(
        "--diff",
        type=Path,
        metavar="OLD",
        help="compare with an older report of the same boot: new and gone leaks",
    )
    kernel_output.add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Read, show, and return the exit code."""
    from ..logs import open_log
    from .command import ExitCode

    if arguments.file == "-" and str(arguments.diff) == "-":
        raise UsageError("standard input can be one of the two reports only")
    output.check_output(arguments.output, arguments.force)
    kernel_output.suppressions(arguments)
    old = open_log(arguments.diff) if arguments.diff is not None else None
    analysis = kernel_output.analysed(arguments, open_log(arguments.file), old)
    kernel_output.show(arguments, analysis)
    return ExitCode.LEAKS if analysis.found else ExitCode.CLEAN
