"""Turns the list of slab caches into columns: names, sizes, flags, what processors hold."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ...coverage import Coverage
from ...errors import FaultError
from ...linux.kernel import Kernel
from ...linux.structures import Structures

#: Caches, nodes and sheaves beyond so many are damage.
_MOST_CACHES = 1 << 16
_MOST_NODES = 1 << 10

#: Bits of ``kmem_cache.flags`` before they were an enumeration (``enum _slab_flag_bits``, 6.9):
#: include/linux/slab.h and mm/slub.c of Linux 4.14 to 6.8.
_FLAGS = {
    "RED_ZONE": 10,
    "POISON": 11,
    "STORE_USER": 16,
    "TYPESAFE_BY_RCU": 19,
    "NOLEAKTRACE": 23,
}


@dataclass(eq=False)
class Caches:
    """Slab caches, in the order of their addresses; a row each.

    Parameters
    ----------
    address : ndarray of uint64, shape (n,)
        Where each ``kmem_cache`` is.
    names
        As ``/proc/slabinfo`` has them; of merged caches, the first one's.
    object_size, size : ndarray of uint32, shape (n,)
        Bytes of an object; bytes from one to the next.
    offset : ndarray of uint32, shape (n,)
        Where in a free object the pointer to the next one lies.
    flags : ndarray of uint64, shape (n,)
        ``SLAB_*``; see `flagged`.
    left_pad : ndarray of uint32, shape (n,)
        Bytes of red zone before each object; 0 where there is none.
    random : ndarray of uint64, shape (n,)
        Key of a hardened freelist, 0 for a plain one.
    merged : ndarray of bool, shape (n,)
        Whether several caches became this one.
    inuse : ndarray of uint32, shape (n,)
        Bytes before what debugging keeps behind an object.
    coverage
        What did not fit.
    """

    structures: Structures
    address: NDArray[np.uint64]
    names: list[str]
    object_size: NDArray[np.uint32]
    size: NDArray[np.uint32]
    offset: NDArray[np.uint32]
    flags: NDArray[np.uint64]
    left_pad: NDArray[np.uint32]
    random: NDArray[np.uint64]
    merged: NDArray[np.bool_]
    inuse: NDArray[np.uint32]
    coverage: Coverage = field(default_factory=Coverage)

    def __len__(self) -> int:
        return int(self.address.size)

    def flagged(self, name: str) -> NDArray[np.bool_]:
        """Return which caches have a flag: ``"NOLEAKTRACE"``; none if there is no such one."""
        return has_flag(self.structures, self.flags, name)

    def rows(self, address: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the rows of addresses of caches, −1 where none is."""
        if not len(self):
            return np.full(address.shape, -1, np.int64)
        row = np.searchsorted(self.address, address).clip(0, len(self) - 1)
        return np.where(self.address[row] == address, row, -1)

    def kind(self, row: int) -> str:
        """Return what a cache's objects are: ``"struct dentry"``, else its name.

        A cache is named after its structure, or nearly so. Merged caches tell nothing.
        """
        name = self.names[row]
        if self.merged[row] or name.startswith("kmalloc-"):
            return name
        stem = name.removesuffix("_cache")
        for guess in dict.fromkeys((name, stem, f"{stem}_struct")):
            struct = self.structures.types.struct(guess)
            # Only what has the very name may be smaller than its structure: task_struct.
            if struct is not None and (
                guess == name or 0 < struct.size <= int(self.object_size[row])
            ):
                return f"struct {guess}"
        return name


def sorted_once(*parts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return every value of some columns once, sorted (``np.unique`` imports what takes long)."""
    values = np.sort(np.concatenate(parts)) if parts else np.empty(0, np.uint64)
    return values[np.append(True, values[1:] != values[:-1])] if values.size else values


def has_flag(structures: Structures, flags: NDArray[np.uint64], name: str) -> NDArray[np.bool_]:
    """Return in which values of ``kmem_cache.flags`` a flag is set."""
    bit = structures.types.enumerator(f"_SLAB_{name}")
    if bit is None and structures.types.enumerator("_SLAB_FLAGS_LAST_BIT") is None:
        bit = _FLAGS.get(name)
    if bit is None or not 0 <= bit < 64:
        return np.zeros(flags.size, bool)
    is_set: NDArray[np.bool_] = flags & np.uint64(1 << bit) != 0
    return is_set


def find_caches(kernel: Kernel) -> Caches | None:
    """Return the caches of a kernel with SLUB; None where there is none.

    Raises
    ------
    DumpError
        A structure is not as any known SLUB has it.
    """
    structures = kernel.structures()
    head = kernel.symbols.address("slab_caches")
    if head is None or not structures.has("kmem_cache", "list.next", "offset", "object_size"):
        return None
    coverage = Coverage()
    link = structures.member("kmem_cache", "list.next").offset
    try:
        first = kernel.image.word(head)
    except FaultError:
        return None
    links, problem = structures.follow(first, 0, end=head, most=_MOST_CACHES)
    if problem:
        coverage.add("heap.slub.caches", f"the list of slab caches is cut short: {problem}")
    address = np.sort(links - np.uint64(link))

    def column(path: str) -> NDArray[np.uint64]:
        return structures.column(address, "kmem_cache", path).astype(np.uint64)

    def optional(path: str) -> NDArray[np.uint64]:
        if structures.has("kmem_cache", path):
            return column(path)
        return np.zeros(address.size, np.uint64)

    size, object_size, offset = column("size"), column("object_size"), column("offset")
    wrong = (size == 0) | (object_size == 0) | (object_size > size) | (offset + np.uint64(8) > size)
    if wrong.any():
        coverage.add(
            "heap.slub.cache-damaged",
            "slab caches whose sizes are impossible: left out",
            count=int(np.count_nonzero(wrong)),
            address=int(address[wrong][0]),
        )
    flags = column("flags")
    pad = np.where(has_flag(structures, flags, "RED_ZONE"), optional("red_left_pad"), 0)
    keep = ~wrong & (pad < size)
    return Caches(
        structures=structures,
        address=address[keep],
        names=[structures.text(a, 128) for a in column("name")[keep].tolist()],
        object_size=object_size[keep].astype(np.uint32),
        size=size[keep].astype(np.uint32),
        offset=offset[keep].astype(np.uint32),
        flags=flags[keep],
        left_pad=pad[keep].astype(np.uint32),
        random=optional("random")[keep],
        merged=optional("refcount")[keep].astype(np.int64) > 1,
        inuse=optional("inuse")[keep].astype(np.uint32),
        coverage=coverage,
    )


@dataclass(frozen=True, slots=True, eq=False)
class CpuSlabs:
    """What each processor holds of each cache, without the empty ones; a row each.

    Parameters
    ----------
    cache : ndarray of int64, shape (n,)
        Row of the cache.
    cpu : ndarray of int64, shape (n,)
        The processor's number.
    freelist : ndarray of uint64, shape (n,)
        The first object that it can take without a lock.
    slab : ndarray of uint64, shape (n,)
        Its slab's ``struct slab`` (or page).
    """

    cache: NDArray[np.int64]
    cpu: NDArray[np.int64]
    freelist: NDArray[np.uint64]
    slab: NDArray[np.uint64]


def cpu_slabs(kernel: Kernel, caches: Caches) -> CpuSlabs:
    """Return the processors' slabs; none in a kernel that has sheaves in their place."""
    structures = caches.structures
    # A slab was a page before Linux 5.17.
    member = "slab" if structures.has("kmem_cache_cpu", "slab") else "page"
    if not structures.has("kmem_cache", "cpu_slab") or not structures.has(
        "kmem_cache_cpu", member, "freelist"
    ):
        nothing, empty = np.empty(0, np.int64), np.empty(0, np.uint64)
        return CpuSlabs(nothing, nothing, empty, empty)
    base = structures.column(caches.address, "kmem_cache", "cpu_slab")
    offsets = np.array(kernel.per_cpu_offsets, np.uint64)
    # All sums are modulo 2**64, as the kernel's own are.
    at = (base[:, None] + offsets[None, :]).reshape(-1)
    freelist = structures.column(at, "kmem_cache_cpu", "freelist")
    slab = structures.column(at, "kmem_cache_cpu", member)
    rows = np.flatnonzero((freelist != 0) & (slab != 0))
    width = max(1, offsets.size)
    return CpuSlabs(rows // width, rows % width, freelist[rows], slab[rows])


@dataclass(frozen=True, slots=True, eq=False)
class PerNode:
    """What caches have for each memory node; a row each.

    Parameters
    ----------
    cache : ndarray of int64, shape (n,)
        Row of the cache.
    address : ndarray of uint64, shape (n,)
        The ``kmem_cache_node``, or whatever was asked for.
    """

    cache: NDArray[np.int64]
    address: NDArray[np.uint64]


def per_node(kernel: Kernel, caches: Caches, what: str = "node") -> PerNode:
    """Return what each cache has for each node.

    Parameters
    ----------
    what
        ``"node"`` or, in kernels with sheaves (Linux 7.0), ``"barn"``.
    """
    structures = caches.structures
    nothing = PerNode(np.empty(0, np.int64), np.empty(0, np.uint64))
    array = structures.types.member("kmem_cache", "per_node")
    pair = structures.types.member("kmem_cache_per_node_ptrs", what)
    if array is not None and pair is not None:
        step, inner = structures.struct("kmem_cache_per_node_ptrs").size, pair.offset
    elif what == "node":
        array, step, inner = structures.types.member("kmem_cache", "node"), 8, 0
    if array is None or not len(caches):
        return nothing
    # The array is as long as a kernel can have nodes, and allocated as long as this one has.
    count = max(1, array.count or array.size // step)
    symbol = kernel.symbols.address("nr_node_ids")
    if symbol is not None:
        known, present = structures.numbers(np.array([symbol], np.uint64), 0, 4)
        count = min(count, int(known[0])) if present[0] else 1
    else:
        count = 1  # a constant, in a kernel for one node
    at = np.arange(min(count, _MOST_NODES), dtype=np.uint64) * np.uint64(step)
    at = caches.address[:, None] + at + np.uint64(array.offset + inner)
    address, _ = structures.numbers(at.reshape(-1))
    rows = np.flatnonzero(address)
    return PerNode(rows // max(1, at.shape[1]), address[rows])


def node_totals(
    kernel: Kernel, caches: Caches
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return each cache's own count of slabs and of slots in them; None where there is none.

    A kernel counts them with CONFIG_SLUB_DEBUG.
    """
    structures = caches.structures
    if not structures.has("kmem_cache_node", "nr_slabs", "total_objects"):
        return None
    of = per_node(kernel, caches)
    totals = []
    for name in ("nr_slabs", "total_objects"):
        member = structures.member("kmem_cache_node", name)
        values, _ = structures.numbers(of.address, member.offset, 8)
        total = np.zeros(len(caches), np.int64)
        np.add.at(total, of.cache, values.view(np.int64))
        totals.append(total)
    return totals[0], totals[1]
