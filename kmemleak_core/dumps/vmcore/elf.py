"""Reads an ELF dump of a whole machine into a Dump of its kernel.

As written by kdump (a copy of ``/proc/vmcore``), makedumpfile ``-E``, QEMU's dump-guest-memory
and ``virsh dump --memory-only``. Their program headers say where memory lies physically; QEMU's
are not aligned, have no virtual addresses, and some are of devices' memory; kdump's describe the
kernel's code and data twice.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...coverage import Coverage
from ...dump import Dump, Machine
from ...errors import DumpError
from ...image import MemoryImage, Segment
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
from .machine import Evidence, check_architecture, open_machine
from .processors import processors
from .vmcoreinfo import page_size, parse_vmcoreinfo
from .x86_64 import KERNEL_MAP

_NO_ADDRESS = np.uint64((1 << 64) - 1)
#: No machine has physical addresses beyond.
_HIGHEST = 1 << 52


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
        path, coverage = source.path, source.coverage
        loads = headers.select((headers.type == PT_LOAD) & (headers.memsz > 0))
        threads, control = processors(notes, header)
        info = parse_vmcoreinfo(notes.vmcoreinfo)
        check_architecture(header.architecture, header.word_size, path)
        physical, left_out = _physical(source.data, loads, coverage)
        missing = _count(left_out, page_size(info), coverage)
        evidence = Evidence(
            path=path,
            architecture=header.architecture,
            byteorder=header.byteorder,
            word_size=header.word_size,
            info=info,
            phys_base=_phys_base(loads, header),
            control=control,
            zeros=tuple(left_out),
        )
        virtual = _virtual(source.data, loads)
        if not physical.ranges and not virtual:
            raise DumpError(
                "holds no memory: none of its segments has bytes in the file",
                path=path,
                hint="the dump was cut off: copy it again, or dump the machine again",
            )
        try:
            image, told = open_machine(physical, evidence, coverage)
        except DumpError as error:
            if not virtual:
                raise
            why = str(error.args[0]).removeprefix(f"{path}: ")
            coverage.add(
                "vmcore.virtual",
                f"the kernel's memory is where the file's headers put it, without modules and "
                f"vmalloc areas that they leave out: {why}",
            )
            image, told = MemoryImage(virtual), info
        return Dump(
            image,
            path=path,
            format=self.name,
            architecture=header.architecture,
            threads=threads,
            coverage=coverage,
            machine=Machine(physical, told, missing),
        )


def _physical(
    data: Bytes, loads: ProgramHeaders, coverage: Coverage
) -> tuple[PhysicalMemory, list[PhysicalRange]]:
    """Return the memory by physical address, and what was left out of it, as zeros."""
    if len(loads) > 1 and not loads.physical.any():
        return PhysicalMemory([]), []  # /proc/kcore before Linux 4.8: they are not told
    loads = loads.select(loads.physical != _NO_ADDRESS)
    order = np.lexsort((loads.filesz, loads.physical))
    ranges = []
    left_out = []
    reach = cut = 0
    for start, offset, filesz, memsz in zip(
        *(c[order].tolist() for c in (loads.physical, loads.offset, loads.filesz, loads.memsz)),
        strict=True,
    ):
        filesz = min(filesz, memsz)
        size = min(filesz, max(0, data.size - offset), max(0, _HIGHEST - start))
        cut += filesz - size
        # kdump describes the kernel's code and data once more, with their own addresses.
        skipped = max(0, min(reach - start, size))
        if size > skipped:
            ranges.append(PhysicalRange(start + skipped, data[offset + skipped : offset + size]))
            reach = start + size
        left_out.append((start + filesz, min(start + memsz, _HIGHEST)))
    if cut:
        coverage.add(
            "dump.truncated",
            f"the file is cut off: {cut:,} bytes of memory that it announces are not in it",
            nbytes=cut,
        )
    physical = PhysicalMemory(ranges)
    return physical, list(_gaps(physical, left_out))


def _gaps(physical: PhysicalMemory, ranges: list[tuple[int, int]]) -> Iterator[PhysicalRange]:
    """Yield the parts of sorted ranges that are not in memory, up to the next that is."""
    starts, ends = physical.starts.tolist(), physical.ends.tolist()
    reach = 0
    for begin, end in ranges:
        i = bisect_right(starts, begin)
        begin = max(begin, reach, ends[i - 1] if i else 0)
        end = min(end, starts[i] if i < len(starts) else end)
        if begin < end:
            yield PhysicalRange(begin, np.broadcast_to(np.zeros(1, np.uint8), end - begin))
            reach = end


def _count(left_out: list[PhysicalRange], frame: int, coverage: Coverage) -> int:
    """Say how many page frames (of so many bytes) were left out."""
    nbytes = sum(r.data.size for r in left_out)
    if nbytes // frame:
        coverage.add(
            "vmcore.filtered",
            f"{nbytes // frame:,} page frames were left out when the dump was written",
            count=nbytes // frame,
            nbytes=nbytes,
        )
    return nbytes // frame


def _virtual(data: Bytes, loads: ProgramHeaders) -> list[Segment]:
    """Return the kernel's memory where the headers have it; kcore's and kdump's have it twice."""
    loads = loads.select(loads.address >= np.uint64(1 << 63))
    order = np.argsort(loads.address, kind="stable")
    segments = []
    reach = 0
    for start, offset, filesz in zip(
        *(c[order].tolist() for c in (loads.address, loads.offset, loads.filesz)), strict=True
    ):
        size = min(filesz, max(0, data.size - offset), (1 << 64) - 1 - start)
        skipped = max(0, min(reach - start, size))
        if size > skipped:
            segments.append(Segment(start + skipped, data[offset + skipped : offset + size]))
            reach = start + size
    return segments


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
