"""Walks regions chunk by chunk, past damage and foreign memory, on several threads where asked.

A long region is cut into parts. A walk over each begins at a guessed chunk, ahead of the walk that
begins at the region's first one; where the two meet, the latter jumps to where the former stopped.
A wrong guess costs time: what is found never depends on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from ... import workers
from ..._heap import STOP_BAD, STOP_FENCE, STOP_LIMIT, STOP_MISSING, STOP_TOP, STOP_UNTIL, ChunkWalk
from ...image import MemoryImage
from .arenas import word_at
from .chunks import ChunkTable
from .layouts import Layout
from .regions import Region

#: So many places of one region are mended; what lies behind them is lost.
MAX_REPAIRS = 100_000

#: So many foreign ranges are looked through in a region: each look may take its whole length.
MAX_FOREIGN = 64

#: Bytes of a part of a region that is walked by itself.
PART = 32 << 20

#: A guess at the bytes per chunk in use: room for the rows of a part.
BYTES_PER_CHUNK = 256


@dataclass(slots=True)
class Walked:
    """What walks found, besides the chunks in use.

    Parameters
    ----------
    chunks, free_chunks, inconsistent
        Chunks met; free ones; free ones whose footer does not repeat their size.
    lost
        Ranges that did not parse.
    missing
        Ranges that the image lacks.
    foreign
        Ranges between chunks that others obtained with ``sbrk``.
    truncated
        Chunks whose size is doubtful: a damaged size was cut at the next sound chunk.
    """

    chunks: int = 0
    free_chunks: int = 0
    inconsistent: int = 0
    lost: list[tuple[int, int]] = field(default_factory=list)
    missing: list[tuple[int, int]] = field(default_factory=list)
    foreign: list[tuple[int, int]] = field(default_factory=list)
    truncated: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Ahead:
    """A walk over a part of a region, from a guessed chunk to behind the part's end.

    Parameters
    ----------
    begin
        The guess.
    chase
        The walk, where it stopped.
    table
        The chunks in use that it met.
    """

    begin: int
    chase: ChunkWalk
    table: ChunkTable


def walk_all(
    image: MemoryImage, regions: Sequence[Region], threads: int = 1
) -> tuple[ChunkTable, list[Walked]]:
    """Walk regions; return the chunks in use of all, and what else each walk found.

    Parameters
    ----------
    image
        The memory.
    regions
        Sorted, disjoint.
    threads
        How many work at a time. The result is the same for any number.
    """
    ahead: list[list[Ahead]] = [[] for _ in regions]
    if threads > 1:
        places = [(i, low) for i, region in enumerate(regions) for low in _parts(image, region)]
        tasks = [partial(walk_ahead, image, regions[i], low, low + PART) for i, low in places]
        for (i, _), part in zip(places, workers.run(threads, tasks), strict=True):
            if part is not None:
                ahead[i].append(part)
    table = ChunkTable()
    walks = []
    for region, parts in zip(regions, ahead, strict=True):
        walked = Walked()
        walk(image, region, table, walked, parts)
        parts.clear()
        walks.append(walked)
    return table, walks


def _parts(image: MemoryImage, region: Region) -> list[int]:
    """Return where the parts of a region begin in which there is memory: it may claim far more."""
    parts: set[int] = set()
    for segment in image.segments:
        low, high = max(segment.address, region.first), min(segment.end, region.limit)
        if low < high:
            first, last = ((at - region.first) // PART for at in (low, high - 1))
            parts.update(range(first, last + 1))
    return [region.first + PART * part for part in sorted(parts)]


def walk_ahead(image: MemoryImage, region: Region, low: int, high: int) -> Ahead | None:
    """Walk from a chunk that seems to begin in ``[low, high)`` to behind `high`."""
    chase = _chase(image, region)
    begin = low if low == region.first else chase.guess(low, high)
    if begin >= min(high, region.limit):
        return None
    chase.settle(begin)
    table = ChunkTable((high - begin) // BYTES_PER_CHUNK)
    table.run(chase, high)
    return Ahead(begin, chase, table)


def walk(
    image: MemoryImage,
    region: Region,
    table: ChunkTable,
    walked: Walked,
    ahead: Sequence[Ahead] = (),
) -> None:
    """Walk one region; append its chunks in use to the table, tell the rest in `walked`.

    Parameters
    ----------
    image, region
        The memory and the part of it.
    table, walked
        Where to put what is found.
    ahead
        Walks over parts of the region, sorted.
    """
    layout = region.arena.layout
    chase = _chase(image, region)
    waiting = deque(ahead)
    for _ in range(MAX_REPAIRS):
        _go_on(image, region, chase, table, waiting)
        if chase.stop == STOP_TOP:
            break
        at = chase.position
        if chase.stop == STOP_FENCE:
            if at >= region.limit:
                break
            # Fences before the end: somebody else moved the break.
            found = region.limit
            if len(walked.foreign) < MAX_FOREIGN and region.limit - at <= image.nbytes:
                found = chase.resume(at)
            if found == region.limit and not region.top:
                found = chase.resync(at)
            walked.foreign.append((at, found))
            chase.settle(found)
            continue
        if chase.stop == STOP_LIMIT:
            # The end of a heap without its fences, or a damaged size that fits exactly.
            _settle_pending(image, chase, at, layout, table)
            break
        found = _repair(image, chase, layout, table, walked)
        if found >= region.limit and not region.top:
            break
        chase.settle(found)
    else:
        walked.lost.append((chase.position, region.limit))
    walked.chunks += chase.chunks
    walked.free_chunks += chase.free_chunks
    walked.inconsistent += chase.inconsistent


def _chase(image: MemoryImage, region: Region) -> ChunkWalk:
    align = region.arena.layout.align
    return ChunkWalk(image.engine, region.first, region.limit, region.top, align)


def _go_on(
    image: MemoryImage, region: Region, chase: ChunkWalk, table: ChunkTable, waiting: deque[Ahead]
) -> None:
    """Walk to where the chain ends or breaks, jumping over what walks ahead have found."""
    while True:
        table.run(chase, waiting[0].begin if waiting else None)
        if chase.stop != STOP_UNTIL:
            return
        part = waiting.popleft()
        if part.chase.position <= chase.position:
            continue
        # What that walk met before it came to the chunk at which this one stands does not count.
        skipped, scratch = _chase(image, region), ChunkTable(256)
        skipped.settle(part.begin)
        scratch.run(skipped, chase.position)
        if skipped.stop != STOP_UNTIL or skipped.position != chase.position:
            continue
        chase.join(part.chase, skipped)
        table.extend(part.table, len(scratch))
        if chase.stop != STOP_UNTIL:
            return


def _repair(
    image: MemoryImage, chase: ChunkWalk, layout: Layout, table: ChunkTable, walked: Walked
) -> int:
    """Find where the chain goes on, and account for what lies between."""
    at = chase.position
    if chase.stop == STOP_MISSING:
        found = chase.resync(at)
        _settle_pending(image, chase, at, layout, table)
        walked.missing.append((at, found))
        return found
    assert chase.stop == STOP_BAD
    # Either this header is damaged, or the one before it and the chain led astray.
    pending = chase.pending
    found = chase.resync(pending + layout.minimum if pending else at + layout.align)
    _settle_pending(image, chase, found if pending and found < at else at, layout, table)
    if found < at:
        walked.truncated.append(pending)
    else:
        walked.lost.append((at, found))
    return found


def _settle_pending(
    image: MemoryImage, chase: ChunkWalk, end: int, layout: Layout, table: ChunkTable
) -> None:
    """Append the chunk that was held back, unless its free list says that it is free."""
    chunk = chase.pending
    if not chunk:
        return
    size = end - chunk
    back = None
    if word_at(image, end) == size:
        forward = word_at(image, chunk + 2 * layout.word)
        if forward is not None:
            back = word_at(image, forward + 3 * layout.word)
    if back != chunk:
        table.append(chunk + layout.header, size - layout.word)
