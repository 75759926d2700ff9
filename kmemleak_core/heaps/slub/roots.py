"""Turns what a kernel without kmemleak's records holds beside its objects into roots."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ...coverage import Coverage
from ...linux.kernel import Kernel
from ...linux.pages import Pages
from ...roots import RootRange
from .page_use import PageUse

#: Sections that the kernel's own detector scans, by the symbols at their ends (asm/sections.h).
_SECTIONS = (
    ("_sdata", "_edata", ".data"),
    ("__bss_start", "__bss_stop", ".bss"),
    ("__start_ro_after_init", "__end_ro_after_init", ".data..ro_after_init"),
)
#: A section cannot be larger than the part of the address space that images lie in.
_LARGEST = 1 << 31


def find_roots(kernel: Kernel, pages: Pages, use: PageUse, coverage: Coverage) -> list[RootRange]:
    """Return all roots but tasks' stacks and registers.

    Their kinds are ``"data"``, ``"modules"``, ``"percpu"``, ``"page"`` (struct pages in use),
    ``"reserved"`` (contents of memory that was given out at boot) and ``"pages"`` (contents of
    pages that come straight from the page allocator).
    """
    roots = [*_sections(kernel), *_modules(kernel), *_static_per_cpu(kernel)]
    if not roots:
        coverage.add("heap.slub.roots", "neither .data nor .bss was found: no roots but pages")
    address, size = pages.structs_in_use()
    roots += _ranges(address, size, "page", "struct page")
    roots += _contents(kernel, pages, use.reserved, "reserved", "memory reserved at boot")
    roots += _contents(kernel, pages, use.plain, "pages", "pages")
    return roots


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


def _static_per_cpu(kernel: Kernel) -> Iterator[RootRange]:
    begin = kernel.symbols.address("__per_cpu_start")
    end = kernel.symbols.address("__per_cpu_end")
    if begin is None or end is None or not begin < end < begin + _LARGEST:
        return
    for cpu, offset in enumerate(kernel.per_cpu_offsets):
        address = (begin + offset) % (1 << 64)
        yield RootRange(address, end - begin, "percpu", f"static per-CPU area of CPU {cpu}")


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
    return _ranges(pages.memory[first], size, kind, name)


def _ranges(
    address: NDArray[np.uint64], size: NDArray[np.uint64], kind: str, name: str
) -> list[RootRange]:
    return [
        RootRange(at, length, kind, name)
        for at, length in zip(address.tolist(), size.tolist(), strict=True)
    ]
