"""Turns sheaves into the free objects in them: arrays that processors and nodes keep ready.

They came with Linux 6.18 beside processors' slabs and replaced these later. An object in a sheaf
is in use for its slab, and free for everybody else. So is one that waits in a sheaf for a grace
period of RCU (``kfree_rcu``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...coverage import Coverage
from ...linux.kernel import Kernel
from .caches import Caches, find_caches, per_node, sorted_once

#: A sheaf's capacity is far less; sheaves in all, and of one node, beyond which lists are damaged.
_MOST_OBJECTS = 1 << 16
_MOST_SHEAVES = 1 << 22


def objects_in_sheaves(
    kernel: Kernel, caches: Caches, most: int, coverage: Coverage
) -> NDArray[np.uint64]:
    """Return the addresses of all objects that lie in sheaves, ``(n,)`` ``uint64``.

    Parameters
    ----------
    kernel, caches
        Whose.
    most
        More objects than there are slots are damage.
    coverage
        Told of what did not fit.
    """
    structures = caches.structures
    nothing = np.empty(0, np.uint64)
    if not structures.has("slab_sheaf", "size", "objects") or not len(caches):
        return nothing
    # The empty ones of the nodes hold nothing.
    sheaves = _sheaves(kernel, caches, ("sheaves_full",), coverage)
    size = structures.column(sheaves, "slab_sheaf", "size").astype(np.int64)
    wrong = (size < 0) | (size > _MOST_OBJECTS)
    total = int(size[~wrong].sum())
    if wrong.any() or total > most:
        coverage.add(
            "heap.slub.sheaf",
            "sheaves that claim to hold more than they can: their free objects count as allocated",
            count=max(1, int(np.count_nonzero(wrong))),
            address=int(sheaves[wrong][0]) if wrong.any() else None,
        )
        if total > most:
            return nothing
    sheaves, size = sheaves[~wrong], size[~wrong]
    first = np.repeat(sheaves, size)
    within = np.arange(total) - np.repeat(np.cumsum(size) - size, size)
    at = first + within.astype(np.uint64) * np.uint64(8)
    values, present = structures.numbers(at, structures.member("slab_sheaf", "objects").offset)
    return values[present]


def used_parts(kernel: Kernel, coverage: Coverage) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return all sheaves, and how many of their bytes mean anything.

    What lies behind is what sheaves held before: pointers to objects that may have been
    allocated again, and lost.

    Returns
    -------
    address, size : ndarray of uint64, shape (n,)
        By address; none in kernels without sheaves.
    """
    nothing = np.empty(0, np.uint64)
    if kernel.types.struct("slab_sheaf") is None:
        return nothing, nothing
    caches = find_caches(kernel)
    if caches is None or not caches.structures.has("slab_sheaf", "size", "objects"):
        return nothing, nothing
    sheaves = _sheaves(kernel, caches, ("sheaves_full", "sheaves_empty"), coverage)
    size = caches.structures.column(sheaves, "slab_sheaf", "size")
    sane = size <= _MOST_OBJECTS
    first = caches.structures.member("slab_sheaf", "objects").offset
    return sheaves[sane], np.uint64(first) + size[sane] * np.uint64(8)


def _sheaves(
    kernel: Kernel, caches: Caches, lists: tuple[str, ...], coverage: Coverage
) -> NDArray[np.uint64]:
    """Return processors' sheaves and those in the named lists of nodes, each once."""
    found = [_of_nodes(kernel, caches, name, coverage) for name in lists]
    return sorted_once(_of_processors(kernel, caches), *found)


def _of_processors(kernel: Kernel, caches: Caches) -> NDArray[np.uint64]:
    structures = caches.structures
    names = [
        name
        for name in ("main", "spare", "rcu_free")
        if structures.has("slub_percpu_sheaves", name)
    ]
    if not names or not structures.has("kmem_cache", "cpu_sheaves"):
        return np.empty(0, np.uint64)
    base = structures.column(caches.address, "kmem_cache", "cpu_sheaves")
    base = base[base != 0]
    # All sums are modulo 2**64, as the kernel's own are.
    at = base[:, None] + np.array(kernel.per_cpu_offsets, np.uint64)[None, :]
    found: NDArray[np.uint64] = np.concatenate(
        structures.columns(at.reshape(-1), "slub_percpu_sheaves", *names)
    )
    held: NDArray[np.uint64] = found[found != 0]
    return held


def _of_nodes(kernel: Kernel, caches: Caches, name: str, coverage: Coverage) -> NDArray[np.uint64]:
    """Return the sheaves in a list of all nodes' barns."""
    structures = caches.structures
    link = structures.types.member("slab_sheaf", "barn_list")
    head = structures.types.member("node_barn", name)
    if link is None or head is None:
        return np.empty(0, np.uint64)
    barns = per_node(kernel, caches, "barn").address
    if structures.has("kmem_cache_node", "barn"):
        of_nodes = structures.column(
            per_node(kernel, caches, "node").address, "kmem_cache_node", "barn"
        )
        barns = np.concatenate([barns, of_nodes[of_nodes != 0]])
    heads = sorted_once(barns) + np.uint64(head.offset)
    first, present = structures.numbers(heads)
    links, _, damaged = structures.follow_many(
        first[present], 0, end=heads[present], most=_MOST_SHEAVES
    )
    damaged += int(np.count_nonzero(~present))
    if damaged:
        coverage.add("heap.slub.barn", "nodes' lists of sheaves are cut short", count=damaged)
    return links - np.uint64(link.offset)
