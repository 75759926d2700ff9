"""Turns references between leaks into clusters: heads, what each leads to, who owns what alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

#: The low bits of a reference's target are the object's row, the others its kind.
_ROW = np.uint32((1 << 30) - 1)


class References(Protocol):
    """A reference graph in compressed rows.

    Attributes
    ----------
    offsets : ndarray of int64, shape (n + 1,)
        References of object i are entries ``offsets[i]:offsets[i + 1]``.
    targets : ndarray of uint32
        Low 30 bits: row of the object referred to. Top two bits: how (0 its start, 1 its
        interior, 2 one past its end).
    """

    @property
    def offsets(self) -> NDArray[np.int64]: ...  # noqa: D102
    @property
    def targets(self) -> NDArray[np.uint32]: ...  # noqa: D102


@dataclass(frozen=True, slots=True, eq=False)
class LeakGraph:
    """References between leaks, in compressed rows over the rows of a `LeakTable`.

    Parameters
    ----------
    offsets
        ``(m + 1,)`` ``int64``.
    targets
        ``(k,)`` ``int32`` rows of the table; a row occurs once for every referencing word.
    """

    offsets: NDArray[np.int64]
    targets: NDArray[np.int32]

    @classmethod
    def empty(cls, n: int) -> LeakGraph:
        """Return the graph of n leaks that do not refer to each other."""
        return cls(np.zeros(n + 1, np.int64), np.empty(0, np.int32))

    def sources(self) -> NDArray[np.int32]:
        """Return the row that each reference comes from, ``(k,)``."""
        rows = np.arange(self.offsets.size - 1, dtype=np.int32)
        return np.repeat(rows, np.diff(self.offsets))


def leak_graph(references: References | None, rows: NDArray[np.int64], n: int) -> LeakGraph:
    """Cut the rows of leaks, and their references to leaks, out of the whole graph."""
    if references is None or not rows.size:
        return LeakGraph.empty(rows.size)
    begins = references.offsets[rows]
    lengths = references.offsets[rows + 1] - begins
    limits = np.concatenate(([0], np.cumsum(lengths)))
    where = np.repeat(begins - limits[:-1], lengths) + np.arange(limits[-1])
    new_row = np.full(n, -1, np.int32)
    new_row[rows] = np.arange(rows.size, dtype=np.int32)
    targets = new_row[references.targets[where] & _ROW]
    kept = targets >= 0
    kept_before = np.concatenate(([0], np.cumsum(kept)))
    return LeakGraph(kept_before[limits].astype(np.int64), targets[kept])


def cluster_heads(graph: LeakGraph, order: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which leaks head a cluster: one in every component that no other refers to."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    n = order.size
    matrix = csr_matrix(
        (np.ones(graph.targets.size), graph.targets.copy(), graph.offsets.astype(np.int32)),
        shape=(n, n),
    )
    # With an entry given twice, scipy's search for strong components never ends.
    matrix.sum_duplicates()
    components, label = connected_components(matrix, directed=True, connection="strong")
    entered = np.zeros(components, np.bool_)
    of_target = label[graph.targets]
    entered[of_target[label[graph.sources()] != of_target]] = True
    candidates = np.flatnonzero(~entered[label])
    indegree = np.bincount(graph.targets, minlength=n)
    ranked = candidates[np.lexsort((order[candidates], -indegree[candidates], label[candidates]))]
    _, firsts = np.unique(label[ranked], return_index=True)
    direct = np.zeros(n, np.bool_)
    direct[ranked[firsts]] = True
    return direct


def nearest_heads(
    graph: LeakGraph, heads: NDArray[np.int64], order: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the nearest head of each leak, the first allocated among equally near ones."""
    n = order.size
    ranked = heads[np.argsort(order[heads], kind="stable")]
    _, parent = _flood(graph, ranked)
    ancestor = parent[:n].astype(np.int64)
    ancestor[heads] = heads
    while True:  # each round doubles the reach: log2 of the longest chain rounds
        further = ancestor[ancestor]
        if np.array_equal(further, ancestor):
            return ancestor
        ancestor = further


def _flood(
    graph: LeakGraph, starts: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Breadth-first from several rows: the rows reached (starts included), and their parents.

    An extra row n refers to every start, so that one search does them all in their order.
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import breadth_first_order

    n = graph.offsets.size - 1
    targets = np.concatenate((graph.targets, starts.astype(np.int32)))
    offsets = np.append(graph.offsets, targets.size).astype(np.int32)
    matrix = csr_matrix((np.ones(targets.size), targets, offsets), shape=(n + 1, n + 1))
    reached, parent = breadth_first_order(matrix, n, directed=True)
    return reached[1:], parent


def sole_owner(
    graph: LeakGraph,
    head: NDArray[np.int64],
    direct: NDArray[np.bool_],
    group: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return the one group whose heads lead to each indirect leak; −1 for several, and for heads.

    ``head`` labels every leak with a head that leads to it. A leak is reached from two groups
    exactly if it, or a leak that leads to it, is referred to from a leak of another label.
    """
    owner = group[head]
    if graph.targets.size:
        label = owner.copy()
        crossing = label[graph.sources()] != label[graph.targets]
        shared = np.unique(graph.targets[crossing]).astype(np.int64)
        if shared.size:
            reached, _ = _flood(graph, shared)
            owner[reached] = -1
    owner[direct] = -1
    return owner
