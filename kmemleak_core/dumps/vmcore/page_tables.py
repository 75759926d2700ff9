"""Turns page tables in physical memory into a Mapping: which virtual pages lie where.

Level by level, all tables of a level at once. A table that several entries of its level name is
followed at the lowest address alone: the kernel maps a page or two thousands of times that way
(x86's ESPFIX stacks, KASAN's shadow of what has none), and tables that a damaged dump makes lead
to themselves end there too. So the work is bounded by the size of the memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...physical import PhysicalMemory

U64 = NDArray[np.uint64]
Mask = NDArray[np.bool_]

#: Tables that are decoded at a time: 16 MB of entries.
_AT_ONCE = 4096


class Paging(Protocol):
    """How an architecture's tables are laid out."""

    #: Number of the lowest address bit that the index into a table takes, from the top level
    #: down to that of pages.
    shifts: tuple[int, ...]
    #: Bytes of a table; entries have 8.
    table_size: int
    #: Which entries of the top table are the kernel's, and where the first of them begins.
    kernel_entries: slice
    kernel_base: int

    def decode(self, entries: U64, level: int) -> tuple[Mask, Mask, U64]:
        """Say which entries lead to a table, which map memory, and the address in each."""
        ...


@dataclass(frozen=True, slots=True)
class Mapping:
    """Virtual ranges and where they lie in physical memory; columns, ``(n,)``, by `virtual`.

    Neighbours that lie side by side in both are one.

    Parameters
    ----------
    virtual, physical, size
        Addresses, bytes.
    lost
        Ranges whose tables the dump lacks: ``(m, 2)``, address and size.
    """

    virtual: U64
    physical: U64
    size: U64
    lost: U64 = field(default_factory=lambda: np.zeros((0, 2), np.uint64))

    def __len__(self) -> int:
        return int(self.virtual.size)

    def translate(self, address: int) -> int | None:
        """Return the physical address of a virtual one; None where it is not mapped."""
        i = int(np.searchsorted(self.virtual, np.uint64(address), side="right")) - 1
        if i < 0 or address - int(self.virtual[i]) >= int(self.size[i]):
            return None
        return int(self.physical[i]) + address - int(self.virtual[i])


def read_page_tables(physical: PhysicalMemory, root: int, paging: Paging) -> Mapping:
    """Read the kernel's half of page tables.

    Parameters
    ----------
    physical
        The memory that they lie in.
    root
        Physical address of the top table.
    paging
        Their layout.
    """
    # Addresses are counted from the kernel's half on until the end: they never overflow.
    tables = np.array([root], np.uint64)
    bases = np.zeros(1, np.uint64)
    none = np.zeros(0, np.uint64)
    mapped = [(none, none, none)]
    lost: list[U64] = []
    for level, shift in enumerate(paging.shifts):
        below = [(none, none)]
        step = np.uint64(1 << shift)
        chosen = paging.kernel_entries if level == 0 else slice(None)
        for at in range(0, tables.size, _AT_ONCE):
            part = slice(at, at + _AT_ONCE)
            raw, present = physical.blocks(tables[part], paging.table_size)
            entries = raw.view("<u8")[:, chosen].astype(np.uint64, copy=False)
            span = np.uint64(entries.shape[1] << shift)
            gone = bases[part][~present]
            lost.append(np.stack([gone, np.full(gone.size, span)], axis=1))
            used = np.flatnonzero(entries)
            row, column = np.divmod(used, entries.shape[1])
            virtual = bases[part][row] + column.astype(np.uint64) * step
            leads, maps, address = paging.decode(entries.reshape(-1)[used], level)
            below.append((virtual[leads], address[leads]))
            mapped.append(_merged(virtual[maps], address[maps], np.full(int(maps.sum()), step)))
        bases, tables = (np.concatenate(c) for c in zip(*below, strict=True))
        # The first of equals is the one with the lowest address: bases ascend.
        tables, first = np.unique(tables, return_index=True)
        order = np.argsort(first)
        tables, bases = tables[order], bases[first[order]]
    virtual, address, size = (np.concatenate(c) for c in zip(*mapped, strict=True))
    order = np.argsort(virtual, kind="stable")
    virtual, address, size = _merged(virtual[order], address[order], size[order])
    base = np.uint64(paging.kernel_base)
    if size.size and int(virtual[-1] + size[-1]) + paging.kernel_base >= 1 << 64:
        # Nothing may end where the address space does; the kernel maps nothing there.
        size[-1] -= np.uint64(1 << paging.shifts[-1])
    missing = np.concatenate(lost)
    missing = missing[np.argsort(missing[:, 0], kind="stable")]
    return Mapping(virtual + base, address, size, missing + np.array([base, 0], np.uint64))


def _merged(virtual: U64, address: U64, size: U64) -> tuple[U64, U64, U64]:
    """Join neighbours in sorted columns that follow one another in both spaces."""
    if not virtual.size:
        return virtual, address, size
    follows = (virtual[1:] == virtual[:-1] + size[:-1]) & (address[1:] == address[:-1] + size[:-1])
    begins = np.flatnonzero(np.concatenate(([True], ~follows)))
    return virtual[begins], address[begins], np.add.reduceat(size, begins)
