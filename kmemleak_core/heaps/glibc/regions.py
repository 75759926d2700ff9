"""Turns arenas into regions: the ranges of memory in which their chunks adjoin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import merge

import numpy as np
from numpy.typing import NDArray

from ..._heap import STOP_FENCE, STOP_FULL, STOP_TOP, ChunkWalk
from ...image import MemoryImage
from .arenas import HEAP_ALIGNMENT, Arena, MallocParameters, find_parameters, heap_of, word_at
from .layouts import Layout

FLAG_BITS = 7
PREV_INUSE = 1


@dataclass(slots=True)
class Region:
    """Adjoining chunks of one arena.

    Parameters
    ----------
    arena
        Whose they are.
    begin, end
        The memory, with the structures before the first chunk and with the top chunk.
    first
        The first chunk.
    limit
        The top chunk where the region has it, else `end`.
    dead
        Up to where memory behind the end belongs to the heap too (given back, still mapped).
    """

    arena: Arena
    begin: int
    first: int
    limit: int
    end: int
    dead: int

    @property
    def top(self) -> int:
        """The top chunk, 0 where the region has none."""
        return self.limit if self.limit == self.arena.top else 0


def plan_main(image: MemoryImage, arena: Arena) -> tuple[list[Region], MallocParameters | None]:
    """Return the region of a main arena whose memory grows in one piece, and its ``mp_``.

    A main arena that is not contiguous gives none here: see `find_scattered`.
    """
    layout = arena.layout
    if arena.initial:
        return [], find_parameters(image, arena, 0)
    head = word_at(image, arena.top + layout.word)
    size = 0 if head is None else head & ~FLAG_BITS
    end = arena.top + size
    base = end - arena.system_mem
    parameters = find_parameters(image, arena, max(base, 0))
    if not arena.contiguous:
        return [], parameters
    told = parameters.sbrk_base if parameters else 0
    if told and told != base and told <= arena.top:
        # One of top's size, system_mem and sbrk_base is damaged.
        if 0 < base <= arena.top and _chains(image, layout, base, arena.top):
            pass
        else:
            base = told
            end = max(base + arena.system_mem, arena.top)
    if not 0 < base <= arena.top:
        segment = image.find(arena.top)
        base = arena.top if segment is None else segment.address
    segment = image.find(arena.top)
    if segment is not None and end > segment.end and image.find(segment.end) is None:
        # A top that claims more than there is.
        known_hole = any(h.address <= segment.end < h.end for h in image.holes)
        end = end if known_hole else segment.end
    end = max(end, arena.top)
    return [
        Region(arena, base, min(layout.aligned_chunk(base), arena.top), arena.top, end, end)
    ], parameters


def _chains(image: MemoryImage, layout: Layout, base: int, top: int) -> bool:
    first = layout.aligned_chunk(base)
    return first <= top and ChunkWalk(image.engine, first, top, top, layout.align).chains(first)


def plan_secondary(image: MemoryImage, arena: Arena) -> list[Region]:
    """Return the regions of a secondary arena: its heaps."""
    layout, word = arena.layout, arena.layout.word
    first_heap = max((h for h in arena.heaps if h < arena.base), default=None)
    info = arena.base - first_heap if first_heap is not None else 4 * word
    greatest = HEAP_ALIGNMENT[word]
    with_top = heap_of(image, arena)
    if with_top is not None:
        low_bit = with_top & -with_top
        greatest = max(greatest, min(low_bit, 4 << 30) if arena.top - with_top > greatest else 0)
    regions = []
    for i, heap in enumerate(arena.heaps):
        following = arena.heaps[i + 1] if i + 1 < len(arena.heaps) else 1 << 64
        size = word_at(image, heap + 2 * word) or 0
        writable = word_at(image, heap + 3 * word) or 0
        bound = min(greatest, following - heap)
        if not 0 < size <= bound:
            segment = image.find(heap)
            size = min(bound, segment.end - heap if segment is not None else 0)
        if not size <= writable <= bound:
            writable = size
        holds_arena = heap == first_heap
        first = layout.aligned_chunk(arena.end if holds_arena else heap + info)
        end = heap + size
        # Chunks end where one could begin, which may be short of the page's end (i386).
        limit = arena.top if first <= arena.top < end else end - (end - first) % layout.align
        if first <= limit:
            regions.append(Region(arena, heap, first, limit, end, heap + writable))
    return regions


def find_scattered(
    image: MemoryImage, arena: Arena, sbrk_base: int, taken: list[Region], page: int
) -> list[Region]:
    """Find the regions of a main arena that is not contiguous.

    Each was obtained by ``sbrk`` (the first) or ``mmap`` and begins with a chunk; it ends in
    two fenceposts at the end of a page, or in the arena's top. Their sizes sum to
    ``system_mem``.
    """
    layout = arena.layout
    scratch = np.empty(1 << 16, np.uint64), np.empty(1 << 16, np.uint64)
    regions: list[Region] = []
    total = 0
    blocked = sorted((r.begin, r.dead) for r in taken)
    for low, high in anonymous_ranges(image, blocked):
        behind = low
        pages = _starts(image, layout, low, high, page)
        for start in merge([sbrk_base] if low <= sbrk_base < high else [], pages):
            if start < behind or total >= arena.system_mem:
                continue
            region = _probe(image, arena, start, high, page, scratch)
            if region is not None:
                regions.append(region)
                behind = region.end
                total += region.end - region.begin
    return regions


def _starts(image: MemoryImage, layout: Layout, low: int, high: int, page: int) -> Iterator[int]:
    """Yield the pages that begin with what may be a chunk in use, in order."""
    start = low + -low % page
    while start < high:
        segment = image.find(start)
        if segment is None:
            following = int(np.searchsorted(image.starts, np.uint64(start)))
            if following == len(image.segments):
                return
            behind = image.segments[following].address
            start = behind + -behind % page
            continue
        pages = (min(high, segment.end) - start) // page
        if pages <= 0:
            start += page
            continue
        rows = image.view(start, pages * page).reshape(pages, page)
        offset = layout.aligned_chunk(start) - start + layout.word
        sizes = np.ascontiguousarray(rows[:, offset : offset + layout.word])
        heads = sizes.view(image.word_dtype).astype(np.uint64).reshape(-1)
        plausible = heads & np.uint64(FLAG_BITS) == PREV_INUSE
        plausible &= heads >= np.uint64(layout.minimum)
        plausible &= heads <= np.uint64(high - start)
        yield from (start + page * np.flatnonzero(plausible)).tolist()
        start += pages * page


def _probe(
    image: MemoryImage,
    arena: Arena,
    start: int,
    high: int,
    page: int,
    scratch: tuple[NDArray[np.uint64], NDArray[np.uint64]],
) -> Region | None:
    layout = arena.layout
    first = layout.aligned_chunk(start)
    limit = arena.top if start <= arena.top < high else high
    walk = ChunkWalk(image.engine, first, limit, arena.top, layout.align)
    while True:
        walk.run(*scratch, 0)
        if walk.stop != STOP_FULL:
            break
    if walk.stop == STOP_TOP:
        head = word_at(image, arena.top + layout.word) or 0
        end = min(arena.top + (head & ~FLAG_BITS), high)
        return Region(arena, start, first, arena.top, max(end, arena.top), end)
    limit = walk.position
    end = limit + -limit % layout.align
    if walk.stop == STOP_FENCE and end % page == 0:
        return Region(arena, start, first, limit, end, end)
    return None


def anonymous_ranges(image: MemoryImage, blocked: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the writable memory that no file backs, adjoining parts merged.

    Parameters
    ----------
    image
        The memory; what is known to be missing counts as there.
    blocked
        Sorted ranges to leave out.
    """
    parts = [(s.address, s.end) for s in image.segments if s.writable and s.kind != "file"]
    parts += [(h.address, h.end) for h in image.holes if "w" in h.permissions and h.kind != "file"]
    merged: list[list[int]] = []
    for low, high in sorted(parts):
        if merged and low <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    ranges = []
    i = 0
    for low, high in merged:
        while i < len(blocked) and blocked[i][1] <= low:
            i += 1
        j = i
        while j < len(blocked) and blocked[j][0] < high:
            if blocked[j][0] > low:
                ranges.append((low, blocked[j][0]))
            low = max(low, blocked[j][1])
            j += 1
        if low < high:
            ranges.append((low, high))
    return ranges
