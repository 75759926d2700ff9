"""Turns pointers into the middle of objects into proper ones, where what they point at explains it.

The rules are Memcheck's ``--leak-check-heuristics``, on blocks whose size may be some bytes more
than what was asked for. A C++ program often holds an object by such a pointer alone: without them
it would be told to be possibly lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ._graph import flood, holders
from ._index import NO_TARGET, ROWS, AddressIndex
from ._scan import scan_words
from ._structures import read_members
from .image import Hole, MemoryImage, Segment
from .objects import ObjectTable
from .options import HEURISTICS

if TYPE_CHECKING:
    from .scan import ScanResult

#: An allocator gives a block so many bytes more than it was asked for, at most: it rounds up, and
#: keeps together what is too small for a block of its own.
_SPARE = 31
#: Blocks from this size on may have a mapping of their own, in whole pages.
_MAPPED = 1 << 15
_SPARE_MAPPED = 4096 + 15
#: No part of an object lies further from its start than this.
_FARTHEST = 1 << 20
#: Of so many of a vtable's slots one has to hold a function's address.
_SLOTS = 4
#: `held`, and the top bits of a target, for a pointer into the middle.
_INTERIOR_BIT, _INTERIOR = 2, 1


@dataclass(frozen=True, slots=True)
class Promoted:
    """What heuristics make of objects that are possibly lost.

    Parameters
    ----------
    left : ndarray of int64
        Rows, rising, that are possibly lost still.
    objects
        By heuristic: how many objects it found a proper pointer to, of several the first one. What
        these lead to is not counted.
    """

    left: NDArray[np.int64]
    objects: dict[str, int]


def promote(result: ScanResult, rows: NDArray[np.int64], names: frozenset[str]) -> Promoted:
    """Find which of the possibly lost objects are reachable by pointers that are as good as any.

    Such a pointer counts where it lies in a root, in an object that is reachable itself, or in one
    that becomes so. Only objects that one reference is enough for are looked at.

    Parameters
    ----------
    result
        A scan.
    rows
        ``(p,)``, rising: the possibly lost ones.
    names
        Which heuristics to use, of `HEURISTICS`.
    """
    objects = result.objects
    nodes = rows[objects.min_count[rows] == 1]
    entered = nodes[result.held[nodes] & _INTERIOR_BIT != 0]
    plausible = _Plausible.of(result.image, objects, entered, names)
    if not plausible.rows.size:
        return Promoted(rows, {})
    source, target, by = _good_pointers(result, plausible)
    if not source.size:
        return Promoted(rows, {})
    # What holds such a pointer is a root, or an object that is reachable: possibly, or certainly.
    from_node, to_node = _positions(nodes, source), np.searchsorted(nodes, target)
    proper = (source < 0) | (_positions(rows, source) < 0)
    among = result.references_among(nodes, starts_only=True)
    # What such pointers in possibly lost objects lead to comes along, as pointers to starts do.
    more = ~proper & (from_node >= 0)
    offsets, targets = _with_more(among.offsets, among.targets, from_node[more], to_node[more])
    reached = flood(offsets, targets, np.unique(to_node[proper])) >= 0
    # An object counts for the first heuristic that explains a pointer to it.
    first = np.full(nodes.size, len(HEURISTICS), np.int64)
    np.minimum.at(first, to_node, by)
    counts = np.bincount(first[reached], minlength=len(HEURISTICS) + 1).tolist()
    told = {name: n for name, n in zip(HEURISTICS, counts, strict=False) if n}
    return Promoted(rows[_positions(nodes[reached], rows) < 0], told)


@dataclass(frozen=True, slots=True)
class _Plausible:
    """Objects whose first words allow for a proper pointer into their middle.

    `rows` are those of the objects; `at` has for each heuristic but the last how far from the
    start such a pointer points, 0 for not at all: ``(3, p)``; `vtable` tells whether the object
    begins as a C++ object does.
    """

    rows: NDArray[np.int64]
    at: NDArray[np.uint8]
    vtable: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        image: MemoryImage,
        objects: ObjectTable,
        rows: NDArray[np.int64],
        names: frozenset[str],
    ) -> _Plausible:
        """Look at the first words of objects."""
        size, word = objects.size[rows], np.uint64(image.word_size)
        at = np.zeros((3, rows.size), np.uint8)
        vtable = np.zeros(rows.size, np.bool_)
        if not rows.size or not names:
            return cls(rows[:0], at[:, :0], vtable[:0])
        first, second = _words(image, objects.address[rows], (0, image.word_size))
        if "stdstring" in names:
            # Length, capacity, number of owners, then the characters and a zero.
            need = np.uint64(3) * word + second + np.uint64(1)
            at[0][(first <= second) & (second < size) & _fits(need, size)] = 3 * image.word_size
        if "length64" in names:
            length = first
            if image.word_size != 8:
                (length,) = _words(image, objects.address[rows], (0,), width=8)
            fits = _fits(length + np.uint64(8), size)
            at[1][(length > 0) & (length < size) & fits] = 8
        if "newarray" in names:
            # The number of elements, which fill what is left but for what is spare.
            room = np.where(size > word, size - word, np.uint64(0))
            left = room % np.maximum(first, 1)
            at[2][(first > 0) & (first <= room) & (left <= _spare(size))] = image.word_size
        if "multipleinheritance" in names:
            vtable = _Vtables(image).has(first)
        some = at.any(axis=0) | vtable
        return cls(rows[some], at[:, some], vtable[some])


def _good_pointers(
    result: ScanResult, plausible: _Plausible
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]:
    """Return the pointers that heuristics accept: holder's row (−1: a root), target's, which one.

    A pointer that several heuristics accept is told once for each.
    """
    from .scan import scan_plan

    objects, image, options = result.objects, result.image, result.options
    rows = plausible.rows
    index = AddressIndex(objects.address[rows], objects.size[rows], objects.flags[rows])
    how = {"step": options.alignment or image.word_size, "mask": options.pointer_mask}
    words = result.roots.word_array() & np.uint64(options.pointer_mask)
    hits = index.lookup(words)
    parts = [(np.full(words.size, -1, np.int64), words, hits)]

    roots = result.root_references
    some = holders(roots.offsets, roots.targets, rows, _INTERIOR)
    start, size = result.roots.range_arrays()
    nobody = np.full(some.size, -1, np.int64)
    _, values, hits, _ = scan_words(image.engine, index, start[some], size[some], nobody, **how)
    parts.append((np.full(values.size, -1, np.int64), values, hits))

    start, size, owner, first_range = scan_plan(objects)
    if result.references is not None:
        some = holders(result.references.offsets, result.references.targets, rows, _INTERIOR)
    else:
        some = np.arange(len(objects))
    some = some[~result.white[some]]
    ranges = some
    if owner is not None and first_range is not None:
        among = np.zeros(len(objects), np.bool_)
        among[some] = True
        ranges = np.flatnonzero(among[owner])
        some = owner[ranges]
    own = _positions(rows, some)
    _, values, hits, of = scan_words(image.engine, index, start[ranges], size[ranges], own, **how)
    parts.append((some[of], values, hits))

    source, values, hits = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    hit = hits != NO_TARGET
    source, values, hits = source[hit], values[hit], hits[hit] & np.uint32(ROWS)
    inside = values - objects.address[rows[hits]]
    by = [plausible.at[i][hits] == inside for i in range(3)]
    by = [good & (inside > 0) for good in by]
    second = np.flatnonzero(plausible.vtable[hits] & (inside > 0))
    inner = np.zeros(values.size, np.bool_)
    if second.size:
        (pointed,) = _words(image, values[second], (0,))
        aligned = values[second] % np.uint64(image.word_size) == 0
        inner[second] = aligned & _Vtables(image).has(pointed)
    by.append(inner)
    which = np.concatenate([np.flatnonzero(good) for good in by])
    told = np.repeat(np.arange(4, dtype=np.uint8), [np.count_nonzero(good) for good in by])
    return source[which], rows[hits[which]], told


def _positions(rows: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where in rising rows each wanted one stands, ``(w,)``; −1 for nowhere."""
    if not rows.size:
        return np.full(wanted.size, -1, np.int64)
    at = np.minimum(np.searchsorted(rows, wanted), rows.size - 1)
    return np.where(rows[at] == wanted, at, -1)


def _with_more(
    offsets: NDArray[np.int64],
    targets: NDArray[np.uint32],
    source: NDArray[np.int64],
    target: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Return a graph with references added."""
    if not source.size:
        return offsets, targets
    order = np.argsort(source, kind="stable")
    added = np.bincount(source, minlength=offsets.size - 1)
    places = offsets[source[order] + 1]
    targets = np.insert(targets, places, target[order].astype(np.uint32))
    return offsets + np.concatenate(([0], np.cumsum(added))), targets


def _words(
    image: MemoryImage,
    address: NDArray[np.uint64],
    offsets: tuple[int, ...],
    *,
    width: int | None = None,
) -> NDArray[np.uint64]:
    """Return words at offsets from addresses, ``(len(offsets), n)``; 0 where the image has none."""
    values = np.empty((len(offsets), address.size), np.uint64)
    present = np.empty(values.shape, np.uint8)
    sizes = np.full(len(offsets), width or image.word_size, np.uint8)
    places = np.ascontiguousarray(address)
    read_members(image.engine, places, np.array(offsets, np.uint64), sizes, values, present)
    return values


def _spare(size: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return np.where(size < _MAPPED, np.uint64(_SPARE), np.uint64(_SPARE_MAPPED))


def _fits(need: NDArray[np.uint64], size: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return whether a block of that size is what an allocator gives for so many bytes."""
    fits: NDArray[np.bool_] = (need <= size) & (size - need <= _spare(size))
    return fits


class _Vtables:
    """Tells which words point at a C++ class's table of functions.

    One lies where the program cannot write, in a file's mapping (constants, or what was made
    read-only once it was relocated): before it the offset to the object's top, a small number, and
    a type; in it the addresses of functions.
    """

    def __init__(self, image: MemoryImage) -> None:
        self._image = image
        # What the dump lacks, as it does most code, it may still tell the place of.
        parts: list[Segment | Hole] = [*image.segments, *image.holes]
        parts.sort(key=lambda part: part.address)
        self._start = np.array([part.address for part in parts], np.uint64)
        self._end = np.array([part.end for part in parts], np.uint64)
        self._constant = np.array(
            [part.kind == "file" and "w" not in part.permissions for part in parts], np.bool_
        )
        code = ["x" in part.permissions for part in parts]
        if not any(x and part.kind == "file" for x, part in zip(code, parts, strict=True)):
            # gdb leaves code out, and with it that it was code.
            code = self._constant.tolist()
        self._code = np.array(code, np.bool_)

    def has(self, words: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which words are such pointers, ``(n,)``."""
        if not self._start.size or not words.size:
            return np.zeros(words.size, np.bool_)
        found, inverse = np.unique(words, return_inverse=True)
        good = self._inside(found, self._constant)
        good &= found % np.uint64(self._image.word_size) == 0
        rows = np.flatnonzero(good)
        width = self._image.word_size
        table = found[rows] - np.uint64(2 * width)
        offsets = (0, *(width * (2 + slot) for slot in range(_SLOTS)))
        top, *slots = _words(self._image, table, offsets)
        # A negative number is one that is near the end of what a word can hold.
        bound = np.uint64(1 << 8 * width) - np.uint64(1) if width < 8 else ~np.uint64(0)
        near = (top <= _FARTHEST) | (bound - top < _FARTHEST)
        functions = np.zeros(rows.size, np.bool_)
        for slot in slots:
            functions |= self._inside(slot, self._code)
        good[rows] = near & functions
        return good[inverse]

    def _inside(self, address: NDArray[np.uint64], which: NDArray[np.bool_]) -> NDArray[np.bool_]:
        row = np.searchsorted(self._start, address, side="right") - 1
        inside: NDArray[np.bool_] = (row >= 0) & (address < self._end[row]) & which[row]
        return inside
