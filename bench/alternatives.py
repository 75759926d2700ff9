"""What a user would write instead of the engine: numpy, bisect, intervaltree."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from intervaltree import IntervalTree
from numpy.typing import NDArray


def numpy_lookup(
    start: NDArray[np.uint64], end: NDArray[np.uint64], values: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Return the row of the object that holds each value, −1 for none."""
    row = np.searchsorted(start, values, side="right") - 1
    return np.where((row >= 0) & (values < end[row]), row, -1)


def numpy_references(
    start: NDArray[np.uint64], end: NDArray[np.uint64], words: NDArray[np.uint64], base: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return source and target row of every word of an object that points into another."""
    near = np.flatnonzero((words >= start[0]) & (words < end[-1]))
    target = numpy_lookup(start, end, words[near])
    places = np.uint64(base) + near.astype(np.uint64) * np.uint64(8)
    source = numpy_lookup(start, end, places)
    kept = (target >= 0) & (source >= 0) & (source != target)
    return source[kept], target[kept]


def bisect_lookup(start: Sequence[int], end: Sequence[int], values: Sequence[int]) -> list[int]:
    """Do as `numpy_lookup` does, word by word on sorted lists."""
    rows = []
    for value in values:
        row = bisect_right(start, value) - 1
        rows.append(row if row >= 0 and value < end[row] else -1)
    return rows


def make_tree(start: Sequence[int], end: Sequence[int]) -> IntervalTree:
    """Index the objects in an interval tree."""
    return IntervalTree.from_tuples(zip(start, end, range(len(start)), strict=True))


def tree_lookup(tree: IntervalTree, values: Sequence[int]) -> list[int]:
    """Do as `numpy_lookup` does, word by word in an interval tree."""
    rows = []
    for value in values:
        found = tree.at(value)
        rows.append(next(iter(found)).data if found else -1)
    return rows
