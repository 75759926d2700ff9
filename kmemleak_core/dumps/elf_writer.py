"""Turns segments and notes into the headers of an ELF core file.

Layouts as in `elf_headers` and `elf_notes`; the note structures are those that Linux writes.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from .elf_headers import ELF_MAGIC, ET_CORE, PN_XNUM, PT_LOAD, PT_NOTE


@dataclass(slots=True)
class PlannedSegment:
    """One ``PT_LOAD``: where it is in memory and in the file."""

    address: int
    size: int
    flags: int
    offset: int = 0
    filesz: int = 0


@dataclass(frozen=True, slots=True)
class Abi:
    """Word size and machine of the program that is dumped; the byte order is this machine's."""

    word_size: int
    machine: int

    @property
    def order(self) -> str:
        """As `struct` writes it."""
        return "<" if sys.byteorder == "little" else ">"

    @property
    def word(self) -> str:
        """`struct` code of one word."""
        return "I" if self.word_size == 4 else "Q"

    @property
    def header_size(self) -> int:
        """Bytes of the file header."""
        return 52 if self.word_size == 4 else 64

    @property
    def entry_size(self) -> int:
        """Bytes of a program header."""
        return 32 if self.word_size == 4 else 56


def note(order: str, name: bytes, kind: int, desc: bytes) -> bytes:
    """Encode one note."""
    name += b"\0"
    head = struct.pack(f"{order}III", len(name), len(desc), kind)
    return head + name + bytes(-len(name) % 4) + desc + bytes(-len(desc) % 4)


def prstatus(abi: Abi, tid: int, process: Sequence[int], registers: bytes) -> bytes:
    """Encode ``struct elf_prstatus``; `process` is parent, group and session."""
    head = struct.pack(
        f"{abi.order}iiihxx2{abi.word}iiii8{abi.word}", 0, 0, 0, 0, 0, 0, tid, *process, *[0] * 8
    )
    made = head + registers + struct.pack(f"{abi.order}i", 1)
    return made + bytes(-len(made) % abi.word_size)


def prpsinfo(
    abi: Abi, pid: int, process: Sequence[int], ids: tuple[int, int], name: bytes, arguments: bytes
) -> bytes:
    """Encode ``struct elf_prpsinfo``; `process` as for `prstatus`, `ids` are user and group."""
    if abi.word_size == 8:
        head = struct.pack(f"{abi.order}4b4xQII", 0, 0, 0, 0, 0, *ids)
    else:
        head = struct.pack(f"{abi.order}4bIHH", 0, 0, 0, 0, 0, *(i & 0xFFFF for i in ids))
    pids = struct.pack(f"{abi.order}4i", pid, *process)
    return head + pids + name[:15].ljust(16, b"\0") + arguments[:79].ljust(80, b"\0")


def file_note(abi: Abi, files: Sequence[tuple[int, int, int, bytes]], page_size: int) -> bytes:
    """Encode ``NT_FILE``: start, end, offset in bytes and path of each mapping."""
    words = [len(files), page_size]
    for start, end, offset, _ in files:
        words += (start, end, offset // page_size)
    paths = b"".join(path + b"\0" for *_, path in files)
    return struct.pack(f"{abi.order}{len(words)}{abi.word}", *words) + paths


def core_headers(
    abi: Abi, segments: Sequence[PlannedSegment], notes_offset: int, notes_size: int
) -> bytes:
    """Encode the file header, the program headers, and section 0 where their number needs it."""
    count = len(segments) + 1
    extended = count >= PN_XNUM
    table_end = abi.header_size + count * abi.entry_size
    ident = ELF_MAGIC + bytes([abi.word_size // 4, 1 if abi.order == "<" else 2, 1]) + bytes(9)
    section_size = 40 if abi.word_size == 4 else 64
    header = ident + struct.pack(
        f"{abi.order}HHI3{abi.word}I6H",
        ET_CORE,
        abi.machine,
        1,
        0,
        abi.header_size,
        table_end if extended else 0,
        0,
        abi.header_size,
        abi.entry_size,
        min(count, PN_XNUM),
        section_size if extended else 0,
        1 if extended else 0,
        0,
    )
    parts = [header, _program_header(abi, PT_NOTE, 0, notes_offset, 0, notes_size, 0)]
    parts += [
        _program_header(abi, PT_LOAD, s.flags, s.offset, s.address, s.filesz, s.size)
        for s in segments
    ]
    if extended:
        section = struct.pack(
            f"{abi.order}II4{abi.word}II2{abi.word}", 0, 0, 0, 0, 0, 1, 0, count, 0, 0
        )
        parts.append(section)
    return b"".join(parts)


def headers_size(abi: Abi, segments: int) -> int:
    """Bytes that `core_headers` will have."""
    count = segments + 1
    section = (40 if abi.word_size == 4 else 64) if count >= PN_XNUM else 0
    return abi.header_size + count * abi.entry_size + section


def _program_header(
    abi: Abi, kind: int, flags: int, offset: int, address: int, filesz: int, memsz: int
) -> bytes:
    align = 4 if kind == PT_NOTE else 4096
    if abi.word_size == 8:
        return struct.pack(
            f"{abi.order}II6Q", kind, flags, offset, address, 0, filesz, memsz, align
        )
    return struct.pack(f"{abi.order}8I", kind, offset, address, 0, filesz, memsz, flags, align)
