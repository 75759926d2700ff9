"""Turns groups of leaks into trees of what their heads lead to, a group of objects a line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

import numpy as np

from .._graph import unfold
from ..clusters import LeakGraph, sole_owner
from ..leaks import LeakGroup, LeakTable
from .escape import printable
from .model import RenderOptions, Report
from .select import shown_shape
from .terminal import Line
from .units import count_text, size_text

#: So many nodes at most, and so many below each other: what is further down is told in a sum.
_MOST_NODES = 1 << 16
_DEEPEST = 16


@dataclass(slots=True)
class Node:
    """Objects of one group that those of the node above lead to.

    Parameters
    ----------
    group
        Index of their group.
    count, nbytes
        How many, and their bytes.
    whole_count, whole_bytes
        The same with everything below.
    rest_count, rest_bytes
        What is somewhere below without a node of its own.
    children
        The nodes below, the most bytes first.
    """

    group: int
    count: int = 0
    nbytes: int = 0
    whole_count: int = 0
    whole_bytes: int = 0
    rest_count: int = 0
    rest_bytes: int = 0
    children: list[Node] = field(default_factory=list)


class Trees:
    """What the heads of each group lead to, and nothing else does; and what several lead to.

    Parameters
    ----------
    leaks
        A full table.
    groups
        Its groups.
    """

    def __init__(self, leaks: LeakTable, groups: Sequence[LeakGroup]) -> None:
        table, size = leaks.array, leaks["size"]
        graph = leaks.graph or LeakGraph.empty(len(leaks))
        of = table["group"].astype(np.int64)
        owner = sole_owner(graph, table["head"], table["direct"], of)
        heads = np.flatnonzero(table["direct"])
        heads = heads[np.argsort(table["order"][heads], kind="stable")]
        node, rest, parent, group = unfold(
            graph.offsets,
            graph.targets,
            heads,
            of,
            (owner >= 0).view(np.uint8),
            len(groups),
            _MOST_NODES,
            _DEEPEST,
        )
        below = (node >= 0) & ~table["direct"]
        sums = []
        for which in (below & (rest == 0), below & (rest == 1)):
            nbytes = np.zeros(parent.size, np.uint64)
            np.add.at(nbytes, node[which], size[which])
            sums.append((np.bincount(node[which], minlength=parent.size).tolist(), nbytes.tolist()))
        nodes = [
            Node(of, count, nbytes, count + more, nbytes + more_bytes, more, more_bytes)
            for of, count, nbytes, more, more_bytes in zip(
                group.tolist(), *sums[0], *sums[1], strict=True
            )
        ]
        for index in range(len(nodes) - 1, len(groups) - 1, -1):
            above = nodes[int(parent[index])]
            above.whole_count += nodes[index].whole_count
            above.whole_bytes += nodes[index].whole_bytes
            above.children.append(nodes[index])
        for one in nodes:
            one.children.sort(key=lambda child: (-child.whole_bytes, child.group))
        self.roots = nodes[: len(groups)]
        shared = (owner < 0) & ~table["direct"]
        counts = np.bincount(of[shared], minlength=len(groups))
        nbytes = np.zeros(len(groups), np.uint64)
        np.add.at(nbytes, of[shared], size[shared])
        self.shared = [
            (index, n, total)
            for index, (n, total) in enumerate(zip(counts.tolist(), nbytes.tolist(), strict=True))
            if n
        ]
        self.shared.sort(key=lambda one: (-one[2], one[0]))


def tree_lines(
    report: Report, trees: Trees, index: int, options: RenderOptions, line: Line, limit: int
) -> None:
    """Write what the heads of a group lead to: at most `limit` lines, 0 for all."""
    root = trees.roots[index]
    shown = _largest(root, limit)
    for prefix, node, rest in _walk(root, shown, "    "):
        if node is None:
            count, nbytes = rest
            line(f"{prefix}and {count_text(count, 'more object')}, {size_text(nbytes)}")
            continue
        line(prefix, *_told(report, report.groups[node.group], node.count, node.nbytes, options))


def shared_lines(
    report: Report, trees: Trees, options: RenderOptions, line: Line, limit: int
) -> None:
    """Write what heads of more than one group lead to: at most `limit` lines, 0 for all."""
    if not trees.shared:
        return
    line()
    line(("Indirectly leaked: heads of more than one of these groups lead to them", "bold"))
    shown = trees.shared[:limit] if limit > 0 else trees.shared
    for index, count, nbytes in shown:
        line("  ", *_told(report, report.groups[index], count, nbytes, options))
    rest = trees.shared[len(shown) :]
    if rest:
        count, nbytes = sum(one[1] for one in rest), sum(one[2] for one in rest)
        line(
            f"  and {count_text(len(rest), 'more group')}: {count_text(count, 'object')},"
            f" {size_text(nbytes)} (--limit 0 shows all)"
        )


def _told(
    report: Report, group: LeakGroup, count: int, nbytes: int, options: RenderOptions
) -> Iterator[str | tuple[str, str]]:
    title = count_text(count, "object")
    title += f" of {count_text(group.size, 'byte')}" if group.size is not None else ""
    yield title + (f", {size_text(nbytes)}" if count > 1 or group.size is None else "")
    yield "  "
    if group.origin.kind:
        yield (f"{printable(group.origin.kind)}  ", "bold")
    yield (f"[{shown_shape(group, options)}]", "cyan")


def _largest(root: Node, limit: int) -> set[int] | None:
    """Choose the nodes to show, by identity: the most bytes first, none before what it is below."""
    if limit <= 0:
        return None
    chosen: set[int] = set()
    waiting: list[tuple[int, int, Node]] = []
    ticket = 0
    for node in root.children:
        heappush(waiting, (-node.whole_bytes, ticket := ticket + 1, node))
    while waiting and len(chosen) < limit:
        _, _, node = heappop(waiting)
        chosen.add(id(node))
        for child in node.children:
            heappush(waiting, (-child.whole_bytes, ticket := ticket + 1, child))
    return chosen


def _walk(
    node: Node, shown: set[int] | None, indent: str
) -> Iterator[tuple[str, Node | None, tuple[int, int]]]:
    """Yield the lines below a node: how each begins, its node, or what is left out there."""
    children = [c for c in node.children if shown is None or id(c) in shown]
    left_out = [c for c in node.children if shown is not None and id(c) not in shown]
    count = node.rest_count + sum(c.whole_count for c in left_out)
    nbytes = node.rest_bytes + sum(c.whole_bytes for c in left_out)
    last = len(children) - (not count)
    for position, child in enumerate(children):
        end = position == last
        yield indent + ("└─ " if end else "├─ "), child, (0, 0)
        yield from _walk(child, shown, indent + ("   " if end else "│  "))
    if count:
        yield indent + "└─ ", None, (count, nbytes)
