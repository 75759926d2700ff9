"""Turns a CSV, JSONL or npz file into checked numpy columns, counting the rows that are wrong."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DumpError
from .compressed import open_source
from .npz import read_arrays
from .source import Source

_BATCH = 1 << 16
_MAX_LINE = 1 << 20
_DTYPES: dict[str, Any] = {
    "u64": np.uint64, "i32": np.int32, "u8": np.uint8, "f64": np.float64, "text": np.object_
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """What one column holds.

    Parameters
    ----------
    kind
        ``"u64"``, ``"i32"``, ``"u8"``, ``"f64"`` or ``"text"``.
    default
        Value of an empty or absent cell; None makes the cell obligatory.
    words
        Words that stand for bits, ``|`` between them.
    """

    kind: str
    default: int | float | str | None = None
    words: dict[str, int] = field(default_factory=dict)

    @property
    def dtype(self) -> Any:
        """The numpy type."""
        return _DTYPES[self.kind]


@dataclass(slots=True)
class Table:
    """Columns of equal length, and what was wrong.

    Parameters
    ----------
    columns
        By name, ``(n,)`` each; absent columns that have a default are left out.
    malformed
        Rows left out.
    first_line
        Line (row of an npz) of the first of them.
    """

    columns: dict[str, NDArray[Any]]
    malformed: int = 0
    first_line: int = 0


def read_table(
    path: str | os.PathLike[str], spec: dict[str, Column], aliases: dict[str, str] | None = None
) -> Table:
    """Read a table, compressed or not; columns that are not in `spec` are passed over.

    Parameters
    ----------
    path
        The file: CSV (with or without a line of column names; without, the columns are those of
        `spec` in order), JSONL (an object a line) or npz, recognised by content.
    spec
        The columns.
    aliases
        Other names of columns.

    Raises
    ------
    DumpError
        The file cannot be read, or lacks an obligatory column.
    """
    return table_of(open_source(path), spec, aliases)


def table_of(
    source: Source, spec: dict[str, Column], aliases: dict[str, str] | None = None
) -> Table:
    """Do as `read_table` does, with an opened file."""
    collector = _Collector(source.path, spec, aliases or {})
    if source.head.startswith(b"PK\x03\x04"):
        _read_npz(source, collector)
    elif source.head.lstrip().startswith(b"{"):
        _read_jsonl(source, collector)
    else:
        _read_csv(source, collector)
    return collector.finish()


class _Collector:
    """Turns batches of cells into columns."""

    def __init__(self, path: str, spec: dict[str, Column], aliases: dict[str, str]) -> None:
        self.path = path
        self.spec = spec
        self.aliases = aliases
        self.seen: set[str] = set()
        self.parts: dict[str, list[NDArray[Any]]] = {name: [] for name in spec}
        self.malformed = 0
        self.first_line = 0

    def canonical(self, name: str) -> str:
        name = name.strip().lower()
        return self.aliases.get(name, name)

    def reject(self, line: int, count: int = 1) -> None:
        if not self.malformed or line < self.first_line:
            self.first_line = line
        self.malformed += count

    def take(self, cells: dict[str, list[Any]], lines: list[int]) -> None:
        """Take a batch: the cells of each column that is there, and the line of each row."""
        good = np.ones(len(lines), dtype=bool)
        made = {}
        for name, column in self.spec.items():
            if name in cells:
                made[name] = _convert(cells[name], column, good)
            elif column.default is None:
                good[:] = False
            else:
                made[name] = np.full(len(lines), column.default, dtype=column.dtype)
        self.seen |= cells.keys()
        bad = np.flatnonzero(~good)
        if bad.size:
            self.reject(lines[int(bad[0])], int(bad.size))
        for name, array in made.items():
            self.parts[name].append(array[good])

    def take_whole(self, name: str, array: NDArray[Any]) -> None:
        """Take a column of which every row is right, without a copy where that can be."""
        dtype = np.dtype(self.spec[name].dtype)
        same = array.dtype.isnative and array.dtype.itemsize == dtype.itemsize
        self.parts[name] = [array.view(dtype) if same else array.astype(dtype)]
        self.seen.add(name)

    def finish(self) -> Table:
        return Table(
            {
                name: parts[0] if len(parts) == 1 else np.concatenate(parts)
                for name, parts in self.parts.items()
                if parts and name in self.seen
            },
            self.malformed,
            self.first_line,
        )


def _convert(cells: list[Any], column: Column, good: NDArray[np.bool_]) -> NDArray[Any]:
    dtype = column.dtype
    if column.kind == "text":
        out = np.empty(len(cells), dtype=np.object_)
        out[:] = [str(column.default or "") if c in ("", None) else str(c) for c in cells]
        return out
    if column.kind == "f64":
        return _floats(cells, column, good)
    info = np.iinfo(dtype)
    try:
        # What nearly all batches are: known words, and numbers that int() understands and that fit.
        words = column.words
        if words:
            return np.array([words[c] if c in words else int(c, 0) for c in cells], dtype=dtype)
        return np.array([int(c, 0) for c in cells], dtype=dtype)
    except (ValueError, TypeError, OverflowError):
        pass
    numbers = np.zeros(len(cells), dtype=dtype)
    for i, cell in enumerate(cells):
        value = _number(cell, column)
        if value is None or not info.min <= value <= info.max:
            good[i] = False
        else:
            numbers[i] = value
    return numbers


def _floats(cells: list[Any], column: Column, good: NDArray[np.bool_]) -> NDArray[Any]:
    numbers = np.zeros(len(cells))
    for i, cell in enumerate(cells):
        empty = cell is None or cell == ""
        try:
            numbers[i] = float(column.default if empty else cell)  # type: ignore[arg-type]
        except (ValueError, TypeError, OverflowError):
            good[i] = False
    good &= np.isfinite(numbers)
    return numbers


def _number(cell: Any, column: Column) -> int | None:
    if isinstance(cell, (int, np.integer)) and not isinstance(cell, bool):
        return int(cell)
    if cell is None or cell == "":
        return None if column.default is None else int(column.default)
    if not isinstance(cell, str):
        return None
    cell = cell.strip()
    if not cell:
        return None if column.default is None else int(column.default)
    try:
        # int(…, 0) refuses decimal numbers with leading zeros.
        return int(cell, 10) if re.fullmatch(r"-?[0-9]{1,20}", cell) else int(cell, 0)
    except ValueError:
        pass
    bits = 0
    for word in cell.lower().split("|"):
        if word.strip() not in column.words:
            return None
        bits |= column.words[word.strip()]
    return bits


def lines_of(source: Source) -> Iterator[str]:
    """Yield a file's lines; those that are too long in pieces."""
    rest = b""
    for at in range(0, int(source.data.size), _MAX_LINE):
        block = rest + source.data[at : at + _MAX_LINE].tobytes()
        whole, newline, rest = block.rpartition(b"\n")
        if newline:
            for line in whole.decode("utf-8", "replace").split("\n"):
                yield line + "\n"
        if len(rest) > _MAX_LINE:
            # No table has such lines; to go on collecting would take quadratic time.
            yield rest.decode("utf-8", "replace") + "\n"
            rest = b""
    if rest:
        yield rest.decode("utf-8", "replace")


def _read_csv(source: Source, collector: _Collector) -> None:
    reader = csv.reader(lines_of(source))
    names: list[str] | None = None
    rows: list[list[str]] = []
    lines: list[int] = []

    def flush() -> None:
        if rows:
            assert names is not None
            columns = zip(*rows, strict=True)
            collector.take(
                {n: list(c) for n, c in zip(names, columns, strict=True) if n in collector.spec},
                lines,
            )
            rows.clear()
            lines.clear()

    while True:
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error:
            collector.reject(reader.line_num)
            continue
        if not row or row[0].startswith("#"):
            continue
        if names is None:
            names, is_header = _header(row, collector)
            if is_header:
                continue
        if len(row) != len(names):
            # Columns at the end may be left out; a row that says more than the header is wrong.
            if len(row) > len(names):
                collector.reject(reader.line_num)
                continue
            row = row + [""] * (len(names) - len(row))
        rows.append(row)
        lines.append(reader.line_num)
        if len(rows) == _BATCH:
            flush()
    flush()


def _header(row: list[str], collector: _Collector) -> tuple[list[str], bool]:
    names = [collector.canonical(cell.lstrip("\ufeff")) for cell in row]
    known = set(names) & set(collector.spec)
    if not known:
        # No names: the columns of the specification, in its order.
        return list(collector.spec), False
    missing = [n for n, c in collector.spec.items() if c.default is None and n not in known]
    if missing:
        raise DumpError(
            f"has no column {', '.join(map(repr, missing))} (it has: {', '.join(names)[:200]})",
            path=collector.path,
        )
    # A name that occurs twice counts once.
    return [n if names.index(n) == i else "" for i, n in enumerate(names)], True


def _read_jsonl(source: Source, collector: _Collector) -> None:
    batch: list[dict[str, Any]] = []
    lines: list[int] = []

    def flush() -> None:
        if batch:
            present = {name for record in batch for name in record if name in collector.spec}
            collector.take({name: [r.get(name) for r in batch] for name in present}, lines)
            batch.clear()
            lines.clear()

    for number, line in enumerate(lines_of(source), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            collector.reject(number)
            continue
        batch.append({collector.canonical(str(key)): value for key, value in record.items()})
        lines.append(number)
        if len(batch) == _BATCH:
            flush()
    flush()


def _read_npz(source: Source, collector: _Collector) -> None:
    def choose(name: str) -> str | None:
        name = collector.canonical(name)
        return name if name in collector.spec else None

    arrays = read_arrays(source, choose)
    missing = [n for n, c in collector.spec.items() if c.default is None and n not in arrays]
    if missing:
        raise DumpError(f"has no array {', '.join(map(repr, missing))}", path=source.path)
    if all(_fits(array, collector.spec[name]) for name, array in arrays.items()):
        for name, array in arrays.items():
            collector.take_whole(name, array)
        return
    count = next(iter(arrays.values())).size if arrays else 0
    for begin in range(0, count, _BATCH):
        end = min(count, begin + _BATCH)
        collector.take(
            {name: _cells(array[begin:end]) for name, array in arrays.items()},
            list(range(begin, end)),
        )


def _fits(array: NDArray[Any], column: Column) -> bool:
    """Whether all of an array are numbers of a column's type."""
    if column.kind == "text" or array.dtype.kind not in "iu":
        return False
    if np.can_cast(array.dtype, column.dtype):
        return True
    info = np.iinfo(column.dtype)
    return all(
        info.min <= int(part.min()) and int(part.max()) <= info.max
        for part in np.split(array, range(_BATCH, array.size, _BATCH))
        if part.size
    )


def _cells(array: NDArray[Any]) -> list[Any]:
    if array.dtype.kind in "iu":
        return array.tolist()  # type: ignore[no-any-return]
    if array.dtype.kind == "S":
        return [cell.decode("utf-8", "replace") for cell in array.tolist()]
    return [cell if isinstance(cell, str) else None for cell in array.tolist()]
