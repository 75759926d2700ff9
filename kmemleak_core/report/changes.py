"""Turns a report into another one: without what is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..leak_masks import suppressed_by
from ..leak_parts import led_to, renumbered, without
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
    return replace(
        report,
        leaks=left,
        groups=renumbered(report.groups, left, rows, len(leaks)),
        summary=report.summary.without(leaks, left),
        provenance=None if report.provenance is None else report.provenance.take(rows),
        kernel_records=None if records is None else lambda shown: records(rows[shown]),
        suppressions=report.suppressions + uses,
    )
