"""Turns files that tell of allocations and frees into an EventLog, recognised by content.

A table is CSV, JSONL (an object a line) or npz (an array a column), an event a row, in the order
in which they happened; compressed or not. Numbers are decimal or hexadecimal with ``0x``. A CSV
file without a line of names has the columns in the order given here; lines that begin with ``#``
are comments.

==========  ======================================================================================
kind        ``alloc``, ``free``, ``free_part``, ``resize``, ``realloc``, or 0 to 4
address     of the object (for a realloc: where it is now), or of the part that is freed
size        bytes; 0 if absent
time        any unit; 0 if absent
trace       call site: any text; or the frames of a backtrace, innermost first, with ``;`` between
thread      any number; 0 if absent
old         for a realloc: where the object was
==========  ======================================================================================

An npz file holds numbers alone, kinds 0 to 3, and may name its traces in an array of texts,
``trace_names``. glibc's ``mtrace`` logs are read, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..dumps.compressed import open_source
from ..dumps.npz import read_arrays
from ..dumps.source import Source
from ..dumps.tables import Column, table_of
from ..errors import DumpError, UsageError
from ..event_log import EventKind, EventLog, leaving
from ..plugins import registered

#: A realloc: in an EventLog it is a FREE and an ALLOC.
_REALLOC = 4
_WORDS = {
    "alloc": int(EventKind.ALLOC),
    "malloc": int(EventKind.ALLOC),
    "calloc": int(EventKind.ALLOC),
    "+": int(EventKind.ALLOC),
    "free": int(EventKind.FREE),
    "-": int(EventKind.FREE),
    "free_part": int(EventKind.FREE_PART),
    "resize": int(EventKind.RESIZE),
    "realloc": _REALLOC,
}
_COLUMNS = {
    "kind": Column("u8", words=_WORDS),
    "address": Column("u64"),
    "size": Column("u64", 0),
    "time": Column("f64", 0.0),
    "trace": Column("text", ""),
    "thread": Column("u64", 0),
    "old": Column("u64", 0),
}
_ALIASES = {
    "event": "kind", "type": "kind", "op": "kind", "addr": "address", "ptr": "address",
    "pointer": "address", "bytes": "size", "timestamp": "time", "caller": "trace",
    "stack": "trace", "tid": "thread", "old_address": "old",
}  # fmt: skip
_ARRAYS = ("kind", "address", "size", "time", "trace", "thread")


class EventFormat(Protocol):
    """One format of event logs.

    Third parties add theirs through the entry points ``kmemleak_core.event_logs``: each names a
    callable without parameters that returns such an object.
    """

    name: str

    def matches(self, head: bytes) -> bool:
        """Whether a log with these first bytes (up to 4096) is of this format."""
        ...

    def read(self, source: Source) -> EventLog:
        """Read the log; `DumpError` where it is damaged beyond use."""
        ...


def event_formats() -> Iterator[EventFormat]:
    """Yield every known format: ours that have marks of their own, others', then plain tables."""
    from .mtrace import MtraceFormat

    yield NpzFormat()
    yield MtraceFormat()
    for entry in registered("kmemleak_core.event_logs"):
        yield entry.load()()
    yield TableFormat()


def open_events(path: str | os.PathLike[str], *, format: str | None = None) -> EventLog:
    """Read an event log of any known format, compressed (zstd, gzip, xz, lz4) or not.

    Parameters
    ----------
    path
        The file.
    format
        Name of the format; recognised by content if None.

    Raises
    ------
    DumpError
        The file cannot be read, is no event log, or no event is left of it.
    UsageError
        No format has that name.
    """
    source = open_source(path)
    head = source.head
    names = []
    for candidate in event_formats():
        names.append(candidate.name)
        if candidate.matches(head) if format is None else candidate.name == format:
            return candidate.read(source)
    if format is not None:
        raise UsageError(
            f"no format of event logs is called {format!r}", hint=f"one of: {', '.join(names)}"
        )
    raise DumpError(
        f"is no log of allocations (it begins with {head[:8].hex(' ')})",
        path=source.path,
        hint="a table with the columns kind,address,size (CSV, JSONL, npz), or glibc's mtrace",
    )


def write_events(log: EventLog, path: str | os.PathLike[str]) -> None:
    """Write a log as npz, the format that is read fastest; a file that is there is an error."""
    columns: dict[str, NDArray[Any]] = {}
    for name in _ARRAYS:
        column = getattr(log, name)
        if column is not None:
            columns[name] = column
    if log.trace_names:
        columns["trace_names"] = np.array(log.trace_names, dtype=np.str_)
    with Path(path).open("xb") as stream:
        np.savez(stream, allow_pickle=False, **columns)


class NpzFormat:
    """An array a column."""

    name = "npz"

    def matches(self, head: bytes) -> bool:
        """Whether it is a zip archive."""
        return head.startswith(b"PK\x03\x04")

    def read(self, source: Source) -> EventLog:
        """Read the arrays."""
        arrays = read_arrays(source, lambda name: name if name in _ARRAYS else None)
        named = read_arrays(source, lambda name: name if name == "trace_names" else None)
        missing = [name for name in ("kind", "address") if name not in arrays]
        if missing:
            raise DumpError(f"has no array {', '.join(map(repr, missing))}", path=source.path)
        arrays.setdefault("size", np.zeros(arrays["kind"].size, dtype=np.uint64))
        names = named.get("trace_names", np.empty(0, np.str_))
        if names.dtype.kind != "U":
            raise DumpError("has an array 'trace_names' that holds no texts", path=source.path)
        return finish(source, self.name, arrays, names.tolist())


class TableFormat:
    """CSV or JSONL, an event a row."""

    name = "table"

    def matches(self, head: bytes) -> bool:
        """Whether it is text at all."""
        return bool(head.strip()) and b"\0" not in head

    def read(self, source: Source) -> EventLog:
        """Read the rows."""
        table = table_of(source, _COLUMNS, _ALIASES)
        columns = table.columns
        if "kind" not in columns or "address" not in columns:
            columns = {"kind": np.empty(0, np.uint8), "address": np.empty(0, np.uint64)}
        columns.setdefault("size", np.zeros(columns["kind"].size, dtype=np.uint64))
        names: list[str] = []
        if "trace" in columns:
            columns["trace"] = numbered(columns["trace"].tolist(), names)
        if "thread" in columns:
            # Any numbers will do: they are only told apart.
            known, columns["thread"] = np.unique(columns["thread"], return_inverse=True)
            if known.size and int(known[-1]) < 1 << 31:
                columns["thread"] = known[columns["thread"]].astype(np.int32)
        columns = _split_reallocs(columns)
        return finish(source, self.name, columns, names, table.malformed, table.first_line)


def numbered(texts: list[str], names: list[str]) -> NDArray[np.int32]:
    """Return each text's number, in the order of first use; fills `names`. Empty ones are −1."""
    numbers: dict[str, int] = {"": -1}
    found = np.array([numbers.setdefault(t, len(numbers) - 1) for t in texts], dtype=np.int32)
    names.extend(list(numbers)[1:])
    return found


def finish(
    source: Source,
    format: str,
    columns: dict[str, NDArray[Any]],
    names: list[str],
    malformed: int = 0,
    first_line: int = 0,
) -> EventLog:
    """Make the log of what was read: events that cannot be are left out, and counted.

    Parameters
    ----------
    source, format
        Where it was read.
    columns
        By name; kind, address and size at least.
    names
        Of traces.
    malformed, first_line
        Rows that were left out before, and the line of the first of them.

    Raises
    ------
    DumpError
        Columns of wrong types, or no event is left.
    """
    coverage = Coverage()
    coverage.extend(source.coverage)
    try:
        kind, address, size = (np.asarray(columns[name]) for name in ("kind", "address", "size"))
        good = np.ones(kind.size, dtype=np.bool_)
        if kind.dtype.kind in "iu":
            good &= (kind >= 0) & (kind <= max(EventKind))
        if address.dtype.kind in "iu" and size.dtype.kind in "iu":
            good &= (address >= 0) & (size >= 0)
            good &= ~leaving(kind, address.astype(np.uint64), size.astype(np.uint64))
        if not good.all():
            malformed += int(np.count_nonzero(~good))
            columns = {name: column[good] for name, column in columns.items()}
        log = EventLog.from_arrays(
            **columns, trace_names=names, path=source.path, format=format, coverage=coverage
        )
    except ValueError as error:
        raise DumpError(f"is no log of allocations: {error}", path=source.path) from None
    where = f", the first on line {first_line}" if first_line else ""
    if not len(log):
        raise DumpError(
            "holds no events" + (f": {malformed} malformed rows{where}" if malformed else ""),
            path=source.path,
            hint="columns: " + ",".join(_COLUMNS),
        )
    if malformed:
        coverage.add(
            "events.malformed",
            f"{source.path}: {malformed} rows are no events and were left out{where}",
            count=malformed,
        )
    return log


def _split_reallocs(columns: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Make a free and an allocation of each realloc."""
    old = columns.pop("old", None)
    moved = columns["kind"] == _REALLOC
    if not moved.any():
        return columns
    first = np.flatnonzero(moved)
    columns = {name: np.repeat(column, 1 + moved) for name, column in columns.items()}
    # Each is one row further on for each realloc before it.
    frees = first + np.arange(first.size)
    gone = np.zeros(first.size, dtype=np.uint64) if old is None else old[first]
    # One that failed leaves the object where it was; one to 0 bytes is a free.
    failed = (columns["address"][frees] == 0) & (columns["size"][frees] != 0)
    columns["kind"][frees] = EventKind.FREE
    columns["address"][frees] = np.where(failed, np.uint64(0), gone)
    columns["size"][frees] = 0
    columns["kind"][frees + 1] = EventKind.ALLOC
    return columns
