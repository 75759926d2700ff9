"""Turns a dump of a whole machine into a Kernel: its memory, with names and types."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..coverage import Coverage
from ..dump import Dump
from ..image import MemoryImage
from ..physical import PhysicalMemory
from ..symbols import SymbolTable, Types
from .structures import Structures


@dataclass(slots=True)
class Kernel:
    """A kernel as a dump shows it.

    Parameters
    ----------
    dump
        Its memory by virtual address, the processors' registers (a `Thread` each, whose `tid`
        is the processor's number), what was missing.
    symbols
        Addresses and names, those of modules too.
    types
        Layouts of its structures.
    release
        ``"6.1.0-40-amd64"``; empty if unknown.
    page_size
        Bytes.
    direct_map
        Virtual address of physical address 0 in the linear mapping (``page_offset_base``).
    page_array
        Virtual address of the ``struct page`` of page frame 0 (``vmemmap_base``).
    per_cpu_offsets
        For each possible processor, what is added to a per-CPU address.
    coverage
        What was missing or not understood.
    """

    dump: Dump
    symbols: SymbolTable
    types: Types
    release: str = ""
    page_size: int = 4096
    direct_map: int = 0
    page_array: int = 0
    per_cpu_offsets: tuple[int, ...] = ()
    coverage: Coverage = field(default_factory=Coverage)

    @property
    def image(self) -> MemoryImage:
        """Its memory, by virtual address."""
        return self.dump.image

    @property
    def physical(self) -> PhysicalMemory:
        """The machine's memory, by physical address."""
        machine = self.dump.machine
        assert machine is not None
        return machine.physical

    def structures(self) -> Structures:
        """Return a reader of its structures."""
        return Structures(self.image, self.types)
