"""Tells large kmalloc blocks, and pages whose contents nobody else accounts for, from the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...linux.frames import frames_behind
from ...linux.kernel import Kernel
from ...linux.pages import Pages
from .percpu import PerCpu
from .vmalloc import Areas

#: What pages can be used for whose contents are no pointers of the kernel's.
_OPAQUE = ("buddy", "table", "guard", "offline", "zsmalloc", "unaccepted", "hugetlb", "slab")


@dataclass(frozen=True, slots=True, eq=False)
class PageUse:
    """What pages in use are used for, beside slabs.

    Parameters
    ----------
    large : ndarray of int64, shape (n,)
        Rows of the first pages of large kmalloc blocks.
    order_bytes : ndarray of uint64, shape (n,)
        Bytes of each.
    told : bool
        Whether the kernel marks such blocks; otherwise they are what is left when all else that
        is known is taken away.
    reserved, plain : ndarray of bool, shape (pages,)
        Pages whose contents are roots: those that were given out at boot and never came back,
        and those that some part of the kernel has from the page allocator.
    """

    large: NDArray[np.int64]
    order_bytes: NDArray[np.uint64]
    told: bool
    reserved: NDArray[np.bool_]
    plain: NDArray[np.bool_]


def page_use(
    kernel: Kernel, pages: Pages, areas: Areas, per_cpu: PerCpu, pool: NDArray[np.bool_]
) -> PageUse:
    """Sort the pages in use.

    Parameters
    ----------
    areas, per_cpu
        What vmalloc and per-CPU memory have: their pages are theirs.
    pool : ndarray of bool, shape (pages,)
        kfence's pages.
    """
    n = len(pages)
    used = (pages.count > 0) & pages.managed & ~pool
    # Tails tell nothing of themselves. Pages of files and of programs are no kernel memory.
    programs = (pages.flagged("lru") | (pages.mapping != 0))[pages.head]
    used &= ~programs
    for name in _OPAQUE:
        used &= ~pages.used_as(name)
    owned = np.zeros(n, bool)
    _set(owned, pages.rows_of_structs(areas.frames(kernel, 4 * n)))
    head = pages.flagged("head") & ~pages.tail
    length = np.bincount(pages.head, minlength=n)
    told = pages.knows("large_kmalloc")
    if told:
        # They have no page count of their own in kernels that give out frozen pages (7.0).
        large = np.flatnonzero(pages.used_as("large_kmalloc") & ~pages.tail & ~pool)
    else:
        large = np.flatnonzero(head & used & ~owned & (pages.refcount == 1) & (length > 1))
    ours = np.zeros(n, bool)
    ours[large] = True
    used &= ~owned & ~ours[pages.head]

    image = _image_range(kernel)
    for address, size in [
        *([image] if image else []),
        *per_cpu.units,
        *_static_units(kernel, per_cpu),
        *_pieces_of_array(pages),
    ]:
        _set(owned, pages.rows(frames_behind(kernel, address, size)))
    used &= ~owned
    reserved = pages.flagged("reserved") & used
    return PageUse(
        large=large,
        order_bytes=length[large].astype(np.uint64) * np.uint64(pages.page_size),
        told=told,
        reserved=reserved,
        plain=used & ~reserved,
    )


def _set(chosen: NDArray[np.bool_], rows: NDArray[np.int64]) -> None:
    chosen[rows[rows >= 0]] = True


def _image_range(kernel: Kernel) -> tuple[int, int] | None:
    """Return where the kernel's own code and data are."""
    begin, end = kernel.symbols.address("_text"), kernel.symbols.address("_end")
    if begin is None or end is None or not begin < end < begin + (1 << 31):
        return None
    return begin, end - begin


def _static_units(kernel: Kernel, per_cpu: PerCpu) -> list[tuple[int, int]]:
    """Return the static per-CPU areas: roots by themselves, by exact bounds."""
    begin = kernel.symbols.address("__per_cpu_start")
    end = kernel.symbols.address("__per_cpu_end")
    if begin is None or end is None or not begin < end < begin + (1 << 31):
        return []
    return [((begin + int(o)) % (1 << 64), end - begin) for o in kernel.per_cpu_offsets]


def _pieces_of_array(pages: Pages) -> list[tuple[int, int]]:
    """Return where the struct pages themselves are: of these, those in use are roots."""
    first, end = pages.runs(np.ones(len(pages), bool))
    return [
        (pages.array + int(pages.frame[a]) * pages.struct_size, (b - a) * pages.struct_size)
        for a, b in zip(first.tolist(), end.tolist(), strict=True)
    ]
