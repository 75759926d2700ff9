"""Turns objects of a CPython interpreter into the names of their types, and what these own.

An object tells its type by address. Types are told by what they contain, with or without symbols:
``type`` is its own type. The layouts are those of CPython 3.6 to 3.14 (Include/object.h,
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
from .cpython_types import DICT, HAVE_GC, LIST, PRE_HEADER, PythonTypes

_CHUNK = 1 << 20
#: Bytes in front of an object: nothing; the collector's links; dict and weak references, too.
_IN_FRONT = (0, 16, 32)
_REFCOUNT, _TYPE = 0, 8
_LOW_HALF, _NO_COUNT = np.uint64(0xFFFFFFFF), np.uint64(0xFFFF00000000)

#: What objects own: the flag or the name of their types; where in them the block's address is;
#: where its number of elements is, how many more there are, and bytes of each (0: that is not
#: told); what it is called.
_OWNED = (
    (LIST, 24, 32, 0, 8, "list items"),
    (DICT, 32, 16, 0, 0, "dict keys"),
    ("set", 40, 32, 1, 16, "set table"),
    ("frozenset", 40, 32, 1, 16, "set table"),
)
#: Words in front of an object that may hold where its attributes are (3.11, and 3.12), and how far
#: behind their block's beginning that may be.
_ATTRIBUTES, _FAR = (0, 8), np.uint64(512)


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
        at, types_of, objects, in_front = _objects(context, types, rows)
        different, which = np.unique(types_of, return_inverse=True)
        names = [types.name(one) for one in different.tolist()]
        code = np.full(rows.size, -1, np.int32)
        told = coded(names, which, code, at)
        told += (what for *_, what in _OWNED)
        told.append("attributes")
        unknown = np.zeros(len(context.objects), np.bool_)
        unknown[rows[code < 0]] = True
        for place, row in context.references(asked):
            left = unknown[row]
            place, row = place[left], row[left]
            for owner, offset, count, more, width, what in _OWNED:
                of = place - np.uint64(offset)
                number, right = _owned(context, types, owner, of, count)
                held = row[right]
                if width:
                    wanted = (number[right] + np.uint64(more)) * np.uint64(width)
                    held = held[fits(wanted, context.objects.size[held])]
                _mark(rows, held, told.index(what), code)
        _mark(rows, _attributes(context, objects[in_front]), len(told) - 1, code)
        return Recognised(code, told)


def _mark(
    rows: NDArray[np.int64], which: NDArray[np.int64], number: int, code: NDArray[np.int32]
) -> None:
    """Give objects without a type one."""
    position = np.minimum(np.searchsorted(rows, which), rows.size - 1)
    position = position[rows[position] == which]
    code[position[code[position] < 0]] = number


def _objects(
    context: Context, types: PythonTypes, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_]]:
    """Return which rows are objects, their types, where they begin, and whether late."""
    found = []
    collected = 0
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
            # Before 3.8 the collector took 32 bytes, and there were no such flags.
            kept &= (flags & PRE_HEADER != 0) | (front < 32) | (collected == 0)
            at = at[kept]
            collected += at.size if front == 16 else 0
            late = np.full(at.size, front == _IN_FRONT[-1])
            found.append((begin + left[at], type_[at], start[at] + np.uint64(front), late))
            left = np.delete(left, at)
    if not found:
        return (
            np.empty(0, np.int64),
            np.empty(0, np.uint64),
            np.empty(0, np.uint64),
            np.empty(0, bool),
        )
    at, kinds, starts, lates = (np.concatenate(column) for column in zip(*found, strict=True))
    return at, kinds, starts, lates


def _owned(
    context: Context,
    types: PythonTypes,
    owner: np.uint64 | str,
    objects: NDArray[np.uint64],
    count: int,
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Return how many elements objects have, and which of these places are such objects."""
    (references, type_, number), there = context.read(objects, _REFCOUNT, _TYPE, count)
    right = there.all(axis=0) & (references & _LOW_HALF != 0) & (number < np.uint64(1 << 40))
    at = np.flatnonzero(right)
    known, flags, _ = types.of(type_[at])
    if isinstance(owner, str):
        right[at] = known & np.isin(type_[at], types.called(owner, type_[at][known]))
    else:
        right[at] = known & (flags & owner != 0)
    return number, right


def _attributes(context: Context, objects: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the rows of the blocks where objects keep their attributes without a dict."""
    found = [np.empty(0, np.int64)]
    starts, sizes = context.objects.address, context.objects.size
    for offset in _ATTRIBUTES:
        (values,), _ = context.read(objects - np.uint64(32), offset)
        values &= ~np.uint64(1)
        row = np.searchsorted(starts, values, side="right") - 1
        far = values - starts[row]
        found.append(row[(row >= 0) & (far > 0) & (far < np.minimum(sizes[row], _FAR))])
    return np.unique(np.concatenate(found))
