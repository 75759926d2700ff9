"""Finds the chunks that have a mapping of their own, aligned ones included."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..._heap_find import find_mapped
from ...image import MemoryImage, Segment
from .layouts import Layout


@dataclass(frozen=True, slots=True)
class Mapped:
    """Chunks with a mapping of their own, sorted.

    Parameters
    ----------
    base, length
        The mappings, ``(n,)`` ``uint64``.
    address, usable
        The program's part of each, ``(n,)`` ``uint64``: it reaches to the mapping's end.
    """

    base: NDArray[np.uint64]
    length: NDArray[np.uint64]
    address: NDArray[np.uint64]
    usable: NDArray[np.uint64]


def find_mapped_chunks(
    image: MemoryImage, layout: Layout, ranges: list[tuple[int, int]], page: int
) -> Mapped:
    """Look at every page start of some ranges for the header of a mapped chunk.

    Parameters
    ----------
    image, layout
        The memory, and where the fields are.
    ranges
        Anonymous writable memory, disjoint and sorted. Adjoining mappings are merged in it:
        each hit is jumped over as a whole.
    page
        Page size in bytes.
    """
    found = []
    for low, high in ranges:
        # What the range holds, not what it spans, bounds the hits.
        room = sum(
            (min(high, s.end) - max(low, s.address)) // page + 1 for s in _within(image, low, high)
        )
        columns = [np.empty(room, np.uint64) for _ in range(3)]
        count = find_mapped(
            image.engine, low, high, page, layout.mapped_trailer, layout.align, *columns
        )
        if count:
            found.append([column[:count].copy() for column in columns])
    if not found:
        none = np.empty(0, np.uint64)
        return Mapped(none, none, none, none)
    base, chunk, length = (np.concatenate(parts) for parts in zip(*found, strict=True))
    address = chunk + np.uint64(layout.header)
    return Mapped(base, length, address, base + length - address)


def _within(image: MemoryImage, low: int, high: int) -> tuple[Segment, ...]:
    first = int(np.searchsorted(image.ends, np.uint64(low), side="right"))
    last = int(np.searchsorted(image.starts, np.uint64(high - 1), side="right"))
    return image.segments[first:last]
