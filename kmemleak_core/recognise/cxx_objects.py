"""Turns objects that begin with a pointer to a C++ virtual table into the names of their classes.

Arrays of such objects that were made with ``new[]`` begin with the number of elements, in a word
or, where elements are aligned to two, behind one (Itanium C++ ABI, section 2.7).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import Recognised
from .context import Context

_CHUNK = 1 << 20


class CxxObjects:
    """Objects of classes with virtual functions, and arrays of these."""

    name = "c++-objects"

    def recognise(
        self, context: Context, rows: NDArray[np.int64], asked: NDArray[np.int64]
    ) -> Recognised | None:
        """Return the classes of objects; see `Recogniser`."""
        found: list[tuple[NDArray[np.int64], NDArray[np.uint64], bool]] = []
        for begin in range(0, rows.size, _CHUNK):
            some = rows[begin : begin + _CHUNK]
            address, size = context.objects.address[some], context.objects.size[some]
            words, there = context.read(address, 0, context.word, 2 * context.word)
            at = np.flatnonzero(context.in_files(words[0]) & there[0] & (size >= context.word))
            found.append((begin + at, words[0][at], False))
            for front in (1, 2):
                table = words[front]
                at = np.flatnonzero(context.in_files(table) & there[front])
                at = at[size[at] >= (front + 2) * context.word]
                count = words[front - 1][at]
                room = size[at] - np.uint64(front * context.word)
                array = address[at] + np.uint64(front * context.word)
                at = at[_is_array(context, array, room, count, table[at])]
                found.append((begin + at, table[at], True))
        at = np.concatenate([one[0] for one in found] or [np.empty(0, np.int64)])
        tables = np.concatenate([one[1] for one in found] or [np.empty(0, np.uint64)])
        is_array = np.repeat([one[2] for one in found], [one[0].size for one in found])
        number, names = context.virtual_tables.classes(tables)
        if not (number >= 0).any():
            return None
        code = np.full(rows.size, -1, np.int32)
        # What both might be begins with a table's address: it is no array.
        for arrays in (True, False):
            known = (number >= 0) & (is_array == arrays)
            code[at[known]] = number[known] + (len(names) if arrays else 0)
        return Recognised(code, [*names, *(f"{name}[]" for name in names)])


def _is_array(
    context: Context,
    address: NDArray[np.uint64],
    room: NDArray[np.uint64],
    count: NDArray[np.uint64],
    table: NDArray[np.uint64],
) -> NDArray[np.bool_]:
    """Return which ranges are so many objects that begin with the same word."""
    word = np.uint64(context.word)
    plausible = (count > 0) & (count <= room // word)
    number = np.where(plausible, count, np.uint64(1))
    # The elements fill the block up to what the allocator rounds; some stride must bring one back.
    longest = room // number
    result: NDArray[np.bool_] = plausible & (number == 1)
    for less in range(4):
        stride = (longest // word - np.uint64(less)) * word
        usable = plausible & (number > 1) & (longest // word > less)
        stride = np.where(usable, stride, word)
        spare = room - number * stride
        usable &= spare < np.maximum(np.uint64(48), room >> np.uint64(5))
        second, last = address + stride, address + (number - np.uint64(1)) * stride
        same = context.read(second, 0)[0][0] == table
        same &= context.read(last, 0)[0][0] == table
        result |= usable & same
    return result
