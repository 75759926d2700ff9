"""Turns the symbol table of a kernel's vmlinux into its symbols, where the dump has none.

A vmlinux is linked for one address and runs at another (KASLR): what the dump knows of ``_stext``
tells how far apart they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DumpError
from .kallsyms import address_of, spans_of
from .table import SymbolColumns

#: Bytes of symbols, and of their names, that no kernel has.
_LARGEST = 1 << 30

#: Names for tools, which ``scripts/kallsyms.c`` leaves out too.
_IGNORED = (b"$", b".L", b"L0", b"__crc_", b"__kstrtab", b"__efistub_", b"__kvm_nvhe_")

_FIELDS = {
    4: ("name", "value", "size", "info", "other", "section"),
    8: ("name", "info", "other", "section", "value", "size"),
}
_TYPES = {4: "u4, u4, u4, u1, u1, u2", 8: "u4, u1, u1, u2, u8, u8"}

_ABSOLUTE = 0xFFF1
_SECTION, _FILE = 3, 4
_GLOBAL, _WEAK = 1, 2
_WRITABLE, _CODE, _NO_BYTES = (np.uint64(flag) for flag in (1, 4, 256))


def read_elf_symbols(path: str | Path, info: Mapping[str, str]) -> SymbolColumns:
    """Read the symbols of a kernel's file, moved to where the kernel ran.

    Parameters
    ----------
    path
        The vmlinux.
    info
        VMCOREINFO of the dump.

    Raises
    ------
    DumpError
        It is no ELF file or has no symbols, or where the kernel ran is not known.
    """
    rows, text, flags = _table(path)
    names = np.frombuffer(text, np.uint8)
    kind, section = rows["info"] & 15, rows["section"]
    wanted = (section != 0) & (kind != _SECTION) & (kind != _FILE) & (rows["name"] < names.size)
    rows = rows[wanted]
    known = [text[at : text.index(b"\0", at)] for at in rows["name"].tolist()]
    letters = _letters(rows, flags)
    order = sorted(
        (
            (int(value), letter == ord("W"), *_late(name), name, i)
            for i, (value, letter, name) in enumerate(
                zip(rows["value"].tolist(), letters.tolist(), known, strict=True)
            )
            if name and not name.startswith(_IGNORED)
        )
    )
    sort = np.array([entry[-1] for entry in order], np.intp)
    rows = rows[sort]
    found = SymbolColumns(
        rows["value"].astype(np.uint64), text, rows["name"], letters[sort], spans=()
    )
    shift = _shift(found, info, str(path))
    # Per-CPU symbols count from 0, wherever the kernel runs.
    moved = (rows["section"] != _ABSOLUTE) & (found.addresses >> np.uint64(31) != 0)
    found.addresses = np.where(moved, found.addresses + np.uint64(shift), found.addresses)
    found.spans = tuple(spans_of(found))
    return found


def symbol_record(word_size: int, order: str) -> np.dtype[Any]:
    """Return the layout of ``Elf32_Sym`` or ``Elf64_Sym``, in a byte order (``"<"``, ``">"``)."""
    record = np.dtype(_TYPES[word_size]).newbyteorder(order)  # type: ignore[arg-type]
    record.names = _FIELDS[word_size]
    return record


def _late(name: bytes) -> tuple[bool, int]:
    """Tell how far behind others of its address kallsyms puts a name, as what it may be."""
    marks = name.startswith((b"__start_", b"__stop_", b"__end_"))
    marks |= name.startswith(b"__") and name.endswith((b"_start", b"_end"))
    return marks, len(name) - len(name.lstrip(b"_"))


def _shift(symbols: SymbolColumns, info: Mapping[str, str], path: str) -> int:
    for name in ("_stext", "init_uts_ns", "swapper_pg_dir"):
        ran, linked = address_of(info, name), symbols.address(name)
        if ran is not None and linked is not None:
            return ran - linked & (1 << 64) - 1
    raise DumpError("where the kernel ran is not known: VMCOREINFO has no _stext", path=path)


def _letters(rows: NDArray[Any], flags: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return the letter that ``nm`` gives each, as far as the section's flags tell."""
    kind = flags[np.minimum(rows["section"].astype(np.int64), flags.size - 1)]
    letter = np.select(
        [
            rows["info"] >> 4 == _WEAK,
            rows["section"] == _ABSOLUTE,
            kind & _CODE != 0,
            kind & _NO_BYTES != 0,
            kind & _WRITABLE != 0,
        ],
        [ord(letter) for letter in "Watbd"],
        ord("r"),
    )
    return np.where(rows["info"] >> 4 == _GLOBAL, letter & ~32, letter).astype(np.uint8)


def _table(path: str | Path) -> tuple[NDArray[Any], bytes, NDArray[np.uint64]]:
    """Return the symbols, their names, and each section's flags (and whether it has bytes)."""
    from elftools.common.exceptions import ELFError
    from elftools.construct import ConstructError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.sections import SymbolTableSection

    try:
        with open(path, "rb") as file:
            elf = ELFFile(file)
            word, order = elf.elfclass // 8, "<" if elf.little_endian else ">"
            record = symbol_record(word, order)
            flags = []
            table = None
            for section in elf.iter_sections():
                nobits = section["sh_type"] == "SHT_NOBITS"
                flags.append(section["sh_flags"] & 7 | nobits << 8)
                if isinstance(section, SymbolTableSection) and not nobits:
                    table = section
            if table is None or max(table["sh_size"], table.stringtable["sh_size"]) > _LARGEST:
                raise DumpError("has no symbols", path=str(path))
            raw, text = bytes(table.data()), bytes(table.stringtable.data())
    except (ELFError, ConstructError, ValueError, OverflowError, UnicodeDecodeError) as error:
        raise DumpError(f"cannot be read as ELF: {error}", path=str(path)) from error
    if not text.endswith(b"\0"):
        raise DumpError("its table of names is damaged", path=str(path))
    rows = np.frombuffer(raw[: len(raw) // record.itemsize * record.itemsize], record)
    return rows, text, np.array(flags, np.uint64)
