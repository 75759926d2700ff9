"""Turns caches and slabs into what ``/proc/slabinfo`` would have said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .caches import per_node

if TYPE_CHECKING:
    from . import KernelMemory

#: Slabs of all partial lists beyond which these are damaged.
_MOST_SLABS = 1 << 28


@dataclass(frozen=True, slots=True)
class SlabInfo:
    """A line of ``/proc/slabinfo``.

    Parameters
    ----------
    name
        Of the cache.
    active
        Objects that it counts as in use: all but the free ones of slabs that wait on a node's
        partial list. What processors hold ready counts as in use, unlike everywhere else here.
    objects
        Slots in all slabs.
    slabs
        Slabs.
    """

    name: str
    active: int
    objects: int
    slabs: int


def slabinfo(memory: KernelMemory) -> list[SlabInfo]:
    """Return the kernel's table, cache by cache in the order of `Caches`."""
    caches, slabs, pages = memory.caches, memory.slabs, memory.pages
    n = len(caches)
    waiting = np.zeros(len(slabs), bool)
    structures = caches.structures
    name = "slab" if structures.has("slab", "slab_cache") else "page"
    path = "slab_list" if structures.has(name, "slab_list") else "lru"
    head = structures.types.member("kmem_cache_node", "partial")
    link = structures.types.member(name, path)
    if head is not None and link is not None:
        heads = per_node(memory.kernel, caches).address + np.uint64(head.offset)
        first, _ = structures.numbers(heads)
        links, _, _ = structures.follow_many(first, 0, end=heads, most=_MOST_SLABS)
        page = pages.rows_of_structs(links - np.uint64(link.offset))
        waiting = np.isin(slabs.page, page)
    free = np.where(waiting, slabs.objects - slabs.inuse, 0)
    total = np.bincount(slabs.cache, slabs.objects, n).astype(np.int64)
    active = total - np.bincount(slabs.cache, free, n).astype(np.int64)
    count = np.bincount(slabs.cache, minlength=n)
    columns = zip(caches.names, active.tolist(), total.tolist(), count.tolist(), strict=True)
    return [SlabInfo(*line) for line in columns]
