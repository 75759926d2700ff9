"""Turns the options on which leaks count into a changed report, and that into an exit code."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from . import output

if TYPE_CHECKING:
    from ..baseline import Baseline
    from ..gate import Gate
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
        "--no-builtin-suppressions",
        action="store_true",
        help="report what libraries are known to keep on purpose as well",
    )
    known.add_argument(
        "--print-suppressions",
        action="store_true",
        help="instead of the report: lines that would suppress the leaks that are left",
    )
    known.add_argument(
        "--baseline",
        type=Path,
        metavar="FILE",
        help="only leaks that are new: groups that are not in the file, or have grown",
    )
    known.add_argument(
        "--write-baseline",
        type=Path,
        metavar="FILE",
        help="write the groups that are not suppressed there, for later runs (--force replaces it)",
    )
    known.add_argument(
        "--fail-on",
        type=_gate,
        action="append",
        default=[],
        metavar="WHAT[:N]",
        help="exit with 1 only from so much on: any, direct (or definite) or indirect leaks, or"
        " possible ones, which are not among any; N objects or, with a unit, bytes: direct:1MB,"
        " any:100 (can be given more than once: one is enough; `none`: never)",
    )


def report_format(arguments: argparse.Namespace) -> str:
    """Return the name of the format that was asked for."""
    return "suppressions" if arguments.print_suppressions else str(arguments.format)


def _gate(text: str) -> Gate | None:
    from ..gate import Gate

    try:
        return None if text == "none" else Gate.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class Triage:
    """What was asked about which leaks count; files are read before the scan, not after it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from ..baseline import Baseline
        from ..suppressions import Suppressions

        self._group_by: GroupBy = arguments.group_by
        self._gates: list[Gate | None] = arguments.fail_on
        self._force: bool = arguments.force
        self._written: Path | None = arguments.write_baseline
        if self._written is not None and self._written == arguments.output:
            raise UsageError(f"{self._written}: the report and the baseline are two files")
        output.check_output(self._written, self._force)
        self._baseline: Baseline | None = None
        if arguments.baseline is not None:
            self._baseline = Baseline.load(arguments.baseline)
        self._suppressions = Suppressions.load(*arguments.suppressions)
        self._builtin = Suppressions()
        if not arguments.no_builtin_suppressions:
            self._builtin = Suppressions.builtin()

    def apply(self, report: Report) -> Report:
        """Return the report of the leaks that count."""
        if self._suppressions.entries:
            report = report.suppress(self._suppressions)
        told = report.provenance is not None or report.possible_provenance is not None
        if self._builtin.entries and told:
            # That most of them are of no use in one report is no news.
            known = report.suppress(self._builtin)
            used = tuple(use for use in known.suppressions if use.used or not use.builtin)
            report = replace(known, suppressions=used)
        if self._written is not None:
            with output.opened(self._written, self._force) as stream:
                report.baseline().write(stream)
        if self._baseline is not None:
            report = report.against(self._baseline)
        return report if self._group_by == "origin" else report.regroup(self._group_by)

    def verdict(self, report: Report, options: RenderOptions) -> tuple[int, list[str]]:
        """Return the exit code, and what it was asked to be for that was found, in words.

        The code tells whether leaks that count were found: enough of them, if that was asked for.
        """
        from .command import ExitCode

        amounts = report.counted(options)
        if not self._gates:
            # A group can have grown by bytes alone.
            found = amounts.objects > 0 or amounts.nbytes > 0
            return (ExitCode.LEAKS if found else ExitCode.CLEAN), []
        tripped = [
            f"--fail-on {gate}: {amounts.of(gate)}{' bytes' if gate.nbytes else ''}"
            for gate in self._gates
            if gate is not None and amounts.fails(gate)
        ]
        return (ExitCode.LEAKS if tripped else ExitCode.CLEAN), tripped
