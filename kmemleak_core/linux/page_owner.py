"""Turns what ``page_owner=on`` keeps beside each page into who allocated it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..errors import FaultError
from .kernel import Kernel
from .stack_depot import StackDepot

#: ``SECTION_SIZE_BITS`` of x86-64, where VMCOREINFO does not tell.
_SECTION_BITS = 27
#: Bit 1 of ``page_ext.flags`` where the types do not tell it (``enum page_ext_flags``).
_ALLOCATED = 1
#: No kernel keeps more than some hundred bytes beside a page.
_MOST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Owners:
    """Who allocated pages; row by row those that were asked for.

    Parameters
    ----------
    trace : ndarray of int64, shape (n,)
        Index into `traces`, −1 where nothing is known.
    traces
        Return addresses, innermost first.
    pid : ndarray of int32, shape (n,)
        Who asked; −1 where nothing is known.
    """

    trace: NDArray[np.int64]
    traces: list[tuple[int, ...]]
    pid: NDArray[np.int32]


def page_owners(kernel: Kernel, frame: NDArray[np.uint64], coverage: Coverage) -> Owners | None:
    """Return who allocated some page frames; None where the kernel does not keep it.

    Extensions of pages are found by memory section (CONFIG_SPARSEMEM_EXTREME, mm/page_ext.c).
    """
    structures = kernel.structures()
    if not structures.has("page_owner", "handle") or not structures.has("page_ext", "flags"):
        return None
    size = _number(kernel, "page_ext_size") or _number(kernel, "extra_mem")
    offset = _number(kernel, "page_owner_ops")  # the first member of that structure
    extension = _extensions(kernel, frame)
    if not size or size > _MOST_BYTES or offset is None or offset >= size or extension is None:
        return None
    # What a section points to is where frame 0 would have its extension.
    known = (extension != 0) & (extension & np.uint64(1) == 0)
    if not known.any():
        return None
    at = extension + frame * np.uint64(size)
    bit = kernel.types.enumerator("PAGE_EXT_OWNER_ALLOCATED")
    flags = structures.column(at, "page_ext", "flags").astype(np.uint64)
    known &= flags >> np.uint64(_ALLOCATED if bit is None else bit & 63) & np.uint64(1) != 0
    at = at[known] + np.uint64(offset)
    trace = np.full(frame.size, -1, np.int64)
    pid = np.full(frame.size, -1, np.int32)
    handles = structures.column(at, "page_owner", "handle").astype(np.uint64)
    trace[known], traces = StackDepot(kernel, coverage).traces(handles)
    if structures.has("page_owner", "pid"):
        pid[known] = structures.column(at, "page_owner", "pid").astype(np.int32)
    return Owners(trace, traces, pid)


def _number(kernel: Kernel, name: str) -> int | None:
    """Return an ``unsigned long`` of the kernel's."""
    at = kernel.symbols.address(name)
    if at is None:
        return None
    try:
        return kernel.image.word(at)
    except FaultError:
        return None


def _extensions(kernel: Kernel, frame: NDArray[np.uint64]) -> NDArray[np.uint64] | None:
    """Return ``mem_section.page_ext`` of each frame's section, 0 where there is none."""
    structures = kernel.structures()
    roots = _number(kernel, "mem_section")
    if not roots or not structures.has("mem_section", "page_ext"):
        return None
    info = kernel.dump.machine.info if kernel.dump.machine else {}
    told = info.get("NUMBER(SECTION_SIZE_BITS)", "")
    bits = int(told) if told.isdecimal() and 16 <= int(told) <= 40 else _SECTION_BITS
    size = structures.struct("mem_section").size
    per_root = np.uint64(max(1, kernel.page_size // size))
    section = frame * np.uint64(kernel.page_size) >> np.uint64(bits)
    root, _ = structures.numbers(np.uint64(roots) + section // per_root * np.uint64(8))
    at = root + section % per_root * np.uint64(size)
    extension: NDArray[np.uint64] = structures.column(at, "mem_section", "page_ext")
    return np.where(root != 0, extension, np.uint64(0))
