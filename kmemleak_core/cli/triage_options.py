"""Turns the options on which leaks count into a changed report, and that into an exit code."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..leaks import GroupBy
    from ..report import RenderOptions, Report


def add_triage_options(parser: argparse.ArgumentParser) -> None:
    """Add the options on which leaks count."""
    known = parser.add_argument_group("which leaks count")
    known.add_argument(
        "--suppressions",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="known leaks: lines leak:PATTERN (a part of the name of a function or module of the"
        " backtrace), type:NAME, size:RANGE, module:NAME, addr:RANGE; what such a leak leads to is"
        " known with it (can be given more than once)",
    )
    known.add_argument(
        "--print-suppressions",
        action="store_true",
        help="instead of the report: lines that would suppress what is left",
    )


def report_format(arguments: argparse.Namespace) -> str:
    """Return the name of the format that was asked for."""
    return "suppressions" if arguments.print_suppressions else str(arguments.format)


class Triage:
    """What was asked about which leaks count; files are read before the scan, not after it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from ..suppressions import Suppressions

        self._group_by: GroupBy = arguments.group_by
        self._suppressions = Suppressions.load(*arguments.suppressions)

    def apply(self, report: Report) -> Report:
        """Return the report of the leaks that count."""
        if self._suppressions.entries:
            report = report.suppress(self._suppressions)
        return report if self._group_by == "origin" else report.regroup(self._group_by)

    def exit_code(self, report: Report, options: RenderOptions) -> int:
        """Return whether leaks that count were found."""
        from ..report.select import hidden
        from .command import ExitCode

        hidden_objects, _ = hidden(report, options)
        found = len(report.leaks) > hidden_objects
        return ExitCode.LEAKS if found else ExitCode.CLEAN
