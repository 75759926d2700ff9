"""Turns a kernel and its modules into where their images lie, and which parts hold variables."""

from __future__ import annotations

from collections.abc import Iterator

from ..roots import RootRange
from .kernel import Kernel

#: Sections that the kernel's own detector scans, by the symbols at their ends (asm/sections.h).
_SECTIONS = (
    ("_sdata", "_edata", ".data"),
    ("__bss_start", "__bss_stop", ".bss"),
    ("__start_ro_after_init", "__end_ro_after_init", ".data..ro_after_init"),
)
#: A section cannot be larger than the part of the address space that images lie in.
_LARGEST = 1 << 31


def image_parts(kernel: Kernel) -> Iterator[RootRange]:
    """Yield the kernel's own sections (``"data"``), then those of its modules (``"modules"``)."""
    yield from _sections(kernel)
    yield from _modules(kernel)


def whole_images(kernel: Kernel) -> Iterator[RootRange]:
    """Yield the kernel's own sections of variables, then all of each module, as kmemleak has it."""
    yield from _sections(kernel)
    for module in kernel.modules:
        for memory in module.memory:
            yield RootRange(memory.start, memory.size, "modules", f"module {module.name}")


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
