"""Makes heaps of known shape for the benchmarks: log-normal sizes, a share of pointer words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import kmemleak_core as km

BASE = 0x7F00_0000_0000


@dataclass
class SyntheticHeap:
    """An image of one segment that is full of objects, and what was put into it.

    Attributes
    ----------
    image, objects, roots
        Ready for `kmemleak_core.scan_image`; a few root words reach almost everything.
    words : ndarray of uint64
        The image's words, in place.
    pointers : ndarray of uint64
        The values that were written as pointers, in the order of their words.
    """

    image: km.MemoryImage
    objects: km.ObjectTable
    roots: km.Roots
    words: NDArray[np.uint64]
    pointers: NDArray[np.uint64]


def make_heap(count: int, *, pointer_share: float = 0.1, seed: int = 7) -> SyntheticHeap:
    """Make a heap as glibc lays it out: 16-byte chunks, 8 bytes of header each.

    Parameters
    ----------
    count
        Objects; their sizes are log-normal between 24 and 4096 bytes, mean about 150.
    pointer_share
        Share of the words that point into a random object, three in four to its start.
    seed
        Of the random generator.
    """
    random = np.random.default_rng(seed)
    wanted = np.clip(random.lognormal(4.4, 1.0, count), 24, 4096).astype(np.uint64)
    size = (wanted + np.uint64(7)) // np.uint64(16) * np.uint64(16) + np.uint64(8)
    stride = size + np.uint64(8)
    address = np.uint64(BASE + 16) + np.concatenate(([0], np.cumsum(stride[:-1]))).astype(np.uint64)
    end = int(address[-1] + stride[-1])
    words = random.integers(0, 1 << 20, (end - BASE) // 8, dtype=np.uint64)
    places = np.flatnonzero(random.random(words.size) < pointer_share)
    target = random.integers(0, count, places.size)
    inside = np.where(random.random(places.size) < 0.25, size[target] // np.uint64(2), 0)
    pointers = address[target] + inside.astype(np.uint64)
    words[places] = pointers
    image = km.MemoryImage.from_segments([(BASE, words)])
    objects = km.ObjectTable.from_arrays(address, size)
    roots = km.Roots.from_ranges(words=[int(a) for a in address[:64]])
    return SyntheticHeap(image, objects, roots, words, pointers)
