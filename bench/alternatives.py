"""What a user would write instead of the engine: numpy, scipy, bisect, a dict, intervaltree."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from intervaltree import IntervalTree
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order


def numpy_lookup(
    start: NDArray[np.uint64], end: NDArray[np.uint64], values: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Return the row of the object that holds each value, −1 for none."""
    row = np.searchsorted(start, values, side="right") - 1
    return np.where((row >= 0) & (values < end[row]), row, -1)


def numpy_scan(
    start: NDArray[np.uint64], end: NDArray[np.uint64], words: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """Filter words by the objects' bounds, then look up what is left."""
    return numpy_lookup(start, end, words[(words >= start[0]) & (words < end[-1])])


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


def walk_by_scipy(
    offsets: NDArray[np.int64], rows: NDArray[np.int64], count: int, roots: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Walk a graph from its roots: the usual library's answer; one node more refers to them."""
    hub = np.append(offsets, offsets[-1] + roots.size)
    ones = np.ones(hub[-1], dtype=np.int8)
    graph = csr_array((ones, np.append(rows, roots), hub), shape=(count + 1,) * 2)
    found: NDArray[np.int32] = breadth_first_order(graph, count, return_predecessors=False)
    return found


def networkx_graph(
    offsets: NDArray[np.int64], rows: NDArray[np.uint32], roots: NDArray[np.uint32]
) -> Any:
    """Return networkx's graph, in which one node more refers to the roots."""
    import networkx

    return networkx.DiGraph(_edges(offsets, rows, roots))


def rustworkx_graph(
    offsets: NDArray[np.int64], rows: NDArray[np.uint32], roots: NDArray[np.uint32]
) -> Any:
    """Return rustworkx's graph, in which one node more refers to the roots."""
    import rustworkx

    graph = rustworkx.PyDiGraph()
    graph.add_nodes_from(range(offsets.size))
    graph.add_edges_from_no_data(_edges(offsets, rows, roots))
    return graph


def _edges(
    offsets: NDArray[np.int64], rows: NDArray[np.uint32], roots: NDArray[np.uint32]
) -> list[tuple[int, int]]:
    n = offsets.size - 1
    sources = np.repeat(np.arange(n), np.diff(offsets)).tolist()
    edges = list(zip(sources, rows.tolist(), strict=True))
    return edges + [(n, root) for root in roots.tolist()]


#: Who makes a graph for `dominators_by`.
GRAPHS = {"networkx": networkx_graph, "rustworkx": rustworkx_graph}


def dominators_by(tool: str, graph: Any, top: int) -> dict[int, int]:
    """Return the immediate dominator of each node that a node leads to."""
    found: dict[int, int] = import_module(tool).immediate_dominators(graph, top)
    return found


def bisect_scan(start: Sequence[int], end: Sequence[int], words: Sequence[int]) -> list[int]:
    """Look up, word by word on sorted lists, what lies within the objects' bounds."""
    low, high = start[0], end[-1]
    rows = []
    for value in words:
        if low <= value < high:
            row = bisect_right(start, value) - 1
            rows.append(row if value < end[row] else -1)
    return rows


def dict_scan(rows_of: Mapping[int, int], words: Sequence[int]) -> list[int]:
    """Look every word up in a dict of the objects' starts: pointers to an inside are missed."""
    return [rows_of[value] for value in words if value in rows_of]


def make_tree(start: Sequence[int], end: Sequence[int]) -> IntervalTree:
    """Index the objects in an interval tree."""
    return IntervalTree.from_tuples(zip(start, end, range(len(start)), strict=True))


def tree_scan(tree: IntervalTree, words: Sequence[int]) -> list[int]:
    """Do as `bisect_scan` does, in an interval tree."""
    low, high = tree.begin(), tree.end()
    rows = []
    for value in words:
        if low <= value < high:
            found = tree.at(value)
            rows.append(next(iter(found)).data if found else -1)
    return rows
