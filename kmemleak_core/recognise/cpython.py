"""Turns objects of a CPython interpreter into the names of their types, and what these own.

An object tells its type by address. Types are told by what they contain, with or without symbols:
``type`` is its own type. The layouts are those of CPython 3.9 to 3.14 (Include/object.h,
Include/internal/pycore_gc.h) for 64-bit machines, not of its free-threaded build. Small objects
lie in pymalloc's arenas unless it is switched off; no allocator's list has these, so that only
larger ones, and buffers, are blocks.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import Recognised
from .blocks import coded, fits
from .context import Context
from .cpython_types import HAVE_GC, PRE_HEADER, PythonTypes

_CHUNK = 1 << 20
#: Bytes in front of an object: nothing; the collector's links; dict and weak references, too.
_IN_FRONT = (0, 16, 32)
_REFCOUNT, _TYPE = 0, 8
_LOW_HALF, _NO_COUNT = np.uint64(0xFFFFFFFF), np.uint64(0xFFFF00000000)

#: What objects own: the type, where the block's address is, where its number of elements is
#: (None: it is not in the object), bytes of an element, and what it is called.
_OWNED = (
    ("list", 24, 32, 0, 8, "list items"),
    ("dict", 32, None, 0, 0, "dict keys"),
    ("set", 40, 32, 1, 16, "set table"),
)


class CPythonObjects:
    """Objects of Python programs."""

    name = "cpython"

    def recognise(
        self, context: Context, rows: NDArray[np.int64], asked: NDArray[np.int64]
    ) -> Recognised | None:
        """Return the types of objects; see `Recogniser`."""
        if context.word != 8:
            return None
        types = PythonTypes.find(context)
        if types is None:
            return None
        at, types_of, objects = _objects(context, types, rows)
        different, which = np.unique(types_of, return_inverse=True)
        names = [types.name(one) for one in different.tolist()]
        code = np.full(rows.size, -1, np.int32)
        told = coded(names, which, code, at)
        for owner, place, count, more, width, what in _OWNED:
            if owner not in told:
                continue
            of = objects[code[at] == told.index(owner)]
            owned = _owned(context, of, place, count, more, width)
            position = np.minimum(np.searchsorted(rows, owned), rows.size - 1)
            position = position[rows[position] == owned]
            code[position[code[position] < 0]] = len(told)
            told.append(what)
        return Recognised(code, told)


def _objects(
    context: Context, types: PythonTypes, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint64]]:
    """Return which rows are objects, the addresses of their types, and their own."""
    found: list[tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint64]]] = []
    for begin in range(0, rows.size, _CHUNK):
        some = rows[begin : begin + _CHUNK]
        left = np.arange(some.size)
        for front in _IN_FRONT:
            start = context.objects.address[some[left]]
            room = context.objects.size[some[left]]
            (count, type_), there = context.read(start, front + _REFCOUNT, front + _TYPE)
            good = there.all(axis=0) & (room >= front + 16)
            # Of a freed object that is kept for reuse the count is 0; an immortal one has flags.
            good &= (count & _LOW_HALF != 0) & (count & _NO_COUNT == 0)
            at = np.flatnonzero(good)
            known, flags, least = types.of(type_[at])
            kept = known & (least + np.uint64(front) <= room[at])
            kept &= (flags & HAVE_GC != 0) == (front > 0)
            kept &= (flags & PRE_HEADER != 0) | (front < 32)
            at, kinds = at[kept], type_[at[kept]]
            found.append((begin + left[at], kinds, start[at] + np.uint64(front)))
            left = np.delete(left, at)
    return (
        np.concatenate([one[0] for one in found]),
        np.concatenate([one[1] for one in found]),
        np.concatenate([one[2] for one in found]),
    )


def _owned(
    context: Context,
    objects: NDArray[np.uint64],
    place: int,
    count: int | None,
    more: int,
    width: int,
) -> NDArray[np.int64]:
    """Return the rows of the blocks that objects own."""
    (block, number), there = context.read(objects, place, count or 0)
    row = context.row_at(block)
    at = np.flatnonzero(there.all(axis=0) & (row >= 0))
    row, number = row[at], number[at]
    if count is None:
        return row
    few = number < np.uint64(1 << 40)
    wanted = (np.where(few, number, np.uint64(0)) + np.uint64(more)) * np.uint64(width)
    return row[few & fits(wanted, context.objects.size[row])]
