"""Turns a report into another one: without what is known, compared, or grouped in another way."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from ..baseline import Baseline, compare
from ..errors import UsageError
from ..leak_groups import group_leaks
from ..leak_masks import suppressed_by
from ..leak_parts import led_to, renumbered, without
from ..leaks import GroupBy, LeakTable
from ..provenance import Provenance
from ..suppressions import Suppressions, SuppressionUse
from .model import Report


def suppressed(report: Report, suppressions: Suppressions) -> Report:
    """Return the report without the leaks that suppressions cover, and all that these lead to.

    As LeakSanitizer has it: what a known leak holds is known with it. The same goes for what is
    possibly lost.
    """
    gone, counts, nbytes = _known(report.leaks, report.provenance, suppressions)
    lost, of_possible, _ = _known(report.possible, report.possible_provenance, suppressions)
    uses = tuple(
        SuppressionUse.of(entry, *figures)
        for entry, *figures in zip(suppressions.entries, counts, nbytes, of_possible, strict=True)
    )
    # Usually nothing is known: then groups, of which there can be thousands, stay as they are.
    if gone.any():
        report = _without_leaks(report, gone)
    if lost.any():
        report = _without_possible(report, lost)
    return replace(report, suppressions=report.suppressions + uses)


def _without_leaks(report: Report, gone: NDArray[np.bool_]) -> Report:
    leaks, records = report.leaks, report.kernel_records
    left, rows = without(leaks, gone)
    told = None if report.provenance is None else report.provenance.take(rows)
    return replace(
        report,
        leaks=left,
        groups=renumbered(report.groups, left, rows, len(leaks), told),
        summary=report.summary.without(leaks, left),
        provenance=told,
        comparison=None if report.comparison is None else report.comparison.take(rows),
        kernel_records=None if records is None else lambda shown: records(rows[shown]),
    )


def _without_possible(report: Report, gone: NDArray[np.bool_]) -> Report:
    before, origins = len(report.possible), report.possible_provenance
    left, rows = without(report.possible, gone)
    told = None if origins is None else origins.take(rows)
    return replace(
        report,
        summary=report.summary.without(report.leaks, report.leaks, left),
        possible=left,
        possible_groups=renumbered(report.possible_groups, left, rows, before, told),
        possible_provenance=told,
    )


def _known(
    leaks: LeakTable, provenance: Provenance | None, suppressions: Suppressions
) -> tuple[NDArray[np.bool_], list[int], list[int]]:
    """Return which leaks suppressions cover, and by each how many, of how many bytes."""
    entries = len(suppressions.entries)
    index = suppressed_by(leaks, provenance, suppressions)
    starts = np.flatnonzero(index >= 0)
    # Among equally near ones the entry that comes first in its file.
    starts = starts[np.argsort(index[starts], kind="stable")]
    nearest = led_to(leaks, starts)
    gone = nearest >= 0
    index[gone] = index[nearest[gone]]
    counts = np.bincount(index[gone], minlength=entries)
    nbytes = np.zeros(entries, np.uint64)
    np.add.at(nbytes, index[gone], leaks["size"][gone])
    return gone, counts.tolist(), nbytes.tolist()


def baseline_of(report: Report) -> Baseline:
    """Return the groups of a report, made in the usual way, as a baseline."""
    return Baseline.of(_usual(report).groups)


def compared(report: Report, baseline: Baseline) -> Report:
    """Return the report compared with a baseline; see `Report.against`."""
    return replace(report, comparison=compare(baseline, _usual(report).groups, len(report.leaks)))


def _usual(report: Report) -> Report:
    """Return the report with the groups that baselines are made of."""
    return report if report.grouped_by == "origin" else regrouped(report, "origin")


def regrouped(report: Report, by: GroupBy) -> Report:
    """Return the report with other groups; see `Report.regroup`."""
    if by not in get_args(GroupBy):
        raise UsageError(f"there are no groups by {by!r}", hint=f"one of: {get_args(GroupBy)}")
    told = report.provenance
    if by == "trace" and (told is None or told.trace is None):
        raise UsageError("there are no backtraces to group by", hint="--group-by size, or shape")
    if by == "kind" and (told is None or told.kind is None):
        raise UsageError("there are no types to group by", hint="--group-by size, or shape")
    if report.image is None or report.result is None:
        raise UsageError("this report does not carry the scan that it came from")
    leaks = LeakTable(report.leaks.array.copy(), report.leaks.graph)
    groups = group_leaks(leaks, report.image, report.result.objects, told, by)
    possible = LeakTable(report.possible.array.copy(), report.possible.graph)
    others = group_leaks(
        possible, report.image, report.result.objects, report.possible_provenance, by
    )
    return replace(
        report,
        leaks=leaks,
        groups=groups,
        grouped_by=by,
        possible=possible,
        possible_groups=others,
    )
