"""Turns the kallsyms tables in a kernel's memory into its symbols.

The tables are those that ``scripts/kallsyms.c`` writes and ``kernel/kallsyms.c`` reads. Where they
are, VMCOREINFO tells since Linux 6.0 (commit 5fd8fea935a1); before, they are searched for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DumpError, FaultError
from ..image import MemoryImage
from .table import SymbolColumns

#: More symbols than any kernel has, and more bytes than their names take.
_MOST_SYMBOLS = 1 << 23
_MOST_NAMES = 1 << 28

_HINT = "give the kernel's vmlinux: --vmlinux FILE"


def read_kallsyms(image: MemoryImage, info: Mapping[str, str]) -> SymbolColumns:
    """Decode a kernel's symbols.

    Parameters
    ----------
    image
        The kernel's memory, by virtual address.
    info
        VMCOREINFO.

    Raises
    ------
    DumpError
        VMCOREINFO does not tell where they are and they are not found either, part of the tables
        is not in the dump, or they are damaged.
    """
    tables = dict(_tables(info))
    wanted = {"names", "num_syms", "token_table", "token_index"}
    if not wanted <= tables.keys() or not tables.keys() & {"offsets", "addresses"}:
        return _search(image, info)
    try:
        return _decode(image, tables, info)
    except FaultError as error:
        raise DumpError(
            f"the table of the kernel's symbols is not whole in the dump: {error}", hint=_HINT
        ) from error


def _search(image: MemoryImage, info: Mapping[str, str]) -> SymbolColumns:
    """Decode the tables that are found in memory, the first ones that VMCOREINFO agrees with."""
    from .kallsyms_search import find_tables

    code = address_of(info, "_stext")
    if code is not None:
        for tables in find_tables(image, code):
            try:
                found = _decode(image, tables, info)
            except (DumpError, FaultError):
                continue
            if found.address("_stext") == code:
                return found
    raise DumpError(
        "VMCOREINFO does not tell where the kernel's symbols are, nor are they found", hint=_HINT
    )


def _decode(
    image: MemoryImage, tables: Mapping[str, int], info: Mapping[str, str]
) -> SymbolColumns:
    from .._kallsyms import decode, measure

    order = "<" if image.byteorder == "little" else ">"
    count = int(image.view(tables["num_syms"], 4).view(f"{order}u4")[0])
    if not 0 < count <= _MOST_SYMBOLS:
        raise _damaged(f"it claims to hold {count:,}")
    index = image.view(tables["token_index"], 512).view(f"{order}u2").astype(np.uint16)
    tokens = _upto(image, tables["token_table"], tables["token_index"], 1 << 16)
    names = _upto(image, tables["names"], tables["token_table"], min(count * 512, _MOST_NAMES))
    try:
        whole, room = measure(names, count, tokens, index)
    except ValueError as error:
        raise _damaged(str(error)) from error
    if whole < count or room > _MOST_NAMES:
        raise _damaged(f"only {whole:,} of {count:,} can be read")
    text = np.empty(room, np.uint8)
    start, kind = np.empty(count, np.uint32), np.empty(count, np.uint8)
    decode(names, tokens, index, text, start, kind)
    known = SymbolColumns(np.zeros(count, np.uint64), text.tobytes(), start, kind, spans=())
    for address in _addresses(image, tables, count):
        known.addresses = address
        if _agree(known, info):
            break
    else:
        raise _damaged("the addresses are not those of VMCOREINFO")
    if np.any(known.addresses[1:] < known.addresses[:-1]):
        raise _damaged("the addresses are not sorted")
    known.spans = tuple(spans_of(known))
    return known


def _tables(info: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Yield the tables that VMCOREINFO tells, by what follows ``kallsyms_`` in their names."""
    for key in info:
        match = re.fullmatch(r"SYMBOL\((kallsyms_(\w+))\)", key)
        if match and (address := address_of(info, match[1])) is not None:
            yield match[2], address


def address_of(info: Mapping[str, str], symbol: str) -> int | None:
    """Return the address of a symbol that VMCOREINFO has."""
    told = info.get(f"SYMBOL({symbol})", "")
    return int(told, 16) if re.fullmatch("[0-9a-fA-F]{1,16}", told) else None


def _upto(image: MemoryImage, start: int, next_table: int, most: int) -> NDArray[np.uint8]:
    """Return a table of unknown length: up to the next one, if that lies behind it."""
    if start < next_table <= start + most:
        most = next_table - start
    return image.upto(start, most)


def _addresses(
    image: MemoryImage, tables: Mapping[str, int], count: int
) -> Iterator[NDArray[np.uint64]]:
    """Yield the addresses as each way to store them would have them."""
    order = "<" if image.byteorder == "little" else ">"
    word = image.word_dtype
    if "addresses" in tables:  # until 4.6, and without CONFIG_KALLSYMS_BASE_RELATIVE
        raw: NDArray[Any] = image.view(tables["addresses"], count * word.itemsize).view(word)
        yield raw.astype(np.uint64)
        return
    offset = image.view(tables["offsets"], count * 4).view(f"{order}i4").astype(np.int64)
    mask = np.uint64((1 << (word.itemsize * 8)) - 1)
    if "relative_base" not in tables:
        # Each counts from its own place in the table.
        at = np.uint64(tables["offsets"]) + np.arange(count, dtype=np.uint64) * np.uint64(4)
        yield (at + offset.view(np.uint64)) & mask
        return
    base = np.uint64(image.word(tables["relative_base"]))
    # CONFIG_KALLSYMS_ABSOLUTE_PERCPU: what is not negative is an address.
    relative = base - np.uint64(1) - offset.view(np.uint64)
    yield np.where(offset >= 0, offset.view(np.uint64), relative & mask)
    yield (base + (offset & 0xFFFFFFFF).view(np.uint64)) & mask


def _agree(symbols: SymbolColumns, info: Mapping[str, str]) -> bool:
    """Whether the addresses of symbols are those that VMCOREINFO has."""
    for name in ("_stext", "init_uts_ns", "swapper_pg_dir", "node_online_map"):
        told = address_of(info, name)
        if told is not None and (rows := symbols.rows(name)).size:
            return told in symbols.addresses[rows].tolist()
    return True


def spans_of(symbols: SymbolColumns) -> Iterator[tuple[int, int]]:
    """Yield the ranges in which the kernel looks for its own symbols (``is_ksym_addr``)."""
    for low, high in (("_stext", "_end"), ("_stext", "_etext"), ("_sinittext", "_einittext")):
        begin, end = symbols.address(low), symbols.address(high)
        if begin is not None and end is not None and begin < end:
            yield begin, end
            if high == "_end":  # CONFIG_KALLSYMS_ALL
                return


def _damaged(why: str) -> DumpError:
    return DumpError(f"the table of the kernel's symbols is damaged: {why}", hint=_HINT)
