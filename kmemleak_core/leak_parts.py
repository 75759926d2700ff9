"""Turns a leak table and its groups into those of a part of the leaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ._graph import flood, subgraph
from .clusters import LeakGraph, sole_owner
from .leaks import LeakGroup, LeakTable
from .provenance import Provenance


def led_to(leaks: LeakTable, starts: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return which of some leaks leads to each leak by the fewest references; −1 for none.

    Parameters
    ----------
    leaks
        A full table.
    starts
        ``(s,)`` rows; among equally near ones the first wins. A start leads to itself.
    """
    graph = leaks.graph
    if graph is not None and graph.targets.size:
        return flood(graph.offsets, graph.targets, starts)
    label = np.full(len(leaks), -1, np.int32)
    label[starts] = starts
    return label


def without(leaks: LeakTable, gone: NDArray[np.bool_]) -> tuple[LeakTable, NDArray[np.int64]]:
    """Return the table without some leaks, and which rows are left.

    What a leak leads to has to go with it: then whatever holds one that is left is left as well,
    and heads stay heads.
    """
    rows = np.flatnonzero(~gone)
    array = leaks.array[rows]
    position = np.cumsum(~gone) - 1
    array["head"] = position[array["head"]]
    graph = leaks.graph
    if graph is not None:
        graph = LeakGraph(*subgraph(graph.offsets, graph.targets, rows))
    return LeakTable(array, graph), rows


def renumbered(
    groups: Sequence[LeakGroup],
    leaks: LeakTable,
    rows: NDArray[np.int64],
    before: int,
    provenance: Provenance | None = None,
) -> tuple[LeakGroup, ...]:
    """Return the groups of a table that `without` made, and fill its ``group`` column.

    Parameters
    ----------
    groups
        Of the table before.
    leaks, rows
        What `without` returned.
    before
        Rows of the table before.
    provenance
        Where the leaks come from, row by row of the table.
    """
    position = np.full(before, -1, np.int64)
    position[rows] = np.arange(rows.size)
    left = []
    for group in groups:
        members = position[group.rows]
        members = members[members >= 0]
        if members.size:
            whole = members.size == group.count
            left.append(_measured(group, leaks, members, whole, provenance))
    owner_of = np.full(len(leaks), -1, np.int64)
    for index, group in enumerate(left):
        owner_of[group.rows] = index
    leaks.array["group"] = owner_of
    return tuple(_retaining(left, leaks, owner_of))


def shown_groups(
    groups: Sequence[LeakGroup],
    leaks: LeakTable,
    shown: NDArray[np.bool_],
    provenance: Provenance | None = None,
) -> list[tuple[int, LeakGroup]]:
    """Return the groups that leaks to show are in, each with its index, measured by these.

    What a group leads to is counted whether it is shown or not.
    """
    found, parts = [], []
    owner_of = np.full(len(leaks), len(groups), np.int64)
    for index, group in enumerate(groups):
        members = group.rows[shown[group.rows]]
        if not members.size:
            continue
        whole = members.size == group.count
        if not whole:
            parts.append(index)
        owner_of[members] = index
        found.append((index, _measured(group, leaks, members, whole, provenance)))
    if parts:
        measured = dict(found)
        some = [measured[index] for index in parts]
        part_of = np.full(len(groups) + 1, len(some), np.int64)
        part_of[parts] = np.arange(len(some))
        measured.update(zip(parts, _retaining(some, leaks, part_of[owner_of]), strict=True))
        found = [(index, measured[index]) for index, _ in found]
    return found


def _measured(
    group: LeakGroup,
    leaks: LeakTable,
    members: NDArray[np.int64],
    whole: bool,
    provenance: Provenance | None,
) -> LeakGroup:
    """Return a group of these rows only; what it retains is as before."""
    if whole:
        return replace(group, rows=members)
    table = leaks.array[members]
    sizes, direct = table["size"], table["direct"]
    uniform = group.size is not None or int(sizes.min()) == int(sizes.max())
    first = int(np.argmax(direct)) if direct.any() else 0
    origin = group.origin
    if provenance is not None:
        # What the members share stays; the rest is the example's.
        own = provenance.origin(int(members[first]))
        origin = replace(origin, comm=own.comm, pid=own.pid, birth=own.birth)
    return replace(
        group,
        origin=origin,
        size=int(sizes[0]) if uniform and group.shape != "others" else None,
        count=members.size,
        nbytes=int(sizes.sum(dtype=np.uint64)),
        direct_count=int(np.count_nonzero(direct)),
        direct_bytes=int(sizes[direct].sum(dtype=np.uint64)),
        example=int(table["address"][first]),
        rows=members,
    )


def _retaining(
    groups: Sequence[LeakGroup], leaks: LeakTable, group_of: NDArray[np.int64]
) -> list[LeakGroup]:
    """Return groups with what they retain, by a column that tells each leak's group."""
    table = leaks.array
    graph = leaks.graph or LeakGraph.empty(len(leaks))
    owner = sole_owner(graph, table["head"], table["direct"], group_of)
    owned = (owner >= 0) & (owner < len(groups))
    count = np.bincount(owner[owned], minlength=len(groups))
    nbytes = np.zeros(len(groups), np.uint64)
    np.add.at(nbytes, owner[owned], table["size"][owned])
    return [
        group
        if (group.retained_count, group.retained_bytes) == (n, size)
        else replace(group, retained_count=n, retained_bytes=size)
        for group, n, size in zip(groups, count.tolist(), nbytes.tolist(), strict=True)
    ]
