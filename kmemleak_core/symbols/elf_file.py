"""Turns the bytes of a program or library into its sections, and its symbols found by address.

These files are input like the dump itself: counts and offsets are checked against the file before
use, whatever does not fit is left out, and nothing raises. Layouts: System V gABI, chapter 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dumps.elf_headers import Bytes, ElfHeader, read_header
from ..errors import DumpError
from .elf import symbol_record

_SYMTAB, _NOBITS, _DYNSYM = 2, 8, 11
_ALLOCATED, _OF_THREADS = 2, 0x400
_NOTYPE, _OBJECT, _FUNCTION, _TLS, _INDIRECT = 0, 1, 2, 6, 10
_FIRST_RESERVED = 0xFF00
_GLOBAL = 1
#: How many symbols may lie over one another before the walk back to those ends.
_MOST_NESTED = 256
#: Bytes behind a symbol without a size that may still be its own (assembler code).
_REACH = 4096


@dataclass(frozen=True, slots=True)
class Section:
    """One section of a file; offset, size and address in bytes."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int


@dataclass(frozen=True, slots=True)
class FileSymbol:
    """A symbol as its file has it: the address is not yet moved to where the file was mapped."""

    name: str
    address: int
    size: int
    is_code: bool


class ElfFile:
    """Sections and symbols of one ELF file.

    Parameters
    ----------
    data
        The file.
    path
        Where it lies, if that is known.

    Raises
    ------
    DumpError
        It has no ELF header.
    """

    def __init__(self, data: Bytes, path: str = "") -> None:
        self.data = data
        self.path = path
        self.header = read_header(data)

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """The sections that the file holds."""
        return tuple(_sections(self.data, self.header))

    @property
    def has_symtab(self) -> bool:
        """Whether it was not stripped."""
        return any(s.type == _SYMTAB for s in self.sections)

    @property
    def has_dwarf(self) -> bool:
        """Whether it holds debugging symbols."""
        return any(s.name == ".debug_info" and s.type != _NOBITS for s in self.sections)

    def section_at(self, address: int) -> Section | None:
        """Return the section that is loaded at an address of the file's own."""
        for section in self.sections:
            if (
                section.flags & (_ALLOCATED | _OF_THREADS) == _ALLOCATED
                and section.address <= address < section.address + section.size
            ):
                return section
        return None

    def find(self, address: int, *, of_threads: bool = False) -> FileSymbol | None:
        """Return the symbol that an address of the file's own lies in.

        Parameters
        ----------
        address
            As the file counts; of thread-local variables: from where the module's begin.
        of_threads
            Whether thread-local variables are meant.
        """
        return (self._of_threads if of_threads else self._usual).find(address)

    @cached_property
    def _usual(self) -> _Symbols:
        return self._symbols((_NOTYPE, _OBJECT, _FUNCTION, _INDIRECT))

    @cached_property
    def _of_threads(self) -> _Symbols:
        return self._symbols((_TLS,))

    def _symbols(self, kinds: tuple[int, ...]) -> _Symbols:
        rows, text = self._table
        section = rows["section"]
        kept = np.isin(rows["info"] & 15, kinds) & (section != 0) & (section < _FIRST_RESERVED)
        kept &= (rows["name"] > 0) & (rows["name"] < len(text))
        kept &= rows["value"].astype(np.uint64) < np.uint64(1 << 63)
        return _Symbols(rows[kept], text)

    @cached_property
    def _table(self) -> tuple[NDArray[Any], bytes]:
        """Return the records of .symtab, or else of .dynsym, and their names."""
        record = symbol_record(self.header.word_size, self.header.order)
        for kind in (_SYMTAB, _DYNSYM):
            for section in self.sections:
                if section.type != kind or not section.link < len(self.sections):
                    continue
                raw = self._content(section)
                names = self._content(self.sections[section.link])
                rows = raw[: raw.size // record.itemsize * record.itemsize].view(record)
                if rows.size and names.size:
                    return rows, names.tobytes() + b"\0"
        return np.empty(0, record), b""

    def _content(self, section: Section) -> Bytes:
        if section.type == _NOBITS:
            return self.data[:0]
        return np.ascontiguousarray(self.data[section.offset : section.offset + section.size])


def _sections(data: Bytes, header: ElfHeader) -> list[Section]:
    wide = header.word_size == 8
    tail = data[0x3A if wide else 0x2E :][:6].tobytes()
    if len(tail) < 6:
        return []
    size, count, names_at = np.frombuffer(tail, header.order + "u2").tolist()
    word = header.order + f"u{header.word_size}"
    half = header.order + "u4"
    record = np.dtype(
        [
            ("name", half),
            ("type", half),
            ("flags", word),
            ("address", word),
            ("offset", word),
            ("size", word),
            ("link", half),
            ("info", half),
            ("align", word),
            ("entry", word),
        ]
    )
    if size != record.itemsize or not 0 < header.shoff < data.size:
        return []
    room = (data.size - header.shoff) // size
    table = data[header.shoff :][: min(count, room) * size].copy().view(record)
    rows = [
        Section("", int(r["type"]), *(int(r[n]) for n in record.names[2:7]))  # type: ignore[index]
        for r in table
    ]
    if not names_at < len(rows):
        return rows
    at = rows[names_at]
    text = data[at.offset : at.offset + min(at.size, 1 << 20)].tobytes()
    return [
        Section(
            text[name : name + 256].split(b"\0", 1)[0].decode("latin-1"),
            *(getattr(row, field) for field in Section.__slots__[1:]),
        )
        for name, row in zip(table["name"].tolist(), rows, strict=True)
    ]


class _Symbols:
    """Symbols of one file in the order of their addresses."""

    def __init__(self, rows: NDArray[Any], text: bytes) -> None:
        value = rows["value"].astype(np.uint64)
        order = np.argsort(value, kind="stable")
        self.rows = rows[order]
        self.text = text
        self.value = value[order]
        length = np.minimum(self.rows["size"].astype(np.uint64), np.uint64(1 << 62))
        self.end = self.value + length
        # How far any symbol up to each reaches: where to stop walking back.
        self.reach = np.maximum.accumulate(self.end)

    def find(self, address: int) -> FileSymbol | None:
        if not 0 <= address < 1 << 63:
            return None
        last = int(np.searchsorted(self.value, np.uint64(address), side="right")) - 1
        found = []
        for i in range(last, max(last - _MOST_NESTED, -1), -1):
            if int(self.reach[i]) <= address:
                break
            if int(self.end[i]) > address:
                found.append(i)
        if not found:
            # A label has no size: what follows it is its own, up to the next symbol.
            first = last
            while first > max(0, last - _MOST_NESTED) and self.value[first - 1] == self.value[last]:
                first -= 1
            found = [
                i
                for i in range(max(first, 0), last + 1)
                if self.end[i] == self.value[i] and address - int(self.value[i]) < _REACH
            ]
        if not found:
            return None
        return min((self._symbol(i) for i in found), key=lambda pair: pair[0])[1]

    def _symbol(self, i: int) -> tuple[tuple[Any, ...], FileSymbol]:
        """Return a symbol and how it ranks among those of the same address."""
        row = self.rows[i]
        start = int(row["name"])
        name = self.text[start : self.text.index(b"\0", start)].decode("utf-8", "replace")
        kind, binding = int(row["info"]) & 15, int(row["info"]) >> 4
        size = int(row["size"])
        rank = (size, binding != _GLOBAL, len(name) - len(name.lstrip("_")), name)
        is_code = kind in (_FUNCTION, _INDIRECT)
        return rank, FileSymbol(name, int(self.value[i]), size, is_code)


def open_elf(data: Bytes, path: str = "") -> ElfFile | None:
    """Return a file's sections and symbols; None where it is no ELF file."""
    try:
        return ElfFile(data, path)
    except DumpError:
        return None
