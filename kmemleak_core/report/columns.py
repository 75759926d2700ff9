"""Turns a report into tables for data tools: columns of arrays, some rows at a time.

A part of a table is a mapping of names to columns, the same names and types in every part; no part
is much larger than `ROWS` rows. Addresses are ``uint64``, traces numbers in the table ``traces``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._index import NO_TARGET
from .._index import ROWS as ROW_BITS
from ..errors import UsageError
from ..graph import POINTERS
from ..leaks import LEAK_DTYPE, Loss
from ..provenance import Provenance
from ..scan import Colour, ScanResult
from .escape import printable
from .model import RenderOptions, Report
from .select import shown_shape

#: Rows of a part.
ROWS = 1 << 20

#: Memcheck's kinds, by their codes.
_LOSSES = tuple(loss.name.lower() for loss in Loss)

#: Of a backtrace's frames in one text.
_BETWEEN = ";"


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """Texts, each told once.

    Parameters
    ----------
    codes
        ``(n,)`` ``int32``: index into `names`; −1 for none.
    names
        Distinct, and fit to be shown.
    """

    codes: NDArray[np.int32]
    names: Sequence[str]

    @classmethod
    def of(cls, codes: NDArray[Any] | None, names: Sequence[str], n: int) -> Coded:
        """Make a column of n rows of codes into names that may be equal, or hostile."""
        if codes is None:
            return cls(np.full(n, -1, np.int32), ())
        known: dict[str, int] = {"": -1}
        numbers = [known.setdefault(printable(name), len(known) - 1) for name in names]
        table = np.array([*numbers, -1], np.int32)  # the last one is that of −1
        return cls(table[codes], list(known)[1:])

    def take(self, rows: slice) -> Coded:
        """Return some rows."""
        return Coded(self.codes[rows], self.names)


@dataclass(frozen=True, slots=True, eq=False)
class Sparse:
    """Numbers that not every row has: values, and which rows they are of, ``(n,)`` each."""

    values: NDArray[Any]
    valid: NDArray[np.bool_]

    def take(self, rows: slice) -> Sparse:
        """Return some rows."""
        return Sparse(self.values[rows], self.valid[rows])


Column = NDArray[Any] | Coded | Sparse
Part = Mapping[str, Column]


def parts_of(report: Report, table: str, *, redact: bool = False) -> Iterator[Part]:
    """Yield the parts of a table, of which there is at least one.

    Parameters
    ----------
    report
        What is shown.
    table
        One of `TABLES`.
    redact
        Hide what memory holds.

    Raises
    ------
    UsageError
        There is no such table, or the report does not carry what is in it.
    """
    if table not in TABLES:
        raise UsageError(f"there is no table {table!r}", hint=f"one of: {', '.join(TABLES)}")
    return TABLES[table](report, redact)


def _objects(report: Report, redact: bool) -> Iterator[Part]:
    result = _scan_of(report)
    objects, n = result.objects, len(result.objects)
    order = np.empty(n, np.uint32)
    order[objects.allocation_order()] = np.arange(n, dtype=np.uint32)
    colours = [Colour(code).name.lower() for code in range(len(Colour))]
    origins = _origins(report.kinds, n)
    for rows in _slices(n):
        yield {
            "address": objects.address[rows],
            "size": objects.size[rows],
            "min_count": objects.min_count[rows],
            "count": result.count[rows],
            "loss": Coded(result.loss[rows].astype(np.int32), _LOSSES),
            "colour": Coded(result.colour[rows].astype(np.int32), colours),
            "flags": objects.flags[rows],
            "order": order[rows],
            **{name: column.take(rows) for name, column in origins.items()},
        }


def _leaks(report: Report, redact: bool) -> Iterator[Part]:
    table, n = report.leaks.array, len(report.leaks)
    origins: dict[str, Coded | Sparse] = _origins(report.provenance, n)
    origins["backtrace"] = _backtraces(report.provenance, n)
    for rows in _slices(n):
        yield {
            **{name: table[name][rows] for name in LEAK_DTYPE.names or ()},
            "held_by": table["address"][table["head"][rows]],
            **{name: column.take(rows) for name, column in origins.items()},
        }


def _possible(report: Report, redact: bool) -> Iterator[Part]:
    return _leaks(report.of_possible(), redact)


def _possible_groups(report: Report, redact: bool) -> Iterator[Part]:
    return _groups(report.of_possible(), redact)


def _groups(report: Report, redact: bool) -> Iterator[Part]:
    groups, options = report.groups, RenderOptions(redact=redact)
    sizes = [report.leaks["size"][group.rows] for group in groups]

    def numbers(values: Iterator[int]) -> NDArray[np.uint64]:
        return np.array(list(values), np.uint64)

    def texts(values: Iterator[str]) -> Coded:
        names = list(values)
        return Coded.of(np.arange(len(names)), names, len(names))

    yield {
        "group": np.arange(len(groups), dtype=np.int32),
        "objects": numbers(g.count for g in groups),
        "bytes": numbers(g.nbytes for g in groups),
        "direct_objects": numbers(g.direct_count for g in groups),
        "direct_bytes": numbers(g.direct_bytes for g in groups),
        "retained_objects": numbers(g.retained_count for g in groups),
        "retained_bytes": numbers(g.retained_bytes for g in groups),
        "min_size": numbers(int(size.min()) for size in sizes),
        "max_size": numbers(int(size.max()) for size in sizes),
        "example": numbers(g.example for g in groups),
        "shape": texts(shown_shape(g, options) for g in groups),
        "type": texts(g.origin.kind for g in groups),
        "backtrace": texts(_joined(g.origin.frames) for g in groups),
    }


def _roots(report: Report, redact: bool) -> Iterator[Part]:
    """Yield ranges, then registers: those have no size, and their value for an address.

    Registers hold parts of texts: redacted, their value is 0.
    """
    result = _scan_of(report)
    ranges, words = result.roots.ranges, result.roots.words
    rows = np.arange(len(ranges) + len(words))
    address, size = result.roots.range_arrays()
    kinds = [*(r.kind for r in ranges), *(w.kind for w in words)]
    names = [*(r.name for r in ranges), *(w.name for w in words)]
    hits = (result.word_targets != NO_TARGET).astype(np.int64)
    values = np.zeros(len(words), np.uint64) if redact else result.roots.word_array()
    yield {
        "root": rows.astype(np.int32),
        "kind": Coded.of(rows, kinds, rows.size),
        "name": Coded.of(rows, names, rows.size),
        "address": np.concatenate((address, values)),
        "size": np.concatenate((size, np.zeros(len(words), np.uint64))),
        "references": np.concatenate((np.diff(result.root_references.offsets), hits)),
    }


def _root_references(report: Report, redact: bool) -> Iterator[Part]:
    """Yield which roots refer to which objects, as `_references` does; registers come last."""
    result = _scan_of(report)
    address, ranges = result.objects.address, result.root_references
    for rows, targets, words in _pairs(ranges.offsets, ranges.targets):
        yield {"root": rows.astype(np.int32), **_edges(address, targets, words)}
    hits = np.flatnonzero(result.word_targets != NO_TARGET)
    rows = (hits + len(result.roots.ranges)).astype(np.int32)
    once = np.ones(hits.size, np.uint32)
    yield {"root": rows, **_edges(address, result.word_targets[hits], once)}


def _references(report: Report, redact: bool) -> Iterator[Part]:
    """Yield which objects refer to which: each pair and kind of pointer once, with its words."""
    result = _scan_of(report)
    if result.references is None:
        raise UsageError(
            "a scan with little memory keeps no references", hint="leave --low-memory out"
        )
    address = result.objects.address
    for rows, targets, words in _pairs(result.references.offsets, result.references.targets):
        yield {"source": address[rows], **_edges(address, targets, words)}


def _edges(
    address: NDArray[np.uint64], targets: NDArray[np.uint32], words: NDArray[Any]
) -> dict[str, Column]:
    return {
        "target": address[targets & np.uint32(ROW_BITS)],
        "pointer": Coded((targets >> np.uint32(30)).astype(np.int32), POINTERS),
        "words": words.astype(np.uint32),
    }


def _pairs(
    offsets: NDArray[np.int64], targets: NDArray[np.uint32]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[Any]]]:
    """Yield rows, targets and how many words; at least once, and a row's always together."""
    n, begin = offsets.size - 1, 0
    while begin < n or begin == 0:
        limit = int(np.searchsorted(offsets, offsets[begin] + ROWS, side="right")) - 1
        end = min(n, max(begin + 1, limit))
        some = targets[offsets[begin] : offsets[end]]
        own = np.repeat(np.arange(end - begin, dtype=np.uint64), np.diff(offsets[begin : end + 1]))
        keys, words = np.unique(own << np.uint64(32) | some, return_counts=True)
        rows = (keys >> np.uint64(32)).astype(np.int64) + begin
        yield rows, keys.astype(np.uint32), words
        begin = max(end, 1)


def _traces(report: Report, redact: bool) -> Iterator[Part]:
    told = report.origins or report.provenance
    column = None if told is None else told.trace
    used = np.empty(0, np.int64) if column is None else np.unique(column[column >= 0])
    names = [] if told is None else [_frames(told, trace) for trace in used.tolist()]
    texts = Coded.of(np.arange(used.size), names, used.size)
    for rows in _slices(used.size):
        yield {"trace": used[rows], "backtrace": texts.take(rows)}


def _origins(told: Provenance | None, n: int) -> dict[str, Coded | Sparse]:
    """Return the columns on what objects are and who allocated them."""
    told = told or Provenance()
    return {
        "type": Coded.of(told.kind, told.kinds, n),
        "trace": _sparse(told.trace, n, lambda trace: trace >= 0),
        "comm": Coded.of(told.comm, told.comms, n),
        "pid": _sparse(told.pid, n, lambda pid: pid >= 0),
        "birth": _sparse(told.birth, n, lambda birth: np.ones(birth.size, np.bool_)),
    }


def _sparse(
    column: NDArray[Any] | None, n: int, valid: Callable[[NDArray[Any]], NDArray[np.bool_]]
) -> Sparse:
    if column is None:
        return Sparse(np.zeros(n, np.int64), np.zeros(n, np.bool_))
    return Sparse(column.astype(np.int64, copy=False), valid(column))


def _backtraces(told: Provenance | None, n: int) -> Coded:
    if told is None or told.trace is None:
        return Coded.of(None, (), n)
    used, codes = np.unique(told.trace, return_inverse=True)
    names = [_frames(told, trace) if trace >= 0 else "" for trace in used.tolist()]
    return Coded.of(codes, names, n)


def _frames(told: Provenance, trace: int) -> str:
    name = told.symbol or hex
    return _joined(name(address) for address in told.traces[trace])


def _joined(frames: Any) -> str:
    return _BETWEEN.join(frame.replace(_BETWEEN, ":") for frame in frames)


def _slices(n: int) -> Iterator[slice]:
    """Yield slices of a table of n rows; one for none."""
    return (slice(begin, begin + ROWS) for begin in range(0, max(n, 1), ROWS))


def _scan_of(report: Report) -> ScanResult:
    if report.result is None:
        raise UsageError("this report does not carry the scan that it came from")
    return report.result


#: Tables: what makes their parts.
TABLES: Mapping[str, Callable[[Report, bool], Iterator[Part]]] = {
    "objects": _objects,
    "references": _references,
    "leaks": _leaks,
    "groups": _groups,
    "possible": _possible,
    "possible_groups": _possible_groups,
    "roots": _roots,
    "root_references": _root_references,
    "traces": _traces,
}
