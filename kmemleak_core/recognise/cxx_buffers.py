"""Turns blocks that C++ containers refer to into their buffers, buckets and nodes.

A container is recognised by its words: its block's address, and behind that others that fit
the block to the byte. Layout: libstdc++'s since GCC 5 (bits/stl_vector.h, basic_string.h,
hashtable.h, stl_deque.h); another library's are not told.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._structures import LIST_ENDED, follow_lists
from . import Recognised
from .blocks import fits
from .context import Context

_STRING, _VECTOR = "std::string buffer", "std::vector buffer"
_BUCKETS, _NODE = "std::unordered_map/set buckets", "std::unordered_map/set node"
_MAP, _PART = "std::deque map", "std::deque buffer"
#: Containers that were allocated by themselves, and their bytes.
_CONTAINERS = {
    "std::string": 32,
    "std::vector": 24,
    "std::unordered_map/set": 56,
    "std::deque": 80,
}
#: Bytes that a string has within itself.
_SHORT = 15
#: Elements of a deque's map, at least, and bytes of a buffer, unless one element is larger.
_LEAST_MAP, _PART_BYTES = 8, 512


class CxxBuffers:
    """What vectors, strings, unordered containers and deques allocate."""

    name = "c++-buffers"

    def recognise(
        self, context: Context, rows: NDArray[np.int64], asked: NDArray[np.int64]
    ) -> Recognised | None:
        """Return which objects containers refer to; see `Recogniser`."""
        if not context.has_libstdcxx or context.word != 8:
            return None
        marks = _Marks(len(context.objects))
        for place, row in context.references(asked):
            _strings_and_vectors(context, place, row, marks)
            _unordered(context, place, row, marks)
            _deques(context, place, row, marks)
        return marks.recognised(context, rows)


class _Marks:
    """Which objects are what."""

    def __init__(self, objects: int) -> None:
        self.names = [_STRING, _BUCKETS, _NODE, _MAP, _PART, _VECTOR, *_CONTAINERS]
        self.code = np.full(objects, -1, np.int32)

    def mark(self, rows: NDArray[np.int64], name: str) -> None:
        self.code[rows] = self.names.index(name)

    def container(self, context: Context, places: NDArray[np.uint64], name: str) -> None:
        """Mark containers that are objects by themselves, of which these are the beginnings."""
        rows = context.row_at(places)
        rows = rows[rows >= 0]
        wanted = np.full(rows.size, _CONTAINERS[name], np.uint64)
        rows = rows[fits(wanted, context.objects.size[rows])]
        self.mark(rows[context.objects.size[rows] < wanted[0] + 16 if rows.size else []], name)

    def recognised(self, context: Context, rows: NDArray[np.int64]) -> Recognised | None:
        code = self.code[rows]
        if not (code >= 0).any():
            return None
        at = np.flatnonzero(code == self.names.index(_VECTOR))
        (first,), _ = context.read(context.objects.address[rows[at]], 0)
        element, classes = context.virtual_tables.classes(first)
        code[at[element >= 0]] = len(self.names) + element[element >= 0]
        return Recognised(code, (*self.names, *(f"std::vector<{name}> buffer" for name in classes)))


def _strings_and_vectors(
    context: Context, place: NDArray[np.uint64], row: NDArray[np.int64], marks: _Marks
) -> None:
    (second, third), there = context.read(place, 8, 16)
    start, size = context.objects.address[row], context.objects.size[row]
    room = third - start
    at = np.flatnonzero((second - start <= room) & (room <= size) & there[1])
    at = at[fits(room[at], size[at])]
    # A FILE of the C library has more words than three that point into its buffer.
    (word_before,), _ = context.read(place[at] - np.uint64(8), 0)
    at = at[word_before - start[at] > size[at]]
    marks.mark(row[at], _VECTOR)
    marks.container(context, place[at], "std::vector")
    at = np.flatnonzero((second <= third) & (third > _SHORT) & (third < size) & there[1])
    at = at[(second[at] > 0) & fits(third[at] + np.uint64(1), size[at])]
    # Three words are little: what they hold must be a text, too, at least at its two ends.
    (end,), has_end = context.read(start[at] + second[at], 0, size=1)
    begin, has_begin = context.read(start[at], *range(8), size=1)
    text = (begin != 0) | (np.arange(8)[:, None] >= second[at])
    at = at[has_end[0] & (end == 0) & has_begin.all(axis=0) & text.all(axis=0)]
    marks.mark(row[at], _STRING)
    marks.container(context, place[at], "std::string")


def _unordered(
    context: Context, place: NDArray[np.uint64], row: NDArray[np.int64], marks: _Marks
) -> None:
    """Mark buckets, and nodes where following them finds as many as the container counts."""
    size = context.objects.size[row]
    (buckets,), there = context.read(place, 8)
    at = np.flatnonzero(there[0] & (buckets > 1) & (buckets <= size >> np.uint64(3)))
    at = at[fits(buckets[at] * np.uint64(8), size[at])]
    (first, count, load), there = context.read(place[at], 16, 24, 32)
    factor = (load & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)
    with np.errstate(invalid="ignore"):
        good = there.all(axis=0) & (factor > 0.01) & (factor < 1000)
    good &= (count > 0) == (context.row_at(first) >= 0)
    good &= (count > 0) | (first == 0)
    good &= count <= np.uint64(len(context.objects))
    at, first, count = at[good], first[good], count[good]
    full = np.flatnonzero(count)
    if full.size:
        # One walk past an end that is not there must not take what the others need.
        nodes, offsets, states = follow_lists(
            context.image.engine,
            first[full],
            0,
            np.zeros(full.size, np.uint64),
            2 * len(context.objects),
        )
        length = np.diff(offsets)
        right = (states == LIST_ENDED) & (length.astype(np.uint64) == count[full])
        rows = context.row_at(nodes[np.repeat(right, length)])
        marks.mark(rows[rows >= 0], _NODE)
        wrong = full[~right]
        at, count = np.delete(at, wrong), np.delete(count, wrong)
    marks.mark(row[at], _BUCKETS)
    marks.container(context, place[at], "std::unordered_map/set")


def _deques(
    context: Context, place: NDArray[np.uint64], row: NDArray[np.int64], marks: _Marks
) -> None:
    start, size = context.objects.address[row], context.objects.size[row]
    (length,), there = context.read(place, 8)
    at = np.flatnonzero(there[0] & (length >= _LEAST_MAP) & (length <= size >> np.uint64(3)))
    at = at[fits(length[at] * np.uint64(8), size[at])]
    # Two iterators: where they are, their buffer's begin and end, and its place in the map.
    words, there = context.read(place[at], *range(16, 80, 8))
    place_a, begin_a, end_a, node_a, place_b, begin_b, end_b, node_b = words
    last = start[at] + (length[at] - np.uint64(1)) * np.uint64(8)
    nbytes = end_a - begin_a
    good = there.all(axis=0) & (start[at] <= node_a) & (node_a <= node_b) & (node_b <= last)
    good &= (node_a - start[at]) % np.uint64(8) == 0
    good &= (nbytes == end_b - begin_b) & (nbytes > 0)
    good &= (place_a - begin_a <= nbytes) & (place_b - begin_b <= nbytes)
    good &= context.read(node_a, 0)[0][0] == begin_a
    good &= context.read(node_b, 0)[0][0] == begin_b
    good &= (nbytes <= _PART_BYTES) | (context.row_at(begin_a) >= 0)
    marks.mark(row[at[good]], _MAP)
    marks.container(context, place[at[good]], "std::deque")
    low = node_a[good]
    number = ((node_b[good] - low) // np.uint64(8)).astype(np.int64) + 1
    # Maps that overlap are made up: what they have in all is bounded by what there is.
    number = number[np.cumsum(number) <= 2 * len(context.objects) + _LEAST_MAP]
    before = np.cumsum(number) - number
    step = np.arange(int(number.sum())) - np.repeat(before, number)
    places = np.repeat(low[: number.size], number) + step.astype(np.uint64) * np.uint64(8)
    rows = context.row_at(context.read(places, 0)[0][0])
    marks.mark(rows[rows >= 0], _PART)
