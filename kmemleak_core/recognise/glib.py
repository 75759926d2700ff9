"""Turns objects that hold each other into nodes of GLib's doubly linked lists.

A node is data, next and previous (glib/glist.h). Neighbours must agree; a list of one node, and
a GSList, whose nodes hold nothing that could disagree, are not told. Before GLib 2.76 nodes lie in
blocks of GLib's own allocator unless ``G_SLICE=always-malloc`` says otherwise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import Recognised
from .blocks import fits
from .context import Context
from .links import ends_of


class GLibObjects:
    """Nodes of GList."""

    name = "glib"

    def recognise(
        self, context: Context, rows: NDArray[np.int64], asked: NDArray[np.int64]
    ) -> Recognised | None:
        """Return which objects are nodes; see `Recogniser`."""
        if not context.maps("libglib-2.0.so"):
            return None
        word = context.word
        size = context.objects.size[rows]
        at = np.flatnonzero(fits(np.full(rows.size, 3 * word, np.uint64), size))
        at = at[size[at] < 6 * word]
        start = context.objects.address[rows[at]]
        (following, before), there = context.read(start, word, 2 * word)
        good = there.all(axis=0) & (following | before != 0)
        good &= (following == 0) | (context.read(following, 2 * word)[0][0] == start)
        good &= (before == 0) | (context.read(before, word)[0][0] == start)
        good &= (following != start) & (before != start)
        at, start, following, before = at[good], start[good], following[good], before[good]
        # Both ways lead along nodes to an end: what does not is a ring, or another list.
        for link in (following, before) if at.size else ():
            position = np.minimum(np.searchsorted(start, link), at.size - 1)
            step = np.where(start[position] == link, position, at.size + (link != 0))
            at = np.where(ends_of(step, start.size, 2) == start.size, at, -1)
        code = np.full(rows.size, -1, np.int32)
        code[at[at >= 0]] = 0
        return Recognised(code, ("GList node",))
