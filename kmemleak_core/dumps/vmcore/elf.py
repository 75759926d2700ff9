"""Reads an ELF dump of a whole machine into a Dump of its kernel.

As written by kdump (a copy of ``/proc/vmcore``), makedumpfile ``-E``, QEMU's dump-guest-memory
and ``virsh dump --memory-only``. Their program headers say where memory lies physically; QEMU's
are not aligned, have no virtual addresses, and some are of devices' memory; kdump's describe the
kernel's code and data twice.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...coverage import Coverage
from ...dump import Dump, Machine
from ...errors import DumpError
from ...physical import PhysicalMemory, PhysicalRange
from ..elf_headers import (
    EM_X86_64,
    ET_CORE,
    PT_LOAD,
    Bytes,
    ElfHeader,
    ProgramHeaders,
    read_header,
    read_program_headers,
)
from ..elf_notes import NoteContents, read_notes
from ..source import Source
from .machine import Evidence, open_machine
from .processors import processors
from .vmcoreinfo import parse_vmcoreinfo
from .x86_64 import KERNEL_MAP

_NO_ADDRESS = np.uint64((1 << 64) - 1)


class Vmcore:
    """ELF dumps of whole machines."""

    name = "vmcore"

    def matches(self, head: bytes) -> bool:
        """No: only its notes tell such a file from a core of a process, which reads them."""
        return False

    def open(self, source: Source, *, sysroot: Path | None = None) -> Dump:
        """Read a file as a machine's dump, whatever its notes say.

        Raises
        ------
        DumpError
            Not an ELF core, or nothing of the kernel's memory can be found in it.
        """
        header = read_header(source.data, source.path)
        if header.type != ET_CORE:
            raise DumpError("is an ELF file, but no dump", path=source.path)
        headers = read_program_headers(source.data, header, source.coverage, source.path)
        notes = read_notes(source.data, header, headers, source.coverage)
        return self.read(source, header, headers, notes)

    def read(
        self, source: Source, header: ElfHeader, headers: ProgramHeaders, notes: NoteContents
    ) -> Dump:
        """Read a file whose headers and notes are known."""
        loads = headers.select((headers.type == PT_LOAD) & (headers.memsz > 0))
        physical, missing = _physical(source.data, loads, source.coverage)
        if not physical.ranges:
            raise DumpError(
                "holds no memory: none of its segments has bytes in the file",
                path=source.path,
                hint="the dump was cut off: copy it again, or dump the machine again",
            )
        threads, control = processors(notes, header)
        evidence = Evidence(
            path=source.path,
            architecture=header.architecture,
            byteorder=header.byteorder,
            word_size=header.word_size,
            info=parse_vmcoreinfo(notes.vmcoreinfo),
            phys_base=_phys_base(loads, header),
            control=control,
        )
        image, info = open_machine(physical, evidence, source.coverage)
        return Dump(
            image,
            path=source.path,
            format=self.name,
            architecture=header.architecture,
            threads=threads,
            coverage=source.coverage,
            machine=Machine(physical, info, missing),
        )


def _physical(data: Bytes, loads: ProgramHeaders, coverage: Coverage) -> tuple[PhysicalMemory, int]:
    """Return the memory by physical address, and how many page frames were filtered out."""
    loads = loads.select(loads.physical != _NO_ADDRESS)
    order = np.lexsort((loads.filesz, loads.physical))
    ranges = []
    reach = lost = cut = filtered = 0
    for start, offset, filesz, memsz in zip(
        *(c[order].tolist() for c in (loads.physical, loads.offset, loads.filesz, loads.memsz)),
        strict=True,
    ):
        size = min(filesz, memsz, max(0, data.size - offset), (1 << 52) - min(start, 1 << 52))
        cut += min(filesz, memsz) - size
        filtered += max(0, memsz - filesz)
        # kdump describes the kernel's code and data once more, with their own addresses.
        skipped = max(0, min(reach - start, size))
        lost += skipped
        if size > skipped:
            ranges.append(PhysicalRange(start + skipped, data[offset + skipped : offset + size]))
            reach = start + size
    if cut:
        coverage.add(
            "dump.truncated",
            f"the file is cut off: {cut:,} bytes of memory that it announces are not in it",
            nbytes=cut,
        )
    return PhysicalMemory(ranges), filtered >> 12


def _phys_base(loads: ProgramHeaders, header: ElfHeader) -> int | None:
    """Say where an x86-64 kernel lies by kdump's header of its code."""
    if header.machine != EM_X86_64 or header.word_size != 8:
        return None
    code = np.flatnonzero(
        (loads.address >= np.uint64(KERNEL_MAP)) & (loads.physical != _NO_ADDRESS)
    )
    if not code.size:
        return None
    return int(loads.physical[code[0]]) - (int(loads.address[code[0]]) - KERNEL_MAP)
