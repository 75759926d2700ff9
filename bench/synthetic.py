"""Makes heaps and words of known shape for the benchmarks, out of numpy and a seed.

Objects lie as glibc's malloc lays them out; what refers to what is random, or one long list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import kmemleak_core as km

BASE = 0x7F00_0000_0000
#: Words that are no pointers are smaller than this: counts, flags, characters.
FILLER = 1 << 20
#: Words that are made at a time, so that making 2 GB takes no 10 GB.
PIECE = 1 << 22
#: The usual share of the words that point into objects: with these sizes, 5.6 an object.
POINTER_SHARE = 0.23


@dataclass
class Layout:
    """Where objects lie.

    Attributes
    ----------
    address, size : ndarray of uint64, shape (n,)
        Sorted; without overlaps.
    end : int
        Where the heap ends.
    """

    address: NDArray[np.uint64]
    size: NDArray[np.uint64]
    end: int


@dataclass
class SyntheticHeap:
    """An image of one segment that is full of objects, and what was put into it.

    Attributes
    ----------
    image, objects, roots
        Ready for `kmemleak_core.scan_image`; the root words reach almost everything.
    words : ndarray of uint64
        The image's words, in place.
    references : int
        Words that were written as pointers.
    """

    image: km.MemoryImage
    objects: km.ObjectTable
    roots: km.Roots
    words: NDArray[np.uint64]
    references: int


def lay_out(count: int, *, seed: int = 7) -> Layout:
    """Lay objects out as glibc does: 16-byte chunks, 8 bytes of header each.

    Parameters
    ----------
    count
        Objects; their sizes are log-normal between 24 and 4096 bytes, mean about 195.
    seed
        Of the random generator.
    """
    random = np.random.default_rng(seed)
    size = np.empty(count, dtype=np.uint64)
    for at in range(0, count, PIECE):
        piece = random.standard_normal(min(PIECE, count - at), dtype=np.float32)
        wanted = np.clip(np.exp(piece + np.float32(4.74)), 24, 4096).astype(np.uint64)
        size[at : at + PIECE] = (wanted + np.uint64(7)) // np.uint64(16) * np.uint64(16)
    size += np.uint64(8)
    ends = np.cumsum(size + np.uint64(8))
    end = BASE + int(ends[-1]) + 16
    address = ends - size + np.uint64(BASE + 8)
    return Layout(address, size, end)


def fill_words(
    words: NDArray[np.uint64], layout: Layout, pointer_share: float, *, seed: int = 8
) -> int:
    """Fill words with numbers and a share of pointers to random objects; return how many.

    Three in four point to an object's start, the others to its middle.
    """
    random = np.random.default_rng(seed)
    count, written = layout.address.size, 0
    for piece in _pieces(words):
        drawn = random.integers(0, 1 << 32, piece.size, dtype=np.uint32)
        np.bitwise_and(drawn, np.uint32(FILLER - 1), out=piece, casting="unsafe")
        places = np.flatnonzero(drawn < pointer_share * (1 << 32))
        target = random.integers(0, count, places.size, dtype=np.uint32)
        values = layout.address[target]
        inside = np.flatnonzero(random.integers(0, 4, places.size, dtype=np.uint8) == 0)
        values[inside] += layout.size[target[inside]] // np.uint64(2)
        piece[places] = values
        written += places.size
    return written


def _pieces(words: NDArray[np.uint64]) -> Iterator[NDArray[np.uint64]]:
    for at in range(0, words.size, PIECE):
        yield words[at : at + PIECE]


def make_heap(count: int, *, pointer_share: float = POINTER_SHARE) -> SyntheticHeap:
    """Make a heap whose objects refer to random others: a random graph."""
    layout = lay_out(count)
    words = np.empty((layout.end - BASE) // 8, dtype=np.uint64)
    references = fill_words(words, layout, pointer_share)
    return _wrap(layout, words, references, layout.address[:64])


def make_kinds(count: int) -> SyntheticHeap:
    """Make a heap with objects of each kind: of twenty, one is lost and one possibly lost.

    The lost ones, the last, refer to any object, all others to what is not lost; to what is
    possibly lost these refer by pointers into the middle alone.
    """
    layout = lay_out(count)
    words = np.empty((layout.end - BASE) // 8, dtype=np.uint64)
    random = np.random.default_rng(10)
    possible, lost = count * 18 // 20, count * 19 // 20
    first_lost = int(layout.address[lost] - np.uint64(BASE)) // 8
    at = written = 0
    for piece in _pieces(words):
        drawn = random.integers(0, 1 << 32, piece.size, dtype=np.uint32)
        np.bitwise_and(drawn, np.uint32(FILLER - 1), out=piece, casting="unsafe")
        places = np.flatnonzero(drawn < POINTER_SHARE * (1 << 32))
        held = places + at < first_lost
        target = random.integers(0, np.where(held, lost, count))
        values = layout.address[target]
        inside = random.integers(0, 4, places.size, dtype=np.uint8) == 0
        inside |= held & (target >= possible)
        values[inside] += layout.size[target[inside]] // np.uint64(16) * np.uint64(8)
        piece[places] = values
        written += places.size
        at += piece.size
    return _wrap(layout, words, written, layout.address[:64])


def make_list(count: int) -> SyntheticHeap:
    """Make a heap that is one linked list, in random order: each object's first word leads on."""
    layout = lay_out(count)
    words = np.empty((layout.end - BASE) // 8, dtype=np.uint64)
    fill_words(words, layout, 0.0)
    order = np.random.default_rng(9).permutation(count)
    first = (layout.address[order[:-1]] - np.uint64(BASE)) // np.uint64(8)
    words[first] = layout.address[order[1:]]
    return _wrap(layout, words, count - 1, layout.address[order[:1]])


def _wrap(
    layout: Layout, words: NDArray[np.uint64], references: int, roots: NDArray[np.uint64]
) -> SyntheticHeap:
    return SyntheticHeap(
        km.MemoryImage.from_segments([(BASE, words)]),
        km.ObjectTable.from_arrays(layout.address, layout.size),
        km.Roots.from_ranges(words=roots.tolist()),
        words,
        references,
    )
