"""Turns the kernel's list of virtual areas into vmalloc blocks, and what else is mapped there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...coverage import Coverage
from ...errors import FaultError
from ...linux.kernel import Kernel
from ...linux.structures import Structures

#: ``vm_struct.flags`` (include/linux/vmalloc.h; the same since 2.6).
VM_ALLOC, VM_UNINITIALIZED, VM_NO_GUARD = 0x2, 0x20, 0x40

#: Areas, and nodes that they are spread over (Linux 6.9), beyond which lists are damaged.
_MOST_AREAS = 1 << 24
_MOST_NODES = 1 << 12


@dataclass(frozen=True, slots=True, eq=False)
class Areas:
    """The kernel's ``vm_struct``s by address; a row each.

    Parameters
    ----------
    struct : ndarray of uint64, shape (n,)
        Where the ``vm_struct`` is.
    area : ndarray of uint64, shape (n,)
        Where the ``vmap_area`` is.
    address, size : ndarray of uint64, shape (n,)
        What it maps, without the guard page.
    flags : ndarray of uint64, shape (n,)
        ``VM_*``.
    pages, page_count : ndarray of uint64, shape (n,)
        Array of the ``struct page``s behind it, and how many it has; 0 where there is none.
    caller : ndarray of uint64, shape (n,)
        Return address of whoever asked for it; 0 if unknown.
    """

    struct: NDArray[np.uint64]
    area: NDArray[np.uint64]
    address: NDArray[np.uint64]
    size: NDArray[np.uint64]
    flags: NDArray[np.uint64]
    pages: NDArray[np.uint64]
    page_count: NDArray[np.uint64]
    caller: NDArray[np.uint64]

    @property
    def allocated(self) -> NDArray[np.bool_]:
        """Which are vmalloc's own, ``(n,)`` ``bool``: not mapped devices, nor per-CPU chunks."""
        wanted = np.uint64(VM_ALLOC)
        state = self.flags & np.uint64(VM_ALLOC | VM_UNINITIALIZED)
        mine: NDArray[np.bool_] = (state == wanted) & (self.pages != 0) & (self.page_count != 0)
        return mine

    def frames(self, kernel: Kernel, most: int) -> NDArray[np.uint64]:
        """Return the ``struct page``s behind all areas, ``(m,)`` ``uint64``, at most so many."""
        parts, room = [], most
        for pages, count in zip(self.pages.tolist(), self.page_count.tolist(), strict=True):
            # Areas can share pages, but not claim more and more of them.
            if pages and 0 < count <= room:
                try:
                    parts.append(kernel.image.words(pages, count))
                    room -= count
                except FaultError:
                    continue
        return np.concatenate(parts).astype(np.uint64) if parts else np.empty(0, np.uint64)


def find_areas(kernel: Kernel, coverage: Coverage) -> Areas:
    """Return all areas that a ``vm_struct`` describes."""
    structures = kernel.structures()
    area = _vmap_areas(kernel, structures, coverage)
    struct = structures.column(area, "vmap_area", "vm") if area.size else area
    # Blocks of vm_map_ram() have none; where the member shares its place with a flag word, what
    # is there is no address.
    area, struct = area[struct >= 1 << 16], struct[struct >= 1 << 16]

    def column(path: str) -> NDArray[np.uint64]:
        if not structures.has("vm_struct", path):
            return np.zeros(struct.size, np.uint64)
        return structures.column(struct, "vm_struct", path).astype(np.uint64)

    address, size, flags = column("addr"), column("size"), column("flags")
    start = structures.column(area, "vmap_area", "va_start") if area.size else area
    guard = np.where(flags & np.uint64(VM_NO_GUARD) != 0, 0, kernel.page_size).astype(np.uint64)
    # A block's address is its area's start, or some bytes on where it maps a device.
    page = np.uint64(kernel.page_size)
    keep = (address // page == start // page) & (size > guard) & (size < 1 << 47)
    if not keep.all():
        coverage.add(
            "heap.slub.vmalloc-area",
            "virtual areas that do not fit their description: left out",
            count=int(np.count_nonzero(~keep)),
            address=int(area[~keep][0]),
        )
    order = np.flatnonzero(keep)[np.argsort(address[keep], kind="stable")]
    pages, page_count, caller = column("pages"), column("nr_pages"), column("caller")
    return Areas(
        struct=struct[order],
        area=area[order],
        address=address[order],
        size=(size - guard)[order],
        flags=flags[order],
        pages=pages[order],
        page_count=np.minimum(page_count, size // page)[order],
        caller=caller[order],
    )


def _vmap_areas(kernel: Kernel, structures: Structures, coverage: Coverage) -> NDArray[np.uint64]:
    """Return the busy ``vmap_area``s: of one list, or of a tree and list a node (6.9)."""
    heads: NDArray[np.uint64] = np.empty(0, np.uint64)
    single = kernel.symbols.address("vmap_area_list")
    table = kernel.symbols.address("vmap_nodes")
    busy = structures.types.member("vmap_node", "busy.head")
    link = structures.types.member("vmap_area", "list.next")
    if link is None:
        return heads
    try:
        if single is not None:
            heads = np.array([single], np.uint64)
        elif table is not None and busy is not None:
            size = structures.struct("vmap_node").size
            count = kernel.symbols.address("nr_vmap_nodes")
            n = min(structures.number(count, 4) if count is not None else 1, _MOST_NODES)
            base = np.uint64(kernel.image.word(table))
            heads = base + np.arange(n, dtype=np.uint64) * np.uint64(size) + np.uint64(busy.offset)
    except FaultError:
        pass
    first, present = structures.numbers(heads)
    links, _, damaged = structures.follow_many(
        first[present], 0, end=heads[present], most=_MOST_AREAS
    )
    damaged += int(np.count_nonzero(~present))
    if damaged:
        coverage.add(
            "heap.slub.vmalloc-list", "lists of virtual areas are cut short", count=damaged
        )
    if not heads.size:
        coverage.add("heap.slub.vmalloc-list", "the kernel's list of virtual areas was not found")
    return links - np.uint64(link.offset)
