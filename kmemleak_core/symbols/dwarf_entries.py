"""Turns the DWARF of a program's file into its entries, found by where they stand.

pyelftools reads the entries; which ones are read is decided here, so that a file of a gigabyte, or
one that is made to mislead, costs a bounded number of them. Layouts: DWARF 5, chapter 7.
"""

from __future__ import annotations

import io
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import Any

import numpy as np

from .elf_file import ElfFile, Section

#: Entries that are read for one dump (some 25 µs each) before the rest stays unread.
_MOST_ENTRIES = 200_000
#: Bytes of one section, unpacked.
_MOST_BYTES = 1 << 28
_COMPRESSED = 0x800
_ZLIB, _ZSTD = 1, 2
_LOCAL_REFERENCES = frozenset(f"DW_FORM_ref{n}" for n in ("1", "2", "4", "8", "_udata"))

_SHARED_REFERENCES = frozenset(("DW_FORM_GNU_ref_alt", "DW_FORM_ref_sup4", "DW_FORM_ref_sup8"))

#: One entry (DIE) as pyelftools reads it.
Entry = Any


class TooMuchError(Exception):
    """So much of a file's DWARF was read that the rest is left alone."""


class DamagedError(Exception):
    """What was read is no DWARF, or of a kind that is not read."""


class Budget:
    """How many entries may still be read, of all files of a dump together."""

    def __init__(self, most: int = _MOST_ENTRIES) -> None:
        self._left = most

    def spend(self) -> None:
        """Take one; raises `TooMuchError` if there is none left."""
        self._left -= 1
        if self._left < 0:
            raise TooMuchError


class Entries:
    """The entries of one file's DWARF, read one by one.

    Parameters
    ----------
    file
        The program, library or debug file.
    budget
        What reading takes from.
    shared
        The file that it shares entries with, if it names one.

    Raises
    ------
    DamagedError
        It has no DWARF, or more than is read.
    """

    def __init__(self, file: ElfFile, budget: Budget, shared: ElfFile | None = None) -> None:
        self._file = file
        self._budget = budget
        self.wide = file.header.word_size == 8
        self.order = "little" if file.header.order == "<" else "big"
        self.info = self._content("debug_info")
        if not self.info:
            raise DamagedError("it has no DWARF")
        self._shared: Entries | None = None
        if shared is not None:
            with suppress(DamagedError):
                self._shared = Entries(shared, budget)

    @cached_property
    def _dwarf(self) -> Any:
        from elftools.dwarf.dwarfinfo import DebugSectionDescriptor, DwarfConfig, DWARFInfo

        names = "info aranges abbrev frame str loc ranges line pubtypes pubnames addr str_offsets"
        names += " line_str loclists rnglists sup types"
        sections: dict[str, Any] = {f"debug_{name}_sec": None for name in names.split()}
        sections |= {"eh_frame_sec": None, "gnu_debugaltlink_sec": None}
        for name in ("debug_info", "debug_abbrev", "debug_str", "debug_line_str"):
            content = self.info if name == "debug_info" else self._content(name)
            stream = io.BytesIO(content)
            sections[f"{name}_sec"] = DebugSectionDescriptor(stream, name, 0, len(content), 0)
        config = DwarfConfig(
            little_endian=self.order == "little",
            machine_arch="x64" if self.wide else "x86",
            default_address_size=8 if self.wide else 4,
        )
        made = DWARFInfo(config=config, **sections)
        if self._shared is not None:
            made.supplementary_dwarfinfo = self._shared._dwarf
        return made

    def _content(self, name: str) -> bytes:
        section = next((s for s in self._file.sections if s.name == f".{name}"), None)
        if section is None or section.type == 8:  # that of a file whose debug file has it
            return b""
        if section.size > _MOST_BYTES:
            raise DamagedError(f"its .{name} has {section.size:,} bytes")
        raw = self._file.data[section.offset : section.offset + section.size]
        return _unpacked(raw.tobytes(), section, self.order, self.wide)

    @cached_property
    def _units(self) -> list[int]:
        """Where each unit begins in .debug_info."""
        info, at, units = self.info, 0, []
        while at + 12 <= len(info):
            units.append(at)
            length = int.from_bytes(info[at : at + 4], self.order)  # type: ignore[arg-type]
            at += 4
            if length == 0xFFFFFFFF:
                length = int.from_bytes(info[at : at + 8], self.order)  # type: ignore[arg-type]
                at += 8
            if not 0 < length <= len(info) - at:
                break
            at += length
        return units

    def find(self, needle: bytes, begin: int = 0) -> int:
        """Return where bytes stand in .debug_info from some place on; −1 for nowhere."""
        return self.info.find(needle, begin)

    def around(self, at: int) -> tuple[Entry, ...] | None:
        """Return the entry that a byte of .debug_info belongs to, and those above it, outermost
        first; None if it is in none.

        Raises
        ------
        TooMuchError
        DamagedError
        """
        with _reading():
            unit = self._unit(at)
            if unit is None:
                return None
            above: list[Entry] = []
            next_at = unit.cu_die_offset
            end = min(len(self.info), unit.cu_offset + unit.size)
            while next_at <= at < end:
                entry = self._entry(unit, next_at)
                next_at += entry.size
                if entry.is_null():
                    if not above:
                        return None
                    above.pop()
                elif at < next_at:
                    return (*above, entry)
                elif entry.has_children:
                    sibling = _sibling(entry)
                    if sibling is not None and next_at <= sibling <= at:
                        next_at = sibling
                    else:
                        above.append(entry)
        return None

    def above(self, entry: Entry) -> list[Entry]:
        """Return the entries above one, in whichever file it is; raises as `around`."""
        around = self._owner(entry).around(entry.offset)
        return [] if around is None else list(around[:-1])

    def children(self, entry: Entry) -> Iterator[Entry]:
        """Yield the entries right below one; raises as `around`."""
        if not entry.has_children:
            return
        at, depth = entry.offset + entry.size, 0
        while True:
            with _reading():
                child = self._owner(entry)._entry(entry.cu, at)
                at += child.size
            if child.is_null():
                if depth == 0:
                    return
                depth -= 1
                continue
            if depth == 0:
                yield child
            if child.has_children:
                sibling = _sibling(child)
                if sibling is not None and sibling >= at:
                    at = sibling
                else:
                    depth += 1

    def referred(self, entry: Entry, name: str) -> Entry | None:
        """Return the entry that an attribute refers to; None without it; raises as `around`.

        None as well where it is in a file that is not there, or is found by a signature.
        """
        found = entry.attributes.get(name)
        if found is None:
            return None
        owner: Entries | None = self._owner(entry)
        if found.form in _LOCAL_REFERENCES:
            unit, at = entry.cu, entry.cu.cu_offset + found.raw_value
        else:
            if found.form in _SHARED_REFERENCES:
                owner = self._shared
            elif found.form != "DW_FORM_ref_addr":
                return None
            at = found.raw_value
            with _reading():
                unit = None if owner is None else owner._unit(at)
        if owner is None or unit is None:
            return None
        with _reading():
            return owner._entry(unit, at)

    def _owner(self, entry: Entry) -> Entries:
        """Return of which file an entry is."""
        if self._shared is not None and entry.cu.dwarfinfo is self._shared._dwarf:
            return self._shared
        return self

    def _unit(self, at: int) -> Any:
        """Return the unit that a byte of .debug_info belongs to; None if it is in none."""
        i = bisect_right(self._units, at) - 1
        return None if i < 0 else self._dwarf.get_CU_at(self._units[i])

    def _entry(self, unit: Any, at: int) -> Entry:
        from elftools.dwarf.die import DIE

        self._budget.spend()
        if at >= len(self.info):
            raise DamagedError("its entries reach past its end")
        return DIE(unit, unit.get_top_DIE().stream, at)


@contextmanager
def _reading() -> Iterator[None]:
    """Word whatever pyelftools says of a damaged file: its errors are of many kinds."""
    try:
        yield
    except (TooMuchError, DamagedError, MemoryError):
        raise
    except Exception as error:
        raise DamagedError(f"{type(error).__name__}: {error}") from error


def _sibling(entry: Entry) -> int | None:
    """Return where the entry behind one and all below it stands, if it says so."""
    found = entry.attributes.get("DW_AT_sibling")
    if found is None or found.form not in _LOCAL_REFERENCES:
        return None
    return int(found.value) + int(entry.cu.cu_offset)


def _unpacked(raw: bytes, section: Section, order: str, wide: bool) -> bytes:
    """Return a section's content, unpacked where it is compressed (gABI, chapter 4)."""
    if not section.flags & _COMPRESSED:
        return raw
    word = np.dtype(("<" if order == "little" else ">") + ("u8" if wide else "u4"))
    head = 24 if wide else 12
    if len(raw) < head:
        raise DamagedError(f"its {section.name} is cut off")
    kind = int.from_bytes(raw[:4], order)  # type: ignore[arg-type]
    size = int(np.frombuffer(raw, word, 1, 8 if wide else 4)[0])
    if size > _MOST_BYTES:
        raise DamagedError(f"its {section.name} has {size:,} bytes")
    unpack: Callable[[bytes], bytes]
    if kind == _ZLIB:

        def unpack(packed: bytes) -> bytes:
            return zlib.decompressobj().decompress(packed, size)

    elif kind == _ZSTD:

        def unpack(packed: bytes) -> bytes:
            import zstandard

            with zstandard.ZstdDecompressor().stream_reader(packed) as stream:
                return bytes(stream.read(size))

    else:
        raise DamagedError(f"its {section.name} is compressed in a way that is not known ({kind})")
    with _reading():
        return unpack(raw[head:])
