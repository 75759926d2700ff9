"""Turns a report into another one: without what is known, compared, or grouped in another way."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np

from ..baseline import Baseline, compare
from ..errors import UsageError
from ..leak_masks import suppressed_by
from ..leak_parts import led_to, renumbered, without
from ..leaks import GroupBy, LeakTable, group_leaks
from ..suppressions import Suppressions, SuppressionUse
from .model import Report


def suppressed(report: Report, suppressions: Suppressions) -> Report:
    """Return the report without the leaks that suppressions cover, and all that these lead to.

    As LeakSanitizer has it: what a known leak holds is known with it.
    """
    leaks, entries = report.leaks, suppressions.entries
    index = suppressed_by(leaks, report.provenance, suppressions)
    starts = np.flatnonzero(index >= 0)
    # Among equally near ones the entry that comes first in its file.
    starts = starts[np.argsort(index[starts], kind="stable")]
    nearest = led_to(leaks, starts)
    gone = nearest >= 0
    index[gone] = index[nearest[gone]]
    counts = np.bincount(index[gone], minlength=len(entries))
    nbytes = np.zeros(len(entries), np.uint64)
    np.add.at(nbytes, index[gone], leaks["size"][gone])
    uses = tuple(
        SuppressionUse.of(entry, n, size)
        for entry, n, size in zip(entries, counts.tolist(), nbytes.tolist(), strict=True)
    )
    if not gone.any():
        return replace(report, suppressions=report.suppressions + uses)
    left, rows = without(leaks, gone)
    records = report.kernel_records
    told = None if report.provenance is None else report.provenance.take(rows)
    return replace(
        report,
        leaks=left,
        groups=renumbered(report.groups, left, rows, len(leaks), told),
        summary=report.summary.without(leaks, left),
        provenance=told,
        comparison=None if report.comparison is None else report.comparison.take(rows),
        kernel_records=None if records is None else lambda shown: records(rows[shown]),
        suppressions=report.suppressions + uses,
    )


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
    return replace(report, leaks=leaks, groups=groups, grouped_by=by)
