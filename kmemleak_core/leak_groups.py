"""Turns a LeakTable into groups: leaks of one origin, or of one size and of contents alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .clusters import LeakGraph, sole_owner
from .image import MemoryImage
from .leaks import GroupBy, LeakGroup, LeakTable
from .objects import ObjectTable
from .provenance import UNKNOWN, Origin, Provenance
from .shapes import classify, coarse, common, merge_varied, pack, shape_text

#: Groups beyond this many, the smallest ones, are folded into one: a group is a Python object.
MAX_GROUPS = 4096


def group_leaks(
    leaks: LeakTable,
    image: MemoryImage,
    objects: ObjectTable,
    provenance: Provenance | None = None,
    by: GroupBy = "origin",
) -> tuple[LeakGroup, ...]:
    """Group leaks by origin, size and what their first words hold; fill the ``group`` column.

    Those with the backtrace of an allocation are grouped by it and by what they are, whatever
    their sizes.

    Groups come with the most bytes first: what their direct members and all that only those
    lead to amount to, then what they hold in all.

    Parameters
    ----------
    leaks
        The full table of `build_leaks`.
    image
        Where the contents are.
    objects
        All objects: a word that points into one is told from other pointers.
    provenance
        Where the leaks come from, row by row of the table.
    by
        What the members of a group share: ``"origin"`` is backtrace and kind; leaks of which
        nothing tells of that are grouped by size and shape.
    """
    table = leaks.array
    if not table.size:
        return ()
    codes = classify(image, objects, table["address"], table["size"])
    alike = coarse(codes) if by == "shape" else merge_varied(coarse(codes), table["size"])
    members, starts = _partition(_keys(table, alike, provenance, by), table["order"])
    sizes = table["size"]
    total = np.add.reduceat(sizes[members], starts)
    folded = -1
    if starts.size > MAX_GROUPS:
        # The largest keep their own group; all others become one.
        folded = MAX_GROUPS - 1
        run = np.empty(starts.size, np.int64)
        run[np.argsort(~total, kind="stable")] = np.arange(starts.size)
        key = np.minimum(np.repeat(run, np.diff(np.append(starts, members.size))), folded)
        sorting = np.lexsort((table["order"][members], key))
        members, key = members[sorting], key[sorting]
        starts = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
    n = starts.size
    lengths = np.diff(np.append(starts, members.size))
    group = np.empty(table.size, np.int64)
    group[members] = np.repeat(np.arange(n), lengths)

    direct = table["direct"]
    total = np.add.reduceat(sizes[members], starts)
    direct_count = np.add.reduceat(direct[members].astype(np.int64), starts)
    direct_bytes = np.add.reduceat(np.where(direct, sizes, np.uint64(0))[members], starts)
    graph = leaks.graph or LeakGraph.empty(table.size)
    owner = sole_owner(graph, table["head"], direct, group)
    owned = owner >= 0
    retained_count = np.bincount(owner[owned], minlength=n)
    retained_bytes = np.zeros(n, np.uint64)
    np.add.at(retained_bytes, owner[owned], sizes[owned])

    first = table["address"][members[starts]]
    freed = direct_bytes + retained_bytes
    ranking = np.lexsort((first, ~total, ~freed))
    rank = np.empty(n, np.int64)
    rank[ranking] = np.arange(n)
    table["group"] = rank[group]

    # The first direct member stands for a group, or the first of all.
    position = np.arange(members.size)
    chosen = np.minimum.reduceat(np.where(direct[members], position, members.size), starts)
    example = members[np.where(chosen < members.size, chosen, starts)]
    uniform = np.minimum.reduceat(sizes[members], starts) == np.maximum.reduceat(
        sizes[members], starts
    )
    shapes = common(codes, members, starts)
    origin_of = _origins(provenance, members, starts, by)
    groups = []
    # Numbers of Python's, a column at a time: there can be thousands of groups.
    numbers = np.stack(
        (
            sizes[example],
            lengths,
            total,
            direct_count,
            direct_bytes,
            retained_count,
            retained_bytes,
            table["address"][example],
            starts,
            uniform,
            example,
        ),
        axis=1,
        dtype=np.uint64,
        casting="unsafe",
    )[ranking].tolist()
    for g, words, row in zip(ranking.tolist(), map(bytes, shapes[ranking]), numbers, strict=True):
        size, count, nbytes, direct_n, direct_sum, retained_n, retained_sum, address = row[:8]
        begin, one_size, chosen_row = row[8:]
        groups.append(
            LeakGroup(
                size if one_size and g != folded else None,
                "others" if g == folded else shape_text(words, size, image.word_size),
                count,
                nbytes,
                direct_n,
                direct_sum,
                retained_n,
                retained_sum,
                address,
                members[begin : begin + count],
                UNKNOWN if g == folded else origin_of(g, chosen_row),
            )
        )
    return tuple(groups)


def _keys(
    table: NDArray[Any], codes: NDArray[np.uint8], provenance: Provenance | None, by: GroupBy
) -> list[NDArray[np.uint64]]:
    """Return the columns whose values the members of a group share."""
    size, shape = table["size"], pack(codes)
    if by == "size":
        return [size]
    if by == "shape":
        return [shape]
    keys = [shape, size]
    trace = None if provenance is None or by == "kind" else provenance.trace
    kind = None if provenance is None else provenance.kind
    if trace is not None:
        keys = [np.where(trace >= 0, np.uint64(0), key) for key in keys]
        keys.append(trace.astype(np.uint64))
    if kind is not None:
        if by == "kind":
            keys = [np.where(kind >= 0, np.uint64(0), key) for key in keys]
        elif by == "trace" and trace is not None:
            kind = np.where(trace >= 0, -1, kind)
        elif provenance is not None and provenance.typed:
            keys[0] = np.where(kind >= 0, np.uint64(0), keys[0])
        keys.append(kind.astype(np.uint64))
    return keys


def _partition(
    keys: list[NDArray[np.uint64]], order: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort rows by what makes a group, inside by allocation; return them and each one's start."""
    members = np.lexsort((order, *keys)).astype(np.int64, copy=False)
    new = np.zeros(max(0, members.size - 1), bool)
    for key in keys:
        new |= key[members][1:] != key[members][:-1]
    return members, np.concatenate(([0], np.flatnonzero(new) + 1)).astype(np.int64)


def _origins(
    provenance: Provenance | None,
    members: NDArray[np.int64],
    starts: NDArray[np.int64],
    by: GroupBy,
) -> Callable[[int, int], Origin]:
    """Return what tells the origin of a group by its number and its example's row.

    Kind and backtrace are those of all members, or left out.
    """
    if provenance is None:
        return lambda group, row: UNKNOWN
    if by == "origin":  # which is the same for all members
        return lambda group, row: provenance.origin(row)

    def uniform(column: NDArray[Any] | None) -> list[bool]:
        if column is None:
            return [True] * starts.size
        lowest = np.minimum.reduceat(column[members], starts)
        return list((lowest == np.maximum.reduceat(column[members], starts)).tolist())

    kinds, traces = uniform(provenance.kind), uniform(provenance.trace)

    def origin(group: int, row: int) -> Origin:
        found = provenance.origin(row)
        if kinds[group] and traces[group]:
            return found
        return replace(
            found,
            kind=found.kind if kinds[group] else "",
            frames=found.frames if traces[group] else (),
        )

    return origin
