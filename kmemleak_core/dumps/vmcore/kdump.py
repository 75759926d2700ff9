"""Reads a compressed kernel dump (makedumpfile's, QEMU's) into a Dump of the kernel."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...dump import Dump, Machine
from ...errors import DumpError
from ..elf_headers import EM_AARCH64, EM_X86_64, ET_CORE, PT_NOTE, ElfHeader, ProgramHeaders
from ..elf_notes import NoteContents, read_notes
from ..source import Source
from .kdump_header import INCOMPLETE, MAGIC, KdumpHeader, read_kdump_header, read_pages
from .machine import Evidence, check_architecture, open_machine
from .processors import processors
from .unpacked import unpack
from .vmcoreinfo import parse_vmcoreinfo

_MACHINES = {"x86_64": EM_X86_64, "aarch64": EM_AARCH64}


class Kdump:
    """Compressed kernel dumps: pages packed one by one with zlib, LZO, Snappy or zstd."""

    name = "kdump"

    def matches(self, head: bytes) -> bool:
        """Whether a file that begins like this is such a dump."""
        return head.startswith(MAGIC)

    def open(self, source: Source, *, sysroot: Path | None = None) -> Dump:
        """Unpack a dump and read it.

        Raises
        ------
        DumpError
            Its header is damaged, it does not fit into TMPDIR, or nothing of the kernel's memory
            can be found in it.
        """
        data, path, coverage = source.data, source.path, source.coverage
        if not self.matches(source.head):
            raise DumpError("is no compressed kernel dump", path=path)
        header = read_kdump_header(data, path)
        info, elf, notes = _notes(source, header)
        threads, control = processors(notes, elf)
        evidence = Evidence(
            path, elf.architecture, info=info, phys_base=header.phys_base, control=control
        )
        check_architecture(elf.architecture, elf.word_size, path)
        pages = read_pages(data, header)
        if header.pieces is not None:
            coverage.add(
                "vmcore.split",
                f"the dump was split into several files: this one holds page frames "
                f"{header.pieces[0]:#x} to {header.pieces[1]:#x} alone",
            )
        physical, damaged = unpack(data, pages, header.block_size, path)
        unread = pages.lost + damaged
        if unread or header.status & INCOMPLETE:
            coverage.add(
                "dump.truncated",
                f"the dump is cut off or damaged: {unread:,} of its "
                f"{pages.lost + pages.frame.size:,} pages cannot be read"
                if unread
                else "its writer did not finish the dump: pages are missing",
                count=max(1, unread),
                nbytes=unread * header.block_size,
            )
        if not physical.ranges:
            raise DumpError(
                "holds no memory: none of its pages can be read",
                path=path,
                hint="the dump was cut off: copy it again, or dump the machine again",
            )
        if pages.absent:
            coverage.add(
                "vmcore.filtered",
                f"{pages.absent:,} page frames were left out when the dump was written "
                "(free, cache, user or zero pages, as makedumpfile's dump level tells)",
                count=pages.absent,
                nbytes=pages.absent * header.block_size,
            )
        image, told = open_machine(physical, evidence, coverage)
        return Dump(
            image,
            path=path,
            format=self.name,
            architecture=elf.architecture,
            threads=threads,
            coverage=coverage,
            machine=Machine(physical, told, pages.absent + unread),
        )


def _notes(source: Source, header: KdumpHeader) -> tuple[dict[str, str], ElfHeader, NoteContents]:
    """Read the notes as an ELF file's; they tell the architecture where the header does not."""
    data = source.data
    at, size = header.vmcoreinfo
    info = parse_vmcoreinfo(data[at : at + size].tobytes()) if size else {}
    machine = _MACHINES.get(header.machine, 0)
    if header.machine in ("", "Unknown"):  # QEMU's of machines that are no PCs
        machine = EM_AARCH64 if "NUMBER(kimage_voffset)" in info else EM_X86_64
    elf = ElfHeader(8, "little", ET_CORE, machine, 0, 0, 0, 0)
    offset, nbytes = (np.array([v], np.uint64) for v in header.notes)
    zero = np.zeros(1, np.uint64)
    kind = np.array([PT_NOTE], np.uint32)
    segments = ProgramHeaders(kind, kind, offset, zero, zero, nbytes, nbytes, zero)
    notes = read_notes(data, elf, segments, source.coverage)
    return info or parse_vmcoreinfo(notes.vmcoreinfo), elf, notes
