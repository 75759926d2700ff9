"""Turns a report and options into the rows and groups to show: filtered, ordered, limited."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..leaks import LeakGroup
from .model import RenderOptions, Report


def chosen_rows(
    report: Report, options: RenderOptions, default_limit: int = 0
) -> tuple[NDArray[np.int64], int]:
    """Return the rows of single leaks to show, in order, and how many the limit left out."""
    order = options.order or str(report.options.get("order") or "allocation")
    rows = report.leaks.rows_by(order)
    if options.min_size > 0:
        rows = rows[report.leaks["size"][rows] >= options.min_size]
    limit = default_limit if options.limit is None else options.limit
    shown = rows[:limit] if limit > 0 else rows
    return shown, rows.size - shown.size


def chosen_groups(report: Report, options: RenderOptions) -> list[tuple[int, LeakGroup]]:
    """Return the groups that pass ``min_size``, each with its index."""
    # The group that folds many sizes has none of its own: its mean stands for it.
    return [
        (i, g)
        for i, g in enumerate(report.groups)
        if (g.nbytes // g.count if g.size is None else g.size) >= options.min_size
    ]


def example_size(report: Report, group: LeakGroup) -> int:
    """Return the size of a group's example."""
    if group.size is not None:
        return group.size
    members = report.leaks.array[group.rows]
    return int(members["size"][members["address"] == group.example][0])


def shown_shape(group: LeakGroup, options: RenderOptions) -> str:
    """Return a group's shape; redacted, it tells pointers and zeros but nothing of other data."""
    if not options.redact:
        return group.shape
    return group.shape.replace("text", "data").replace("int", "data")
