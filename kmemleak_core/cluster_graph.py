"""Turns a leak table and one of its rows into that leak's cluster, small enough to be drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ._graph import search
from .errors import UsageError
from .leaks import LeakTable


@dataclass(frozen=True, slots=True, eq=False)
class ClusterGraph:
    """The leaks that one head leads to, and which of them refers to which.

    A leak that several heads lead to is in the cluster of each.

    Parameters
    ----------
    rows
        Rows of the leak table, ``(k,)`` ``int64``: the head, then what is fewer references away
        before what is more, equally near ones as they stand in the table.
    sources, targets
        Who refers to whom: indices into `rows`, ``(e,)`` ``int32``, each pair once, sorted by
        source, then by target. What refers to itself is not told.
    words
        How many words of the source refer to the target, ``(e,)`` ``int32``.
    left_out
        Members beyond the limit.
    """

    rows: NDArray[np.int64]
    sources: NDArray[np.int32]
    targets: NDArray[np.int32]
    words: NDArray[np.int32]
    left_out: int


def cluster_graph(leaks: LeakTable, row: int, limit: int = 1000) -> ClusterGraph:
    """Return the cluster that a leak is in: all that its head leads to.

    Takes time in proportion to all leaks and their references, whatever the limit.

    Parameters
    ----------
    leaks
        A full table.
    row
        Any leak; an indirect one stands for the cluster of its nearest head.
    limit
        Members to return, the nearest to the head; 0 for all.

    Raises
    ------
    IndexError
        The table has no such row.
    UsageError
        The table is a part of another one: references between leaks are told by the full one.
    """
    graph = leaks.graph
    if graph is None:
        raise UsageError("a part of a leak table does not tell of references: take the full one")
    head = int(leaks["head"][row])
    offsets, references = graph.offsets, graph.targets
    _, depth = search(offsets, references, head, np.zeros(len(leaks), np.uint8))
    members = np.flatnonzero(depth >= 0)
    rows = members[np.argsort(depth[members], kind="stable")][: limit or None]

    # Their references, all in one column: each one's run of the compressed rows.
    begin, length = offsets[rows], offsets[rows + 1] - offsets[rows]
    sources = np.repeat(np.arange(rows.size), length)
    within = np.arange(sources.size) - np.repeat(np.cumsum(length) - length, length)
    index = np.full(len(leaks), -1, np.int32)
    index[rows] = np.arange(rows.size)
    targets = index[references[np.repeat(begin, length) + within]]
    inner = (targets >= 0) & (targets != sources)
    pairs, words = np.unique(sources[inner] * rows.size + targets[inner], return_counts=True)
    return ClusterGraph(
        rows,
        (pairs // rows.size).astype(np.int32),
        (pairs % rows.size).astype(np.int32),
        words.astype(np.int32),
        members.size - rows.size,
    )


def largest_cluster(leaks: LeakTable) -> int | None:
    """Return the head that is the nearest one of the most leaks, of the most bytes among equals.

    None without leaks.
    """
    if not len(leaks):
        return None
    head = leaks["head"]
    members = np.bincount(head, minlength=len(leaks))
    nbytes = np.bincount(head, weights=leaks["size"], minlength=len(leaks))
    return int(np.lexsort((-nbytes, -members))[0])
