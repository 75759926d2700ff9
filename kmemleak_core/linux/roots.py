"""Turns a kernel's memory into Roots: what kmemleak scans beside its objects, and registers."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ..coverage import Coverage
from ..errors import KmemleakError
from ..roots import RootRange, Roots, RootWord
from .kernel import Kernel
from .kmemleak import KernelHeap
from .kmemleak_list import KernelFlags
from .pages import Pages, read_pages
from .tasks import read_tasks

#: Classes of roots, as switches name them. The kernel itself does not look at registers.
KINDS = ("percpu", "pages", "stacks", "old-stacks", "phys", "registers")


def kernel_roots(
    kernel: Kernel,
    found: KernelHeap | None = None,
    *,
    kinds: Collection[str] = KINDS,
    pages: Pages | None = None,
    coverage: Coverage | None = None,
) -> Roots:
    """Find what is scanned unconditionally.

    Parameters
    ----------
    kernel
        The kernel.
    found
        Its kmemleak's records, whose physical objects are roots: they are scanned where the
        linear mapping has them, and no word points to them. The stacks are left out if
        kmemleak was told to (``stack=off``).
    kinds
        Classes that are wanted.
    pages
        The array of struct pages, where it was read already.
    coverage
        Receives what could not be read; `kernel.coverage` without it.

    Returns
    -------
    Roots
        ``percpu``: the static per-CPU area of each possible processor; ``pages``: runs of
        ``struct page`` in use; ``stacks``: of each task the part from its stack pointer on (all
        of it while it runs), ``old-stacks``: the rest, which only holds what calls that have
        returned left there; ``phys``;
        ``registers``: of the processors, words. In the kernel's order.
    """
    coverage = kernel.coverage if coverage is None else coverage
    ranges: list[RootRange] = []
    if "percpu" in kinds:
        ranges += _per_cpu(kernel, coverage)
    if "pages" in kinds:
        try:
            pages = read_pages(kernel) if pages is None else pages
            address, size = pages.structs_in_use()
            ranges += [
                RootRange(a, n, "pages", f"struct pages at {a:#x}")
                for a, n in zip(address.tolist(), size.tolist(), strict=True)
            ]
        except KmemleakError as error:
            coverage.add("kernel.roots", f"struct pages are not scanned: {error}")
    stacks = {"stacks", "old-stacks"} & set(kinds)
    if stacks and (found is None or found.state.stack_scan):
        try:
            ranges += (r for r in _stacks(kernel, coverage) if r.kind in stacks)
        except KmemleakError as error:
            coverage.add("kernel.roots", f"tasks' stacks are not scanned: {error}")
    if "phys" in kinds and found is not None:
        ranges += _physical(kernel, found)
    words = _registers(kernel) if "registers" in kinds else []
    return Roots(ranges, words)


def _per_cpu(kernel: Kernel, coverage: Coverage) -> list[RootRange]:
    start = kernel.symbols.address("__per_cpu_start")
    end = kernel.symbols.address("__per_cpu_end")
    if start is None or end is None or not start <= end <= start + kernel.image.nbytes:
        coverage.add(
            "kernel.roots", "static per-CPU areas are not scanned: nothing tells their end"
        )
        return []
    return [
        RootRange(
            (start + offset) % (1 << 64), end - start, "percpu", f"static per-CPU area {number}"
        )
        for number, offset in enumerate(kernel.per_cpu_offsets)
        if (start + offset) % (1 << 64) + end - start <= 1 << 64
    ]


def _stacks(kernel: Kernel, coverage: Coverage) -> list[RootRange]:
    tasks = read_tasks(kernel, coverage)
    ranges = []
    for stack, used, comm, pid in zip(
        tasks.stack.tolist(), tasks.used.tolist(), tasks.comm, tasks.pid.tolist(), strict=True
    ):
        end = stack + tasks.stack_size
        if stack == 0 or end > 1 << 64:
            continue
        name = f"stack of {comm}/{pid}"
        if used > stack:
            ranges.append(RootRange(stack, used - stack, "old-stacks", f"unused {name}"))
        ranges.append(RootRange(used, end - used, "stacks", name))
    return ranges


def _physical(kernel: Kernel, found: KernelHeap) -> list[RootRange]:
    records, state = found.records, found.state
    chosen = records.flagged(KernelFlags.PHYS) & records.flagged(KernelFlags.ALLOCATED)
    chosen &= (records.min_count >= 0) & ~records.flagged(KernelFlags.NO_SCAN)
    # What lies outside the linear mapping is black: the kernel paints it in its next scan.
    limit = np.uint64(1 << 52)
    chosen &= (records.address < limit) & (records.size < limit)
    rows = np.flatnonzero(chosen)
    address, size = records.address[rows], records.size[rows]
    page = np.uint64(kernel.page_size)
    low, high = (np.uint64(min(n, 1 << 52)) for n in state.lowmem)
    kept = (address // page >= low) & ((address + size) // page <= high)
    return [
        RootRange(kernel.direct_map + a, n, "phys", f"physical memory at {a:#x}")
        for a, n in zip(address[kept].tolist(), size[kept].tolist(), strict=True)
        if kernel.direct_map + a + n <= 1 << 64
    ]


def _registers(kernel: Kernel) -> list[RootWord]:
    mask = (1 << (8 * kernel.image.word_size)) - 1
    return [
        RootWord(value & mask, "registers", f"{name} of processor {thread.tid}")
        for thread in kernel.dump.threads
        for name, value in thread.registers.items()
    ]
