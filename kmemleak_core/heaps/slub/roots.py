"""Turns what a kernel without kmemleak's records holds beside its objects into roots."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ...coverage import Coverage
from ...linux.kernel import Kernel
from ...linux.pages import Pages
from ...linux.roots import kernel_roots
from ...roots import RootRange, Roots
from .page_use import PageUse

#: Sections that the kernel's own detector scans, by the symbols at their ends (asm/sections.h).
_SECTIONS = (
    ("_sdata", "_edata", ".data"),
    ("__bss_start", "__bss_stop", ".bss"),
    ("__start_ro_after_init", "__end_ro_after_init", ".data..ro_after_init"),
)
#: A section cannot be larger than the part of the address space that images lie in.
_LARGEST = 1 << 31


def find_roots(kernel: Kernel, pages: Pages, use: PageUse, coverage: Coverage) -> Roots:
    """Return all roots.

    To those of `kernel_roots` (static per-CPU areas, struct pages in use, tasks' stacks,
    processors' registers) come what kmemleak has as objects of its own: ``"data"``,
    ``"modules"``, ``"reserved"`` (contents of memory that was given out at boot); and
    ``"contents"`` of pages that come straight from the page allocator.
    """
    sections = list(_sections(kernel))
    if not sections:
        coverage.add("heap.slub.roots", "neither .data nor .bss was found: they are not scanned")
    found = kernel_roots(kernel, pages=pages, coverage=coverage)
    ranges = [
        *found.ranges,
        *sections,
        *_modules(kernel),
        *_contents(kernel, pages, use.reserved, "reserved", "memory reserved at boot"),
        *_contents(kernel, pages, use.plain, "contents", "pages"),
    ]
    return Roots(ranges, found.words)


def _sections(kernel: Kernel) -> Iterator[RootRange]:
    done: list[tuple[int, int]] = []
    for first, last, name in _SECTIONS:
        begin, end = kernel.symbols.address(first), kernel.symbols.address(last)
        if begin is None or end is None or not begin < end < begin + _LARGEST:
            continue
        # Where .data..ro_after_init lies inside .data it is scanned with it.
        if not any(low <= begin and end <= high for low, high in done):
            done.append((begin, end))
            yield RootRange(begin, end - begin, "data", name)


def _modules(kernel: Kernel) -> Iterator[RootRange]:
    for module in kernel.modules:
        for memory in module.memory:
            if memory.size and memory.kind in ("data", "ro_after_init", "init data"):
                name = f"{memory.kind} of {module.name}"
                yield RootRange(memory.start, memory.size, "modules", name)


def _contents(
    kernel: Kernel, pages: Pages, chosen: NDArray[np.bool_], kind: str, name: str
) -> list[RootRange]:
    """Return the memory of chosen pages, as far as the dump holds it."""
    physical = kernel.physical
    address = pages.frame * np.uint64(pages.page_size)
    held = np.zeros(len(pages), bool)
    for begin, end in zip(physical.starts.tolist(), physical.ends.tolist(), strict=True):
        first, last = np.searchsorted(address, np.array([begin, end], np.uint64))
        held[first:last] = True
    first, last = pages.runs(chosen & held)
    size = (last - first).astype(np.uint64) * np.uint64(pages.page_size)
    return [
        RootRange(at, length, kind, name)
        for at, length in zip(pages.memory[first].tolist(), size.tolist(), strict=True)
    ]
