"""Turns objects that hold each other into nodes of std::list and std::map, std::set.

Only whole containers count: the links of all their nodes agree with each other, and the container
itself, wherever it is, holds their number. Layout: libstdc++'s since GCC 5 (bits/stl_list.h,
bits/stl_tree.h); another library's nodes are not told.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import Recognised
from .context import Context
from .links import ends_of

_NAMES = ("std::list node", "std::list", "std::map/set node", "std::map/set")
_NODE, _LIST, _TREE, _MAP = range(4)
#: Words of a map; its links come behind the first.
_MAP_WORDS = 6


class CxxNodes:
    """Nodes of linked containers."""

    name = "c++-nodes"

    def recognise(
        self, context: Context, rows: NDArray[np.int64], asked: NDArray[np.int64]
    ) -> Recognised | None:
        """Return which objects are nodes; see `Recogniser`."""
        if not context.has_libstdcxx or not rows.size:
            return None
        code = np.full(rows.size, -1, np.int32)
        _lists(context, rows, code)
        _trees(context, rows, code)
        return Recognised(code, _NAMES)


def _lists(context: Context, rows: NDArray[np.int64], code: NDArray[np.int32]) -> None:
    """Mark nodes of lists: rings through one place behind whose links the number of others is."""
    word = context.word
    start, size = context.objects.address[rows], context.objects.size[rows]
    (following, before), there = context.read(start, 0, word)
    at = np.flatnonzero(
        there.all(axis=0) & (size > 2 * word) & (following != start) & (before != start)
    )
    at = at[context.read(following[at], word)[0][0] == start[at]]
    at = at[context.read(before[at], 0)[0][0] == start[at]]
    if not at.size:
        return
    start, following, before = start[at], following[at], before[at]
    # Where no node begins, the container does.
    position = np.minimum(np.searchsorted(start, following), at.size - 1)
    ends = start[position] != following
    containers, which = np.unique(following[ends], return_inverse=True)
    step = np.where(ends, 0, position)
    step[ends] = at.size + which
    head = ends_of(step, at.size, containers.size)
    open_ = head >= at.size
    number = np.bincount(head[open_] - at.size, minlength=containers.size)
    held = context.read(containers, 2 * word)[0][0]
    counted = held == number.astype(np.uint64)
    # The first node's other link leads to the same place.
    position = np.minimum(np.searchsorted(start, before), at.size - 1)
    first = np.flatnonzero(open_ & (start[position] != before))
    closing = np.zeros(containers.size, np.bool_)
    closing[head[first] - at.size] = containers[head[first] - at.size] == before[first]
    counted &= closing
    good = np.zeros(at.size, bool)
    good[open_] = counted[head[open_] - at.size]
    # A ring of nothing but objects: the list itself was allocated, too.
    ring = head[~open_]
    length = np.bincount(ring, minlength=at.size)
    (third,), _ = context.read(start, 2 * word)
    closed = np.flatnonzero(~open_)
    lists = closed[third[closed] + np.uint64(1) == length[head[closed]].astype(np.uint64)]
    with_list = np.zeros(at.size, np.int64)
    np.add.at(with_list, head[lists], 1)
    good[closed] = with_list[head[closed]] > 0
    code[at[good]] = _NODE
    # A node's value may be that number as well: then no one tells which of them is the list.
    code[at[lists[with_list[head[lists]] == 1]]] = _LIST


def _trees(context: Context, rows: NDArray[np.int64], code: NDArray[np.int32]) -> None:
    """Mark nodes of red-black trees whose container, above the root, holds their number."""
    word = np.uint64(context.word)
    at = np.flatnonzero((code < 0) & (context.objects.size[rows] > 4 * word))
    (colour,), there = context.read(context.objects.address[rows[at]], 0, size=4)
    at = at[there[0] & (colour <= 1)]
    start = context.objects.address[rows[at]]
    (parent, left, right), there = context.read(start, *(i * context.word for i in (1, 2, 3)))
    good = there.all(axis=0) & (parent != 0)
    above, _ = context.read(parent, *(i * context.word for i in (1, 2, 3)))
    # The parent of the root is the container, which has the root for its own parent.
    is_root = above[0] == start
    good &= (above == start).any(axis=0)
    for child in (left, right):
        good &= (child == 0) | (context.read(child, context.word)[0][0] == start)
    at, start, parent, is_root = at[good], start[good], parent[good], is_root[good]
    if not at.size:
        return
    containers, which = np.unique(parent[is_root], return_inverse=True)
    position = np.minimum(np.searchsorted(start, parent), at.size - 1)
    inside = (start[position] == parent) & ~is_root
    # What hangs on something else belongs to no tree: one more end takes it.
    step = np.where(inside, position, at.size + containers.size)
    step[is_root] = at.size + which
    head = ends_of(step, at.size, containers.size + 1)
    of = head - at.size
    number = np.bincount(of[of >= 0], minlength=containers.size + 1)[:-1]
    # The number of nodes stands behind the colour, the parent and two more links.
    held = context.read(containers, 4 * context.word)[0][0]
    counted = np.append(held == number.astype(np.uint64), False)
    code[at[(of >= 0) & counted[np.maximum(of, 0)]]] = _TREE
    own = context.row_at(containers[counted[:-1]] - word)
    own = own[(own >= 0) & (context.objects.size[own] < (_MAP_WORDS + 2) * word)]
    position = np.minimum(np.searchsorted(rows, own), rows.size - 1)
    code[position[rows[position] == own]] = _MAP
