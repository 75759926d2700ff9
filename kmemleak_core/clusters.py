"""Turns references between leaks into clusters: heads, what each leads to, who owns what alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ._graph import flood, strong_components, subgraph


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
        ``(k,)`` ``uint32`` rows of the table; a row occurs once for every referencing word.
    """

    offsets: NDArray[np.int64]
    targets: NDArray[np.uint32]

    @classmethod
    def empty(cls, n: int) -> LeakGraph:
        """Return the graph of n leaks that do not refer to each other."""
        return cls(np.zeros(n + 1, np.int64), np.empty(0, np.uint32))

    def sources(self) -> NDArray[np.int32]:
        """Return the row that each reference comes from, ``(k,)``."""
        rows = np.arange(self.offsets.size - 1, dtype=np.int32)
        return np.repeat(rows, np.diff(self.offsets))


def leak_graph(references: References | None, rows: NDArray[np.int64]) -> LeakGraph:
    """Cut the rows of leaks, and their references to leaks, out of the whole graph."""
    if references is None or not rows.size:
        return LeakGraph.empty(rows.size)
    return LeakGraph(*subgraph(references.offsets, references.targets, rows))


def cluster_heads(
    graph: LeakGraph, order: NDArray[np.int64], rank: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Return which leaks head a cluster: one in every component that no other refers to.

    Of several members it is one that `rank` tells, if any, then the one that most references
    enter, then the first in the order of allocation.
    """
    label, components = strong_components(graph.offsets, graph.targets)
    entered = np.zeros(components, np.bool_)
    of_target = label[graph.targets]
    entered[of_target[label[graph.sources()] != of_target]] = True
    direct = ~entered[label]
    # Most of them are alone in their component; of several, the one that ranks first.
    crowded = np.bincount(label, minlength=components) > 1
    rivals = np.flatnonzero(direct & crowded[label])
    if rivals.size:
        indegree = np.bincount(graph.targets, minlength=order.size)
        last = np.zeros(rivals.size, np.bool_) if rank is None else ~rank[rivals]
        ranked = rivals[np.lexsort((order[rivals], -indegree[rivals], last, label[rivals]))]
        direct[ranked] = np.append(True, label[ranked[1:]] != label[ranked[:-1]])
    return direct


def nearest_heads(
    graph: LeakGraph, heads: NDArray[np.int64], order: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Return the nearest head of each leak, the first allocated among equally near ones."""
    if heads.size == 1:  # which leads to all of them, be it over a long list
        return np.full(order.size, heads[0], np.int32)
    ranked = heads[np.argsort(order[heads], kind="stable")]
    return flood(graph.offsets, graph.targets, ranked)


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
        crossing = owner[graph.sources()] != owner[graph.targets]
        shared = graph.targets[crossing].astype(np.int64)
        owner[flood(graph.offsets, graph.targets, shared) >= 0] = -1
    owner[direct] = -1
    return owner
