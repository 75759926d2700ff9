"""Turns instances of GObject types into the names of these, without symbols.

An instance begins with its class's address, a class with its type's, and that is a node that holds
its own address as the first of its supertypes and, behind it, its class's. Its name is a number
in a table of texts of GLib's. Layouts: glib/gobject/gtype.c (``TypeNode``, ``InstanceData``)
since GLib 2.36, on 64-bit machines; private data stands in front of an instance. Before GLib 2.76
instances lie in blocks of GLib's own allocator unless ``G_SLICE=always-malloc`` says otherwise.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from . import Recognised
from .blocks import coded, fits
from .context import Context

#: Of a node: what it is like, its name, the first supertype.
_DATA, _NAME, _SUPERTYPES = 32, 40, 72
#: Of what an instance is like: its class; its size and that of its private data.
_CLASS, _SIZE, _PRIVATE = 56, 64, 66
#: Private data, and what is in front of an instance, come in so many bytes.
_ALIGNED = np.uint64(16)
_MOST_CLASSES = 1 << 14
_IDENTIFIER = re.compile(rb"[A-Za-z_][\w+-]{0,254}")
#: Texts that a table of them must begin with to be taken for one, and how long one may be.
_FIRST, _LONGEST = 16, 256
#: Ranges of GLib's variables that are looked at, and blocks of each.
_MOST_RANGES, _MOST_TABLES = 8, 64


class GObjects:
    """Instances of types that GObject knows."""

    name = "gobject"

    def recognise(
        self, context: Context, rows: NDArray[np.int64], asked: NDArray[np.int64]
    ) -> Recognised | None:
        """Return the types of instances; see `Recogniser`."""
        if context.word != 8 or not context.maps("libgobject-2.0.so"):
            return None
        code = np.full(rows.size, -1, np.int32)
        classes, nodes, size, front = _classes(context)
        names = _names(context, nodes) if classes.size else []
        found = [np.empty(0, np.int64)]
        which = [np.empty(0, np.int64)]
        start, room = context.objects.address[rows], context.objects.size[rows]
        for before in np.unique(front):
            (words,), _ = context.read(start, int(before))
            at = np.minimum(np.searchsorted(classes, words), classes.size - 1)
            good = (classes[at] == words) & (front[at] == before)
            good &= fits(before + size[at], room)
            found.append(np.flatnonzero(good))
            which.append(at[good])
        told = coded(names, np.concatenate(which), code, np.concatenate(found)) if names else []
        return Recognised(code, told)


def _classes(context: Context) -> tuple[NDArray[np.uint64], ...]:
    """Return classes, rising: addresses, their nodes, sizes of instances, bytes in front."""
    starts = context.objects.address
    (node,), _ = context.read(starts, 0)
    at = np.flatnonzero((node > 4095) & (node & np.uint64(7) == 0))
    at = at[context.read(node[at], _SUPERTYPES)[0][0] == node[at]][:_MOST_CLASSES]
    (data,), _ = context.read(node[at], _DATA)
    good = context.read(data, _CLASS)[0][0] == starts[at]
    at, data = at[good], data[good]
    (size, private), _ = context.read(data, _SIZE, _PRIVATE, size=2)
    front = (private + _ALIGNED - np.uint64(1)) & ~(_ALIGNED - np.uint64(1))
    return starts[at], node[at], size, front


def _names(context: Context, nodes: NDArray[np.uint64]) -> list[str]:
    """Return the names of types; empty where no table of texts knows them."""
    (number,), _ = context.read(nodes, _NAME, size=4)
    for table in _tables(context):
        (text,), _ = context.read(np.uint64(table) + number * np.uint64(8), 0)
        names = [context.text(at, _LONGEST) for at in text.tolist()]
        if all(_IDENTIFIER.fullmatch(name) for name in names):
            return [name.decode("ascii") for name in names]
    return ["" for _ in nodes]


def _tables(context: Context) -> list[int]:
    """Return blocks that GLib's variables refer to and that begin with nothing, then texts."""
    found: list[int] = []
    ranges = [root for root in context.roots.ranges if "libglib-2.0.so" in root.name]
    for root in ranges[:_MOST_RANGES]:
        count = min(root.size, 1 << 20) // 8
        places = np.uint64(root.address) + np.arange(count, dtype=np.uint64) * np.uint64(8)
        (words,), _ = context.read(places, 0)
        (first, *texts), _ = context.read(words, *(8 * i for i in range(_FIRST)))
        good = (context.row_at(words) >= 0) & (first == 0) & (np.array(texts) != 0).all(axis=0)
        for i in np.flatnonzero(good)[:_MOST_TABLES].tolist():
            begins = (context.text(int(column[i]), _LONGEST) for column in texts)
            if all(text and text.isascii() for text in begins):
                found.append(int(words[i]))
    return found
