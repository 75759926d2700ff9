"""Turns the first bytes of an ELF file into a checked header and columns of program headers.

Layouts: the System V ABI's ``Elf32_Ehdr``/``Elf64_Ehdr`` and ``Elf32_Phdr``/``Elf64_Phdr``;
``PN_XNUM`` as Linux writes it (``fs/binfmt_elf.c``: the true count is ``sh_info`` of section 0).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..errors import DumpError
from ..image import ByteOrder

Bytes = NDArray[np.uint8]

ELF_MAGIC = b"\x7fELF"

ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
EM_386, EM_ARM, EM_X86_64, EM_AARCH64 = 3, 40, 62, 183
PT_LOAD, PT_INTERP, PT_NOTE = 1, 3, 4
PN_XNUM = 0xFFFF

#: Names of machines, for `Dump.architecture`.
ARCHITECTURES = {
    2: "sparc",
    EM_386: "i386",
    4: "m68k",
    8: "mips",
    15: "parisc",
    20: "ppc",
    21: "ppc64",
    22: "s390x",
    EM_ARM: "arm",
    42: "sh",
    43: "sparc64",
    50: "ia64",
    EM_X86_64: "x86_64",
    EM_AARCH64: "aarch64",
    243: "riscv",
    258: "loongarch",
}

_SIZES = ("offset", "address", "physical", "filesz", "memsz")
_PROGRAM_HEADER = {
    4: [("type", "u4"), *((name, "u4") for name in _SIZES), ("flags", "u4"), ("align", "u4")],
    8: [("type", "u4"), ("flags", "u4"), *((name, "u8") for name in _SIZES), ("align", "u8")],
}

#: More notes than this are not read: a file of zeros is a sequence of empty notes, and a
#: process of 100,000 threads has fewer than ten each.
MAX_NOTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ElfHeader:
    """The file header, decoded.

    Parameters
    ----------
    word_size
        Bytes in a pointer: 4 or 8.
    byteorder
        ``"little"`` or ``"big"``.
    type, machine
        ``e_type`` and ``e_machine``.
    phoff, phentsize, phnum, shoff
        Where the program headers and section headers are, as the file says.
    """

    word_size: int
    byteorder: ByteOrder
    type: int
    machine: int
    phoff: int
    phentsize: int
    phnum: int
    shoff: int

    @property
    def order(self) -> str:
        """The byte order as `struct` and numpy write it."""
        return "<" if self.byteorder == "little" else ">"

    @property
    def architecture(self) -> str:
        """The machine's name, or ``"unknown"``."""
        return ARCHITECTURES.get(self.machine, "unknown")


@dataclass(frozen=True, slots=True)
class ProgramHeaders:
    """The program headers as columns, each ``(n,)``; types, flags ``uint32``, others ``uint64``."""

    type: NDArray[np.uint32]
    flags: NDArray[np.uint32]
    offset: NDArray[np.uint64]
    address: NDArray[np.uint64]
    physical: NDArray[np.uint64]
    filesz: NDArray[np.uint64]
    memsz: NDArray[np.uint64]
    align: NDArray[np.uint64]

    def __len__(self) -> int:
        return int(self.type.size)

    def select(self, chosen: NDArray[np.bool_]) -> ProgramHeaders:
        """Return the rows that a mask chooses."""
        return ProgramHeaders(
            *(getattr(self, name)[chosen] for name in ProgramHeaders.__dataclass_fields__)
        )


@dataclass(frozen=True, slots=True)
class Note:
    """One note: where its descriptor is in the file."""

    name: bytes
    type: int
    offset: int
    size: int


def read_header(data: Bytes, path: str = "") -> ElfHeader:
    """Decode the file header.

    Parameters
    ----------
    data
        The file, ``uint8``.
    path
        For error messages.

    Raises
    ------
    DumpError
        Not ELF, or cut off inside the header, or of a class or byte order that do not exist.
    """
    ident = data[:16].tobytes()
    if ident[:4] != ELF_MAGIC:
        raise DumpError("not an ELF file", path=path, offset=0)
    if len(ident) < 16:
        raise _cut(path, data)
    if ident[4] not in (1, 2):
        raise DumpError(f"ELF class {ident[4]} is neither 32- nor 64-bit", path=path, offset=4)
    if ident[5] not in (1, 2):
        raise DumpError(
            f"ELF data encoding {ident[5]} is neither little- nor big-endian", path=path, offset=5
        )
    word_size = 4 * ident[4]
    byteorder: ByteOrder = "little" if ident[5] == 1 else "big"
    word = "I" if word_size == 4 else "Q"
    layout = struct.Struct(f"{'<' if byteorder == 'little' else '>'}HHI3{word}I6H")
    raw = data[16 : 16 + layout.size].tobytes()
    if len(raw) < layout.size:
        raise _cut(path, data)
    kind, machine, _, _, phoff, shoff, _, _, phentsize, phnum, *_ = layout.unpack(raw)
    return ElfHeader(word_size, byteorder, kind, machine, phoff, phentsize, phnum, shoff)


def read_program_headers(
    data: Bytes, header: ElfHeader, coverage: Coverage, path: str = ""
) -> ProgramHeaders:
    """Decode as many program headers as the file holds.

    Parameters
    ----------
    data
        The file, ``uint8``.
    header
        Its header.
    coverage
        Receives what was missing.
    path
        For error messages.

    Raises
    ------
    DumpError
        No program header can be read at all.
    """
    order = header.order
    dtype = np.dtype([(name, order + kind) for name, kind in _PROGRAM_HEADER[header.word_size]])
    if header.phnum == 0:
        raise DumpError("the ELF header announces no program headers", path=path)
    if header.phentsize != dtype.itemsize:
        raise DumpError(
            f"program headers of {header.phentsize} bytes, where this ELF class has "
            f"{dtype.itemsize}",
            path=path,
            offset=42 if header.word_size == 4 else 54,
            hint="the file header is damaged: dump the process again",
        )
    room = max(0, data.size - header.phoff) // dtype.itemsize
    if room == 0:
        raise DumpError(
            f"the program headers lie beyond the end of the file ({data.size} bytes)",
            path=path,
            offset=header.phoff,
            hint="the dump was cut off (disk full, or a limit on its size): dump again",
        )
    count = header.phnum
    if count == PN_XNUM:
        count = _extended_count(data, header, coverage, dtype, room)
    if count > room:
        coverage.add(
            "dump.headers",
            f"{count - room} of {count} program headers lie beyond the end of the file: "
            "their memory is unknown",
            count=count - room,
        )
        count = room
    table = data[header.phoff : header.phoff + count * dtype.itemsize].view(dtype)
    return ProgramHeaders(
        *(
            np.ascontiguousarray(table[name], dtype=np.uint32 if name in "type flags" else "u8")
            for name in ProgramHeaders.__dataclass_fields__
        )
    )


def _extended_count(
    data: Bytes, header: ElfHeader, coverage: Coverage, dtype: np.dtype[np.void], room: int
) -> int:
    at = header.shoff + (28 if header.word_size == 4 else 44)
    if header.shoff and at + 4 <= data.size:
        count = int(data[at : at + 4].view(f"{header.order}u4")[0])
        if count:
            return count
    # The kernel writes section 0 after all memory, so a truncated dump has lost it. The headers
    # end at the latest where the first thing they describe begins.
    table = data[header.phoff : header.phoff + room * dtype.itemsize].view(dtype)
    offsets = table["offset"][: PN_XNUM + 1]
    begins = offsets[offsets > header.phoff]
    limit = int(begins.min()) if begins.size else data.size
    count = max(1, min(room, (limit - header.phoff) // dtype.itemsize))
    coverage.add(
        "dump.headers",
        f"the number of program headers is lost with the end of the file; {count} were found",
    )
    return count


def iterate_notes(
    data: Bytes, begin: int, end: int, byteorder: ByteOrder, problems: list[str]
) -> Iterator[Note]:
    """Yield the notes of one note segment.

    Names and descriptors are padded to four bytes in 64-bit cores too, whatever the ABI's text
    says: so do Linux and gdb.

    Parameters
    ----------
    data
        The file, ``uint8``.
    begin, end
        The segment, as file offsets; clipped to the file.
    byteorder
        Of the file.
    problems
        Receives a sentence when a note does not fit into what is left.
    """
    end = min(end, int(data.size))
    layout = struct.Struct("<III" if byteorder == "little" else ">III")
    at = begin
    while at + 12 <= end:
        name_size, size, kind = layout.unpack(data[at : at + 12].tobytes())
        name_at = at + 12
        offset = name_at + (name_size + 3 & ~3)
        if offset + size > end:
            problems.append(f"the note at file offset {at:#x} is cut off or damaged")
            return
        # The longest name in use has 10 bytes; a longer one is nothing that we know.
        name = data[name_at : name_at + min(name_size, 32)].tobytes().split(b"\0", 1)[0]
        yield Note(name, kind, offset, size)
        at = offset + (size + 3 & ~3)
    if at < end:
        problems.append(f"{end - at} stray bytes at file offset {at:#x}, after the last note")


def _cut(path: str, data: Bytes) -> DumpError:
    return DumpError(
        f"the file ends inside its ELF header (it has {data.size} bytes)",
        path=path,
        hint="the dump was cut off (disk full, or a limit on its size): dump again",
    )
