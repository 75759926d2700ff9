"""Turns live memory, a snapshot of its objects and its roots into counts, piece by piece."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ._index import NO_TARGET, AddressIndex
from ._mark import mark
from ._scan import extract_references
from .errors import FaultError
from .image import MemoryImage
from .live import LiveMemory
from .objects import ObjectFlags, ObjectTable
from .roots import Roots
from .scan import ScanOptions, excess_rows, scan_plan

#: Bytes that are scanned before a waiting ``free`` gets its turn.
PIECE = 1 << 20
#: Ranges that objects are cut into at the most (64 GiB of pieces, 4 GiB of the kernel's blocks);
#: beyond that the ranges grow.
MOST_PIECES, MOST_BLOCKS = 1 << 16, 1 << 20
#: The kernel scans an object in blocks of so many bytes, counted from the object's start.
KERNEL_BLOCK = 4096


class CancelledError(Exception):
    """The scan was told to stop before it was done."""


@dataclass(slots=True)
class LivePlan:
    """How a live scan goes about its memory.

    Parameters
    ----------
    memory
        What is read.
    options
        What counts as a reference.
    guard
        Held while a piece is read: whoever frees memory takes it first.
    cancelled
        Asked before each piece.
    kernel_blocks
        Scan objects in blocks of 4096 bytes from their start on, as the kernel does: the words
        of an unaligned object that straddle two blocks are lost.
    counters
        Words, candidates, hits and so on, added up.
    progress
        Told after each piece which part of the memory was read, 0 to 1.
    """

    memory: LiveMemory
    options: ScanOptions
    guard: AbstractContextManager[object]
    cancelled: Callable[[], bool]
    kernel_blocks: bool = False
    counters: dict[str, int] = field(default_factory=dict)
    progress: Callable[[float], None] | None = None

    @property
    def step(self) -> int:
        """Bytes from one word's start to the next."""
        return self.options.alignment or self.memory.word_size


@dataclass(slots=True)
class LiveObjects:
    """A snapshot of what is tracked: virtual objects, then per-CPU ones, as rows of one graph.

    Parameters
    ----------
    virtual
        The objects that words refer to by their address.
    percpu
        The objects that words refer to by their per-CPU address.
    copies
        For each per-CPU object what is added to its address for each CPU's copy.
    min_count, order
        Of all rows, as `kmemleak_core._scan.mark` wants them.
    """

    virtual: ObjectTable
    percpu: ObjectTable
    copies: Sequence[tuple[int, ...]]
    min_count: NDArray[np.int32]
    order: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.virtual) + len(self.percpu)


@dataclass(slots=True)
class _Ranges:
    """What is read for the objects: ranges in row order, and the rows that they belong to."""

    start: NDArray[np.uint64]
    size: NDArray[np.uint64]
    owner: NDArray[np.int64]
    first: NDArray[np.int64]


def count_references(
    plan: LivePlan,
    objects: LiveObjects,
    roots: Roots,
    modified: Callable[[NDArray[np.int64]], NDArray[np.bool_]] | None = None,
) -> NDArray[np.int32]:
    """Read everything once; count the references that lead from the roots to each row.

    Parameters
    ----------
    plan, objects, roots
        What to scan, and how.
    modified
        Given the rows that are white after the first round, tells which of them have changed
        since they were last seen white: these are taken as gray and followed.

    Raises
    ------
    CancelledError
        ``plan.cancelled`` said so.
    """
    ranges = _ranges(plan, objects)
    start, size = roots.range_arrays()
    parts = _Ranges(
        np.concatenate((start, ranges.start)),
        np.concatenate((size, ranges.size)),
        np.concatenate((np.full(start.size, -1, dtype=np.int64), ranges.owner)),
        ranges.first,
    )
    virtual = _index(plan, objects.virtual)
    first_percpu = len(objects.virtual)
    indexes = [(virtual, 0)]
    if len(objects.percpu):
        indexes.append((_index(plan, objects.percpu), first_percpu))
    counts, targets = _extract(plan, indexes, parts)
    offsets = np.concatenate(([0], np.cumsum(counts)))
    of_roots = int(offsets[start.size])
    words = roots.word_array() & np.uint64(plan.options.pointer_mask)
    found = [_shift(index.lookup(words), base) for index, base in indexes]
    root_targets = np.concatenate((*found, targets[:of_roots]))
    excess = excess_rows(objects.virtual, virtual)
    if excess is not None and len(objects.percpu):
        excess = np.concatenate((excess, np.full(len(objects.percpu), -1, dtype=np.int32)))
    object_offsets = (offsets[start.size :] - of_roots)[ranges.first]

    def marked(changed: NDArray[np.uint8] | None) -> NDArray[np.int32]:
        count, *_ = mark(
            object_offsets,
            targets[of_roots:],
            objects.min_count,
            root_targets,
            excess=excess,
            order=objects.order,
            modified=changed,
        )
        return count

    count = marked(None)
    white = np.flatnonzero(count < objects.min_count)
    if modified is not None and white.size:
        changed = np.zeros(len(objects), dtype=bool)
        changed[white] = modified(white)
        if changed.any():
            count = marked(changed.view(np.uint8))
    return count


def checksums(
    plan: LivePlan, objects: LiveObjects, rows: NDArray[np.int64], *, chained: bool
) -> NDArray[np.int64]:
    """Return the CRC-32 of rows' contents as the kernel computes it; −1 where memory is missing.

    Parameters
    ----------
    plan, objects, rows
        Which objects to read.
    chained
        Whether the copies of a per-CPU object are one stream (the kernel since July 2026);
        otherwise their checksums are xored.
    """
    result = np.empty(rows.size, dtype=np.int64)
    boundary = len(objects.virtual)
    inner = rows[rows < boundary]
    start, size = objects.virtual.address[inner], objects.virtual.size[inner]
    for first, last in _pieces(size):
        if plan.cancelled():
            raise CancelledError
        part = slice(first, last)
        with plan.guard:
            image = plan.memory.window(start[part], size[part])
            result[part] = _crcs(image, start[part].tolist(), size[part].tolist())
    for i in range(inner.size, rows.size):
        row = int(rows[i]) - boundary
        address, length = int(objects.percpu.address[row]), int(objects.percpu.size[row])
        copies = np.array([address + c for c in objects.copies[row]], dtype=np.uint64)
        with plan.guard:
            image = plan.memory.window(copies, np.full(copies.size, length, dtype=np.uint64))
            total = 0
            for copy in copies.tolist():
                crc = _crc(image, copy, length, total if chained else 0)
                if crc < 0:
                    total = -1
                    break
                total = crc if chained else total ^ crc
        result[i] = total
    return result


def _crcs(image: MemoryImage, start: list[int], size: list[int]) -> list[int]:
    """Compute many checksums; neighbours mostly lie in one segment, which is looked up once."""
    sums = []
    low = high = 0
    data = memoryview(b"")
    for address, length in zip(start, size, strict=True):
        if not low <= address < high:
            segment = image.find(address)
            if segment is not None:
                low, high, data = segment.address, segment.end, segment.data.data
        if low <= address and address + length <= high:
            content = data[address - low : address - low + length]
            sums.append(zlib.crc32(content, 0xFFFFFFFF) ^ 0xFFFFFFFF)
        else:
            sums.append(_crc(image, address, length, 0))
    return sums


def _crc(image: MemoryImage, address: int, size: int, seed: int) -> int:
    """Compute the raw CRC-32, without zlib's inversions (``crc32_le``)."""
    try:
        return zlib.crc32(image.view(address, size).data, seed ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    except FaultError:
        return -1


def _index(plan: LivePlan, objects: ObjectTable) -> AddressIndex:
    return AddressIndex(
        objects.address,
        objects.size,
        objects.flags,
        inclusive_end=plan.options.end_pointers,
        interior=plan.options.interior,
    )


def _shift(targets: NDArray[np.uint32], base: int) -> NDArray[np.uint32]:
    found: NDArray[np.uint32] = targets[targets != NO_TARGET]
    if base:
        found += np.uint32(base)
    return found


def _ranges(plan: LivePlan, objects: LiveObjects) -> _Ranges:
    start, size, owner, first = scan_plan(objects.virtual)
    if owner is None or first is None:
        owner = np.arange(start.size, dtype=np.int64)
        first = np.arange(start.size + 1, dtype=np.int64)
    ranges = _Ranges(start, size, owner, first)
    if len(objects.percpu):
        _, scanned, _, _ = scan_plan(objects.percpu)
        copies = np.array([len(c) for c in objects.copies], dtype=np.int64)
        rows = np.repeat(np.arange(len(objects.percpu)), copies)
        added = [
            a + c
            for a, cs in zip(objects.percpu.address.tolist(), objects.copies, strict=True)
            for c in cs
        ]
        ranges = _Ranges(
            np.concatenate((start, np.array(added, dtype=np.uint64))),
            np.concatenate((size, scanned[rows])),
            np.concatenate((owner, rows + len(objects.virtual))),
            np.concatenate((first, first[-1] + np.cumsum(copies))),
        )
    return _split(plan, ranges, objects.virtual)


def _split(plan: LivePlan, ranges: _Ranges, virtual: ObjectTable) -> _Ranges:
    """Cut long ranges, so that no piece is longer than it may be; no word is lost by it."""
    start, size, owner, first = ranges.start, ranges.size, ranges.owner, ranges.first
    one = np.uint64(1)
    end = start + size
    if plan.kernel_blocks:
        # The kernel cuts objects, but neither their scan areas nor per-CPU objects.
        limit, base, overhang = np.uint64(KERNEL_BLOCK), start, 0
        chunked = np.zeros(first.size - 1, dtype=bool)
        chunked[: len(virtual)] = True
        if virtual.area_offsets is not None:
            whole = virtual.flags & ObjectFlags.FULL_SCAN != 0
            chunked[: len(virtual)] = whole | (np.diff(virtual.area_offsets) == 0)
        cut = chunked[owner]
    else:
        # The words that begin before a cut may end behind it.
        limit, base = np.uint64(PIECE), start & ~np.uint64(7)
        overhang = max(0, plan.memory.word_size - plan.step)
        cut = np.ones(start.size, dtype=bool)
    most = MOST_BLOCKS if plan.kernel_blocks else MOST_PIECES
    # Whatever sizes a program tells: the number of ranges stays bounded.
    while int((np.maximum(size, one) // limit).sum(dtype=np.float64)) > most:
        limit = limit << one
    parts = np.where(cut, (np.maximum(end - base, one) + limit - one) // limit, one)
    if bool((parts == 1).all()):
        return ranges
    counts = parts.astype(np.int64)
    rows = np.repeat(np.arange(start.size), counts)
    number = (np.arange(rows.size) - np.repeat(np.cumsum(counts) - counts, counts)).astype(
        np.uint64
    )
    low = np.maximum(start[rows], base[rows] + number * limit)
    high = np.minimum(end[rows], base[rows] + (number + one) * limit + np.uint64(overhang))
    high = np.where(cut[rows], high, end[rows])
    cumulated = np.concatenate(([0], np.cumsum(counts)))
    return _Ranges(low, high - low, owner[rows], cumulated[first])


def _extract(
    plan: LivePlan, indexes: list[tuple[AddressIndex, int]], ranges: _Ranges
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Return how many targets each range has, and the targets."""
    counts = np.zeros(ranges.start.size, dtype=np.int64)
    targets = []
    for first, last in _pieces(ranges.size):
        if plan.cancelled():
            raise CancelledError
        part = slice(first, last)
        with plan.guard:
            image = plan.memory.window(ranges.start[part], ranges.size[part])
            found = [
                (
                    base,
                    *extract_references(
                        image.engine,
                        index,
                        ranges.start[part],
                        ranges.size[part],
                        ranges.owner[part] - base,
                        step=plan.step,
                        mask=plan.options.pointer_mask,
                    ),
                )
                for index, base in indexes
            ]
        if plan.progress is not None:
            plan.progress(last / ranges.start.size)
        rows = [np.diff(offsets) for _, offsets, _, _ in found]
        counts[part] = sum(rows)
        columns = [_shift(column, base) for base, _, column, _ in found]
        if len(columns) > 1:
            order = np.argsort(
                np.concatenate([np.repeat(np.arange(r.size), r) for r in rows]), kind="stable"
            )
            columns = [np.concatenate(columns)[order]]
        targets += columns
        for i, (_, _, _, counters) in enumerate(found):
            for name, value in counters.items():
                if i == 0 or name not in ("words", "missing_bytes"):
                    plan.counters[name] = plan.counters.get(name, 0) + value
    return counts, np.concatenate(targets) if targets else np.empty(0, dtype=np.uint32)


def _pieces(size: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Group ranges until a piece is full; a range is never longer than a piece."""
    if not size.size:
        return []
    full = np.cumsum(size) // np.uint64(PIECE)
    ends = np.flatnonzero(np.diff(full, prepend=np.uint64(0))) + 1
    edges = np.unique(np.concatenate(([0], ends, [size.size])))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
