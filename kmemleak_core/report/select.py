"""Turns a report and options into the rows and groups to show: filtered, ordered, limited."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..gate import Amounts
from ..leak_parts import shown_groups
from ..leaks import LeakGroup
from .model import RenderOptions, Report

#: Which groups come first, by name.
SORTS: dict[str, Callable[[Report, LeakGroup], int]] = {
    "bytes": lambda report, group: 0,  # as they come
    "count": lambda report, group: -group.count,
    "size": lambda report, group: -(group.nbytes // group.count),
    "oldest": lambda report, group: int(report.leaks["order"][group.rows[0]]),
}


def selected(report: Report, options: RenderOptions) -> NDArray[np.bool_] | None:
    """Return which leaks pass the filters, ``(n,)``; None: all of them.

    Raises
    ------
    UsageError
        A filter asks for what the dump does not tell.
    """
    masks = []
    if report.comparison is not None and report.comparison.known.any():
        masks.append(~report.comparison.known)
    if options.min_size > 0:
        masks.append(report.leaks["size"] >= options.min_size)
    if options.max_size is not None:
        masks.append(report.leaks["size"] <= options.max_size)
    if options.types or options.functions or options.modules:
        from .. import leak_masks

        if options.types:
            masks.append(leak_masks.of_kinds(report.provenance, options.types))
        if options.functions:
            masks.append(leak_masks.of_functions(report.provenance, options.functions))
        if options.modules:
            masks.append(leak_masks.of_modules(report.provenance, options.modules))
    return np.logical_and.reduce(masks) if masks else None


def hidden(report: Report, options: RenderOptions) -> tuple[int, int]:
    """Return how many leaks do not pass the filters, and their bytes; without the known ones."""
    mask = selected(report, options)
    if mask is None:
        return 0, 0
    left_out = ~mask
    if report.comparison is not None:
        left_out &= ~report.comparison.known
    sizes = report.leaks["size"][left_out]
    return sizes.size, int(sizes.sum(dtype=np.uint64))


def hidden_possible(report: Report, options: RenderOptions) -> tuple[int, int]:
    """Return the same of what is possibly lost."""
    return hidden(report.of_possible(), options) if len(report.possible) else (0, 0)


def counted(report: Report, options: RenderOptions) -> Amounts:
    """Add up the leaks that count; see `Report.counted`."""
    amounts = _counted_leaks(report, options)
    if report.summary.possible_objects is None:
        return amounts
    possible = _counted_leaks(report.of_possible(), options)
    return replace(amounts, possible_objects=possible.objects, possible_bytes=possible.nbytes)


def _counted_leaks(report: Report, options: RenderOptions) -> Amounts:
    mask = selected(report, options)
    sizes, direct = report.leaks["size"], report.leaks["direct"]
    if mask is None:
        mask = np.ones(len(report.leaks), np.bool_)
    if report.comparison is None:
        return _amounts(sizes[mask], direct[mask])
    # No one tells which members of a group that has grown are the new ones: what passes the
    # filters, but no more than the growth.
    total = Amounts(0, 0, 0, 0)
    numbers = report.comparison.signature
    order = np.flatnonzero(mask)[np.argsort(numbers[mask], kind="stable")]
    parts = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
    for rows in parts if order.size else []:
        growth = report.comparison.growth[int(numbers[rows[0]])]
        found = _amounts(sizes[rows], direct[rows])
        total = Amounts(
            total.objects + min(found.objects, growth.objects),
            total.nbytes + min(found.nbytes, growth.nbytes),
            total.direct_objects + min(found.direct_objects, growth.direct_objects),
            total.direct_bytes + min(found.direct_bytes, growth.direct_bytes),
        )
    return total


def _amounts(sizes: NDArray[np.uint64], direct: NDArray[np.bool_]) -> Amounts:
    return Amounts(
        sizes.size,
        int(sizes.sum(dtype=np.uint64)),
        int(np.count_nonzero(direct)),
        int(sizes[direct].sum(dtype=np.uint64)),
    )


def chosen_rows(
    report: Report, options: RenderOptions, default_limit: int = 0
) -> tuple[NDArray[np.int64], int]:
    """Return the rows of single leaks to show, in order, and how many the limit left out."""
    if options.sort is not None and options.order is None:
        rows = _rows_by_group(report, options)
    else:
        default = str(report.options.get("order") or "allocation")
        rows = report.leaks.rows_by(options.order or ("cluster" if options.unfold else default))
    mask = selected(report, options)
    if mask is not None:
        rows = rows[mask[rows]]
    limit = default_limit if options.limit is None else options.limit
    shown = rows[:limit] if limit > 0 else rows
    return shown, rows.size - shown.size


def chosen_groups(report: Report, options: RenderOptions) -> list[tuple[int, LeakGroup]]:
    """Return the groups of leaks that pass the filters, each with its index, sorted.

    A group of which only a part passes is measured by that part.
    """
    if options.sort is not None and options.sort not in SORTS:
        raise UsageError(f"groups are not sorted by {options.sort!r}: {', '.join(SORTS)}")
    mask = selected(report, options)
    groups = list(enumerate(report.groups))
    if mask is not None:
        groups = shown_groups(report.groups, report.leaks, mask, report.provenance)
    key = SORTS[options.sort or "bytes"]
    return sorted(groups, key=lambda one: key(report, one[1]))


def _rows_by_group(report: Report, options: RenderOptions) -> NDArray[np.int64]:
    """Return all rows, those of the first group first, inside in the order of allocation."""
    rank = np.full(len(report.groups) + 1, len(report.groups), np.int64)
    for position, (index, _) in enumerate(chosen_groups(report, options)):
        rank[index] = position
    rows: NDArray[np.int64] = np.lexsort((report.leaks["order"], rank[report.leaks["group"]]))
    return rows


def example_size(report: Report, group: LeakGroup) -> int:
    """Return the size of a group's example."""
    if group.size is not None:
        return group.size
    members = report.leaks.array[group.rows]
    return int(members["size"][members["address"] == group.example][0])


def shown_shape(group: LeakGroup, options: RenderOptions) -> str:
    """Return a group's shape as `shown` has it."""
    return shown(group.shape, options)


def shown(shape: str, options: RenderOptions) -> str:
    """Return a shape; redacted, it tells pointers and zeros but nothing of other data."""
    return shape.replace("text", "data").replace("int", "data") if options.redact else shape
