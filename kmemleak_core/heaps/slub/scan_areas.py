"""Tells which parts of objects are scanned, where that is not simply all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...objects import ObjectTable

if TYPE_CHECKING:
    from . import KernelMemory


def set_areas(
    memory: KernelMemory,
    objects: ObjectTable,
    in_slabs: NDArray[np.uint64],
    count: NDArray[np.int64],
    per_cpu: NDArray[np.bool_],
) -> None:
    """Restrict what is scanned of virtual areas; have per-CPU pieces scanned where they are.

    Parameters
    ----------
    memory, objects
        What was found.
    in_slabs : ndarray of uint64, shape (m,)
        Allocated slab objects, slab by slab.
    count : ndarray of int64
        How many each slab has.
    per_cpu : ndarray of bool, shape (n,)
        Which objects are per-CPU pieces: their addresses are no memory, their copies are.
    """
    area, offset, length = _virtual_areas(memory, in_slabs, count)
    owner = np.searchsorted(objects.address, area)
    start = area + np.uint64(offset)
    size = np.full(area.size, length, np.uint64)
    pieces = np.flatnonzero(per_cpu)
    offsets = memory.per_cpu.offsets
    copies = objects.address[pieces][:, None] + offsets[None, :]
    owner = np.concatenate([owner, np.repeat(pieces, offsets.size)])
    order = np.argsort(owner, kind="stable")
    if not order.size:
        return
    objects.area_offsets = np.searchsorted(owner[order], np.arange(len(objects) + 1))
    objects.area_address = np.concatenate([start, copies.reshape(-1)])[order]
    lengths = np.repeat(objects.size[pieces], offsets.size)
    objects.area_size = np.concatenate([size, lengths])[order]


def _virtual_areas(
    memory: KernelMemory, in_slabs: NDArray[np.uint64], count: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], int, int]:
    """Return all ``vmap_area``s, and offset and length of the part of each that is scanned.

    Their bounds are addresses, but no references: the kernel has its detector scan a
    ``vmap_area`` from its tree node on.
    """
    nothing = np.empty(0, np.uint64), 0, 0
    structures = memory.caches.structures
    node = structures.types.member("vmap_area", "rb_node")
    wanted = _cache_of(memory, "vmap_area_cachep", "vmap_area")
    if node is None or wanted is None:
        return nothing
    length = int(memory.caches.object_size[wanted]) - node.offset
    if length <= 0:
        return nothing
    of_cache = in_slabs[np.repeat(memory.slabs.cache == wanted, count)]
    bounds, _ = structures.bytes(of_cache, 0, 16)
    pair = bounds.view(memory.kernel.image.word_dtype).astype(np.uint64)
    # Other caches may have been merged with this one: page-aligned bounds in order tell.
    page = np.uint64(memory.kernel.page_size)
    ranges = (pair[:, 0] < pair[:, 1]) & (pair[:, 0] % page == 0) & (pair[:, 1] % page == 0)
    return of_cache[ranges], node.offset, length


def _cache_of(memory: KernelMemory, symbol: str, name: str) -> int | None:
    """Return the row of a cache that a variable of the kernel points to, else by its name."""
    at = memory.kernel.symbols.address(symbol)
    if at is not None:
        pointer, _ = memory.caches.structures.numbers(np.array([at], np.uint64))
        row = int(memory.caches.rows(pointer)[0])
        if row >= 0:
            return row
    return memory.caches.names.index(name) if name in memory.caches.names else None
