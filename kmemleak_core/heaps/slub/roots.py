"""Turns what a kernel without kmemleak's records holds beside its objects into roots."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...coverage import Coverage
from ...linux.images import image_parts
from ...linux.kernel import Kernel
from ...linux.pages import Pages
from ...linux.roots import kernel_roots
from ...roots import RootRange, Roots
from .page_use import PageUse


def find_roots(kernel: Kernel, pages: Pages, use: PageUse, coverage: Coverage) -> Roots:
    """Return all roots.

    To those of `kernel_roots` (static per-CPU areas, struct pages in use, tasks' stacks,
    processors' registers) come what kmemleak has as objects of its own: ``"data"``,
    ``"modules"``, ``"reserved"`` (contents of memory that was given out at boot); and
    ``"contents"`` of pages that come straight from the page allocator.
    """
    parts = list(image_parts(kernel))
    if not any(part.kind == "data" for part in parts):
        coverage.add("heap.slub.roots", "neither .data nor .bss was found: they are not scanned")
    found = kernel_roots(kernel, pages=pages, coverage=coverage)
    ranges = [
        *found.ranges,
        *parts,
        *_contents(kernel, pages, use.reserved, "reserved", "memory reserved at boot"),
        *_contents(kernel, pages, use.plain, "contents", "pages"),
    ]
    return Roots(ranges, found.words)


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
