"""Turns live memory, a snapshot of its objects and its roots into counts, piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ._scan import NO_TARGET, AddressIndex, extract_references, mark
from .live import LiveMemory
from .objects import ObjectTable
from .roots import Roots
from .scan import ScanOptions, excess_rows, scan_plan

#: Bytes that are scanned before a waiting ``free`` gets its turn.
PIECE = 1 << 20
#: The kernel scans an object in blocks of so many bytes, counted from the object's start.
KERNEL_BLOCK = 4096


class Cancelled(Exception):
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
    """

    memory: LiveMemory
    options: ScanOptions
    guard: AbstractContextManager[object]
    cancelled: Callable[[], bool]
    kernel_blocks: bool = False
    counters: dict[str, int] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Bytes from one word's start to the next."""
        return self.options.alignment or self.memory.word_size


@dataclass(slots=True)
class LiveReferences:
    """What a snapshot's objects and roots refer to at the time of the scan.

    Attributes
    ----------
    offsets, targets
        Of the objects, as `kmemleak_core.scan.References` has them.
    roots : ndarray of uint32
        Targets of the root words, then of the root ranges.
    """

    offsets: NDArray[np.int64]
    targets: NDArray[np.uint32]
    roots: NDArray[np.uint32]


def extract_live(plan: LivePlan, objects: ObjectTable, roots: Roots) -> LiveReferences:
    """Read everything once and list what points at what.

    Raises
    ------
    Cancelled
        ``plan.cancelled`` said so.
    """
    index = live_index(plan, objects)
    start, size = roots.range_arrays()
    nobody = np.full(start.size, -1, dtype=np.int64)
    _, root_targets = _extract(plan, index, start, size, nobody)
    words = index.lookup(roots.word_array() & np.uint64(plan.options.pointer_mask))
    start, size, owner, first_range = _split(plan, *scan_plan(objects))
    offsets, targets = _extract(plan, index, start, size, owner)
    return LiveReferences(
        offsets[first_range], targets, np.concatenate((words[words != NO_TARGET], root_targets))
    )


def live_index(plan: LivePlan, objects: ObjectTable) -> AddressIndex:
    """Index a snapshot's objects under the plan's rules."""
    return AddressIndex(
        objects.address,
        objects.size,
        objects.flags,
        inclusive_end=plan.options.end_pointers,
        interior=plan.options.interior,
    )


def mark_live(
    plan: LivePlan,
    objects: ObjectTable,
    references: LiveReferences,
    modified: NDArray[np.bool_] | None = None,
) -> NDArray[np.int32]:
    """Count references from the roots on, as `kmemleak_core._scan.mark` does."""
    count, _ = mark(
        references.offsets,
        references.targets,
        objects.min_count,
        references.roots,
        excess=excess_rows(objects, live_index(plan, objects)),
        order=objects.order,
        modified=None if modified is None else modified.view(np.uint8),
    )
    return count


def _split(
    plan: LivePlan,
    start: NDArray[np.uint64],
    size: NDArray[np.uint64],
    owner: NDArray[np.int64] | None,
    first_range: NDArray[np.int64] | None,
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut long ranges, so that no piece is longer than it may be; no word is lost by it."""
    if owner is None or first_range is None:
        owner = np.arange(start.size, dtype=np.int64)
        first_range = np.arange(start.size + 1, dtype=np.int64)
    whole = first_range[owner + 1] - first_range[owner] == 1
    limit = np.uint64(PIECE)
    base = start & ~np.uint64(7)
    if plan.kernel_blocks:
        # The kernel cuts objects, but not their scan areas.
        limit = np.uint64(KERNEL_BLOCK)
        base = start
    end = start + size
    parts = (np.maximum(end - base, np.uint64(1)) + (limit - np.uint64(1))) // limit
    if plan.kernel_blocks:
        parts = np.where(whole, parts, np.uint64(1))
    if bool((parts == 1).all()):
        return start, size, owner, first_range
    counts = parts.astype(np.int64)
    rows = np.repeat(np.arange(start.size), counts)
    number = (np.arange(rows.size) - np.repeat(np.cumsum(counts) - counts, counts)).astype(np.uint64)
    # The words that begin before a cut end up to so many bytes after it.
    overhang = 0 if plan.kernel_blocks else max(0, plan.memory.word_size - plan.step)
    low = np.maximum(start[rows], base[rows] + number * limit)
    high = np.minimum(end[rows], base[rows] + (number + np.uint64(1)) * limit + np.uint64(overhang))
    if plan.kernel_blocks:
        high = np.where(counts[rows] == 1, end[rows], high)
    cumulated = np.concatenate(([0], np.cumsum(counts)))
    return low, high - low, owner[rows], cumulated[first_range]


def _extract(
    plan: LivePlan,
    index: AddressIndex,
    start: NDArray[np.uint64],
    size: NDArray[np.uint64],
    owner: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    counts = np.zeros(start.size + 1, dtype=np.int64)
    targets = []
    for first, last in _pieces(size):
        if plan.cancelled():
            raise Cancelled
        part = slice(first, last)
        with plan.guard:
            image = plan.memory.window(start[part], size[part])
            offsets, found, counters = extract_references(
                image.engine,
                index,
                start[part],
                size[part],
                owner[part],
                step=plan.step,
                mask=plan.options.pointer_mask,
            )
        counts[first + 1 : last + 1] = np.diff(offsets)
        targets.append(found)
        for name, value in counters.items():
            plan.counters[name] = plan.counters.get(name, 0) + value
    joined = np.concatenate(targets) if targets else np.empty(0, dtype=np.uint32)
    return np.cumsum(counts), joined


def _pieces(size: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Group ranges until a piece is full; a range is never longer than a piece."""
    if not size.size:
        return []
    full = np.cumsum(size)
    cuts = np.searchsorted(full, np.arange(PIECE, int(full[-1]) + PIECE, PIECE, dtype=np.uint64))
    edges = np.unique(np.concatenate(([0], np.minimum(cuts + 1, size.size), [size.size])))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
