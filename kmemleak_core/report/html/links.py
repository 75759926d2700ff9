"""Turns references between leaks into those between groups, and into clusters to be drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._graph import flood, subgraph
from ...cluster_graph import cluster_graph
from ...clusters import LeakGraph
from ...leaks import LeakGroup, LeakTable
from ..model import Report

#: Members of a cluster that are drawn, and their references.
MEMBERS = 200
_REFERENCES = 600
#: Clusters that are drawn, and leaks that are looked at for them: a cluster takes a look at each.
CLUSTERS = 400
_LOOKS = 50_000_000


def group_links(report: Report, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the references between groups.

    Parameters
    ----------
    report
        Whose leaks refer to each other.
    positions
        Row in the page of each of the report's groups; −1 for those without one.

    Returns
    -------
    ndarray of int64, shape (k, 3)
        Rows of the page, from which and to which, and how many words; the most words first.
    """
    graph = report.leaks.graph
    if graph is None or not graph.targets.size or not positions.size:
        return np.empty((0, 3), np.int64)
    row = np.where(report.leaks["group"] >= 0, positions[report.leaks["group"]], -1)
    sources, targets = np.repeat(row, np.diff(graph.offsets)), row[graph.targets]
    n = int(positions.max()) + 1
    keys = (sources * n + targets)[(sources >= 0) & (targets >= 0)]
    pairs, words = np.unique(keys, return_counts=True)
    order = np.argsort(-words, kind="stable")
    pairs, words = pairs[order], words[order]
    return np.stack((pairs // n, pairs % n, words), axis=1)


def clusters(
    report: Report, groups: Sequence[tuple[int, LeakGroup]], positions: NDArray[np.int64]
) -> Iterator[dict[str, Any]]:
    """Yield the largest cluster of each group that heads one, for as many groups as is cheap.

    Parameters
    ----------
    report, positions
        As for `group_links`.
    groups
        Those that have a row in the page, in its order.

    Yields
    ------
    dict
        ``group``: row of the page; ``at``, ``size``, ``of``: the members' addresses (hexadecimal),
        sizes and rows of the page, the head first; ``from``, ``to``: who refers to whom, as
        numbers of members; ``more``, ``unseen``: members and references that are left out.
    """
    leaks = report.leaks
    if leaks.graph is None or not leaks.graph.targets.size:
        return
    heads = _largest_heads(leaks, groups)
    if not heads:
        return
    # What they lead to is cut out once: each of them then takes a look at that alone.
    rows = np.array([row for _, row in heads], np.int64)
    held = np.flatnonzero(flood(leaks.graph.offsets, leaks.graph.targets, rows) >= 0)
    part = LeakTable(
        leaks.array[held],
        LeakGraph(*subgraph(leaks.graph.offsets, leaks.graph.targets, held)),
    )
    part.array["head"] = np.arange(held.size)
    for index, row in heads[: max(1, _LOOKS // held.size)]:
        found = cluster_graph(part, int(np.searchsorted(held, row)), MEMBERS)
        if found.rows.size < 2:
            continue
        members = part.array[found.rows]
        of = np.where(members["group"] >= 0, positions[members["group"]], -1)
        yield {
            "group": int(positions[index]),
            "at": [f"{address:x}" for address in members["address"].tolist()],
            "size": members["size"].tolist(),
            "of": of.tolist(),
            "from": found.sources[:_REFERENCES].tolist(),
            "to": found.targets[:_REFERENCES].tolist(),
            "more": found.left_out,
            "unseen": max(0, found.sources.size - _REFERENCES),
        }


def _largest_heads(
    leaks: LeakTable, groups: Sequence[tuple[int, LeakGroup]]
) -> list[tuple[int, int]]:
    """Return the number of a group and its head that the most leaks are nearest to."""
    members = np.bincount(leaks["head"], minlength=len(leaks))
    found = []
    for index, group in groups:
        if not group.direct_count:
            continue
        rows = group.rows[leaks["direct"][group.rows]]
        row = int(rows[np.argmax(members[rows])])
        if members[row] > 1:
            found.append((index, row))
            if len(found) == CLUSTERS:
                break
    return found
