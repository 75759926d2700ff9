"""Turns slab pages into slabs: whose cache they are, where their objects lie, their counts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...coverage import Coverage
from ...linux.pages import Pages
from .caches import Caches

#: A slab counts its objects in 15 bits.
_MOST_OBJECTS = 1 << 15


@dataclass(eq=False)
class SlabColumns:
    """Slabs in the order of their memory; a row each.

    Parameters
    ----------
    page : ndarray of int64, shape (n,)
        Row of the first page in `Pages`.
    cache : ndarray of int64, shape (n,)
        Row in `Caches`.
    base : ndarray of uint64, shape (n,)
        Where the first object is: behind the red zone, if there is one.
    objects, inuse : ndarray of int64, shape (n,)
        The kernel's figures: slots, and those not on the slab's own freelist.
    freelist : ndarray of uint64, shape (n,)
        The first object on the slab's own freelist, 0 for none.
    coverage
        What did not fit.
    """

    page: NDArray[np.int64]
    cache: NDArray[np.int64]
    base: NDArray[np.uint64]
    objects: NDArray[np.int64]
    inuse: NDArray[np.int64]
    freelist: NDArray[np.uint64]
    coverage: Coverage = field(default_factory=Coverage)

    def __len__(self) -> int:
        return int(self.page.size)


def find_slabs(
    pages: Pages, caches: Caches, besides: NDArray[np.bool_] | None = None
) -> SlabColumns:
    """Return the slabs of all caches.

    Parameters
    ----------
    pages, caches
        Of the kernel.
    besides : ndarray of bool, shape (n,)
        Pages that only look like slabs' (kfence's).
    """
    coverage = Coverage()
    structures = caches.structures
    # The same bytes had no name of their own before Linux 5.17.
    name = "slab" if structures.has("slab", "slab_cache", "freelist") else "page"
    chosen = pages.slab & ~pages.tail
    if besides is not None:
        chosen &= ~besides
    page = np.flatnonzero(chosen)
    at = pages.address[page]
    owner = structures.column(at, name, "slab_cache")
    cache = caches.rows(owner)
    unknown = cache < 0
    if unknown.any():
        coverage.add(
            "heap.slub.slab-unknown",
            "slabs of no cache in the kernel's list: left out",
            count=int(np.count_nonzero(unknown)),
            address=int(pages.memory[page[unknown][0]]),
        )
        page, at, cache = page[~unknown], at[~unknown], cache[~unknown]
    objects = structures.column(at, name, "objects").astype(np.int64)
    inuse = structures.column(at, name, "inuse").astype(np.int64)
    freelist = structures.column(at, name, "freelist")

    length = np.bincount(pages.head, minlength=len(pages))[page] * pages.page_size
    room = length // caches.size[cache].astype(np.int64)
    wrong = (objects > room) | (objects > _MOST_OBJECTS) | (inuse > objects)
    if wrong.any():
        coverage.add(
            "heap.slub.slab-damaged",
            "slabs whose counts are impossible: taken to be as full as they can be",
            count=int(np.count_nonzero(wrong)),
            address=int(pages.memory[page[wrong][0]]),
        )
        objects = np.minimum(objects, np.minimum(room, _MOST_OBJECTS))
        inuse = np.minimum(inuse, objects)
    return SlabColumns(
        page=page,
        cache=cache,
        base=pages.memory[page] + caches.left_pad[cache].astype(np.uint64),
        objects=objects,
        inuse=inuse,
        freelist=freelist,
        coverage=coverage,
    )
