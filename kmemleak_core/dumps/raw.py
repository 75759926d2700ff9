"""Turns plain memory and neutral tables into a Dump, an ObjectTable and Roots.

For dumps of anything: firmware, emulators, other allocators, an arena of one's own. Memory is
given as ``ADDRESS:FILE``. The tables are CSV, JSONL (an object a line) or npz (an array a
column), compressed or not, recognised by content. Numbers are decimal or hexadecimal with
``0x``; sizes are bytes; further columns are passed over. A CSV file without a line of names has
the columns in the order given here; lines that begin with ``#`` are comments.

Objects, in the order of their allocation if that is known:

==============  =====================================================================
address         of the first byte
size            bytes
min_count       references wanted; 1 if absent. 0: always reachable, −1: ignored
flags           integer (4 no_scan, 8 full_scan; other bits are passed over), or words
                with ``|`` between them: ``no_scan``, ``full_scan``, ``ignore``
excess_ref      address of an object that gets this object's surplus references
==============  =====================================================================

Roots, memory or single words:

==============  =====================================================================
kind            class, as ``--no-roots`` names it; ``memory`` or ``registers`` if empty
address         of the first byte (also called ``start``)
size            bytes
name            what a person calls it
value           instead of address and size: a root by itself, such as a register
==============  =====================================================================

Scan areas (optional): only these parts of an object are scanned.

==============  =====================================================================
object_address  of the object's first byte
start           of the area
size            bytes
==============  =====================================================================
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..dump import Dump
from ..errors import DumpError, OverlapError, UsageError
from ..image import ByteOrder, MemoryImage, Segment
from ..objects import BLACK, ObjectFlags, ObjectTable, blocks, inside
from ..roots import RootRange, Roots, RootWord
from .compressed import open_source
from .tables import Column, Table, read_table

Path = str | os.PathLike[str]

_IGNORE = 128  # our own bit, for the word: the kernel has none
_FLAG_WORDS = {
    "": 0,
    "none": 0,
    "no_scan": int(ObjectFlags.NO_SCAN),
    "full_scan": int(ObjectFlags.FULL_SCAN),
    "ignore": _IGNORE,
}
_OBJECTS = {
    "address": Column("u64"),
    "size": Column("u64"),
    "min_count": Column("i32", 1),
    "flags": Column("u64", 0, _FLAG_WORDS),
    "excess_ref": Column("u64", 0),
}
_ROOTS = {
    "kind": Column("text", ""),
    "address": Column("u64", 0),
    "size": Column("u64", 0),
    "name": Column("text", ""),
    "value": Column("text", ""),
}
_AREAS = {"object_address": Column("u64"), "start": Column("u64"), "size": Column("u64")}


def open_raw(memory: Iterable[str], *, word_size: int = 8, byteorder: ByteOrder = "little") -> Dump:
    """Open plain memory.

    Parameters
    ----------
    memory
        ``"ADDRESS:FILE"`` each.
    word_size
        Bytes in a pointer: 4 or 8.
    byteorder
        ``"little"`` or ``"big"``.

    Raises
    ------
    UsageError
        A specification that is none.
    DumpError
        A file that cannot be read, overlapping memory, or no memory at all.
    """
    coverage = Coverage()
    segments = []
    names = []
    limit = (1 << 64) - 1 if word_size == 8 else 1 << 32
    for item in memory:
        address, path = _split(item)
        source = open_source(path, coverage)
        if address + source.data.size > limit:
            raise DumpError(
                f"{source.data.size:,} bytes at {address:#x} leave the {word_size * 8}-bit "
                "address space",
                path=path,
            )
        segments.append(Segment(address, source.data, "rw-", "unknown", os.path.basename(path)))
        names.append(path)
    if not any(s.size for s in segments):
        raise DumpError("no memory was given", path=", ".join(names))
    try:
        image = MemoryImage(segments, word_size=word_size, byteorder=byteorder)
    except OverlapError as error:
        raise DumpError(str(error), path=", ".join(names)) from None
    except ValueError as error:
        raise UsageError(str(error)) from None
    return Dump(image, path=", ".join(names), format="raw", coverage=coverage)


def _split(item: str) -> tuple[int, str]:
    text, colon, path = item.partition(":")
    try:
        address = int(text, 0)
    except ValueError:
        address = -1
    if not colon or not path or not 0 <= address < 1 << 64:
        raise UsageError(
            f"--memory {item}: not an address and a file",
            hint="ADDRESS:FILE, such as 0x20000000:sram.bin",
        )
    return address, path


def read_objects(path: Path, scan_areas: Path | None = None) -> ObjectTable:
    """Read an object table; the module's docstring has the columns.

    Parameters
    ----------
    path
        The objects.
    scan_areas
        The scan areas, if any.

    Returns
    -------
    ObjectTable
        In `anomalies`: malformed rows, overlapping objects, scan areas that did not fit.

    Raises
    ------
    DumpError
        A file that cannot be read, or of which no row is left.
    """
    notes = Coverage()
    table = read_table(path, _OBJECTS, {"excess": "excess_ref"})
    columns = _usable(table, table.columns.get("address"), path, notes, "objects")
    # One value for all where the table has no such column: columns can be gigabytes.
    min_count: Any = columns.get("min_count", 1)
    flags: Any = columns.get("flags", 0)
    if "flags" in columns:
        ignored = (flags & np.uint64(_IGNORE)) != 0
        if ignored.any():
            min_count = np.where(ignored, np.int32(BLACK), min_count)
        flags = flags.astype(np.uint8) & np.uint8(ObjectFlags.NO_SCAN | ObjectFlags.FULL_SCAN)
    areas: list[tuple[int, int, int]] = []
    if scan_areas is not None:
        found = read_table(scan_areas, _AREAS, {"address": "object_address"})
        area = _usable(found, found.columns.get("start"), scan_areas, notes, "scan areas")
        areas = list(zip(*(area[name].tolist() for name in _AREAS), strict=True))
    try:
        made = ObjectTable.from_arrays(
            columns["address"],
            columns["size"],
            min_count,
            flags,
            excess_ref=columns.get("excess_ref"),
            scan_areas=areas,
            on_overlap="drop",
        )
    except ValueError as error:
        raise DumpError(str(error), path=os.fspath(path)) from None
    made.anomalies.notes[:0] = notes.notes
    return made


def read_roots(path: Path, coverage: Coverage | None = None) -> Roots:
    """Read roots; the module's docstring has the columns.

    Parameters
    ----------
    path
        The file.
    coverage
        Receives ``table.malformed``.

    Raises
    ------
    DumpError
        A file that cannot be read, or of which no row is left.
    """
    notes = Coverage() if coverage is None else coverage
    table = read_table(path, _ROOTS, {"start": "address"})
    columns = table.columns
    count = max((c.size for c in columns.values()), default=0)
    nothing = [""] * count
    zeros = [0] * count
    ranges = []
    words = []
    for kind, address, size, name, value in zip(
        columns["kind"].tolist() if "kind" in columns else nothing,
        columns["address"].tolist() if "address" in columns else zeros,
        columns["size"].tolist() if "size" in columns else zeros,
        columns["name"].tolist() if "name" in columns else nothing,
        columns["value"].tolist() if "value" in columns else nothing,
        strict=True,
    ):
        if value:
            number = _value(value)
            if number is None:
                table.malformed += 1
            else:
                words.append(RootWord(number, kind or "registers", name))
        elif size and address + size <= 1 << 64:
            ranges.append(RootRange(address, size, kind or "memory", name))
        else:
            table.malformed += 1
    if not ranges and not words:
        raise DumpError(
            "holds no roots",
            path=os.fspath(path),
            hint="columns: kind,address,size,name or kind,value,name",
        )
    _tell(table, path, notes, "roots")
    return Roots(ranges, words)


def _value(text: str) -> int | None:
    try:
        number = int(text, 0)
    except ValueError:
        return None
    return number if 0 <= number < 1 << 64 else None


def _usable(
    table: Table, start: NDArray[Any] | None, path: Path, notes: Coverage, what: str
) -> dict[str, NDArray[Any]]:
    """Leave out rows that leave the address space; tell how many were left out at all."""
    columns = table.columns
    if start is not None and start.size:
        size = columns["size"]
        if not all(inside(start[part], size[part]).all() for part in blocks(start.size)):
            good = inside(start, size)
            table.malformed += int((~good).sum())
            columns = {name: column[good] for name, column in columns.items()}
            start = start[good]
    if start is None or not start.size:
        raise DumpError(
            f"holds no {what}" + (f": {table.malformed} malformed rows" if table.malformed else ""),
            path=os.fspath(path),
            hint="columns: " + ",".join(_OBJECTS if what == "objects" else _AREAS),
        )
    _tell(table, path, notes, what)
    return columns


def _tell(table: Table, path: Path, notes: Coverage, what: str) -> None:
    if table.malformed:
        where = f", the first on line {table.first_line}" if table.first_line else ""
        notes.add(
            "table.malformed",
            f"{os.fspath(path)}: {table.malformed} rows are no {what} and were left out{where}",
            count=table.malformed,
        )
