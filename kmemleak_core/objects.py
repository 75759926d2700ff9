"""Turns columns of addresses and sizes into an ObjectTable: sorted, checked, no overlaps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntFlag
from typing import Any, Literal

import numpy as np
from intervaltree import IntervalTree
from numpy.typing import ArrayLike, NDArray

from .coverage import Coverage
from .errors import OverlapError

#: Rows that are checked at a time.
_ROWS = 1 << 16

#: Min_count of a black object: never reported, never scanned.
BLACK = -1
#: Min_count of an object that is gray from the start: never reported, always scanned.
GREY = 0


class ObjectFlags(IntFlag):
    """What is special about an object.

    NO_SCAN and FULL_SCAN have the kernel's values. EXACT_END is for an object that fills its
    mapping: one past its end is where somebody else's memory begins, never a pointer to it.
    """

    NONE = 0
    NO_SCAN = 4
    FULL_SCAN = 8
    EXACT_END = 128


class ObjectTable:
    """Tracked objects as a structure of arrays, sorted by address, without overlaps.

    Built by `from_arrays`. Row numbers ("indices" everywhere else) are positions in address
    order; `order` leads back to the order of allocation.

    Attributes
    ----------
    address, size : ndarray of uint64, shape (n,)
        Where each object starts and its length in bytes.
    min_count : ndarray of int32, shape (n,)
        References wanted: 1 usual, 0 grey, −1 black.
    flags : ndarray of uint8, shape (n,)
        `ObjectFlags`.
    order : ndarray of uint32, shape (n,), or None
        Row of the k-th allocated object; None where address order is all that is known.
    excess_ref : ndarray of uint64, shape (n,), or None
        Surplus references to this object count for the object that starts at that address;
        0 for none.
    area_offsets, area_address, area_size : ndarrays, or None
        Scan areas of row i are entries ``area_offsets[i]:area_offsets[i + 1]``, in the order
        in which they are scanned.
    trace : ndarray of int64, shape (n,), or None
        A key of the caller's for the allocation backtrace.
    anomalies : Coverage
        Overlapping objects that were dropped, scan areas that did not fit.
    """

    __slots__ = (
        "address",
        "anomalies",
        "area_address",
        "area_offsets",
        "area_size",
        "excess_ref",
        "flags",
        "min_count",
        "order",
        "size",
        "trace",
    )

    def __init__(self) -> None:
        self.address: NDArray[np.uint64] = np.empty(0, np.uint64)
        self.size: NDArray[np.uint64] = np.empty(0, np.uint64)
        self.min_count: NDArray[np.int32] = np.empty(0, np.int32)
        self.flags: NDArray[np.uint8] = np.empty(0, np.uint8)
        self.order: NDArray[np.uint32] | None = None
        self.excess_ref: NDArray[np.uint64] | None = None
        self.area_offsets: NDArray[np.int64] | None = None
        self.area_address: NDArray[np.uint64] | None = None
        self.area_size: NDArray[np.uint64] | None = None
        self.trace: NDArray[np.int64] | None = None
        self.anomalies = Coverage()

    @classmethod
    def from_arrays(
        cls,
        address: ArrayLike,
        size: ArrayLike,
        min_count: ArrayLike = 1,
        flags: ArrayLike = 0,
        *,
        excess_ref: ArrayLike | None = None,
        trace: ArrayLike | None = None,
        scan_areas: Iterable[tuple[int, int, int]] = (),
        on_overlap: Literal["error", "drop"] = "error",
        allocation_order: bool = True,
    ) -> ObjectTable:
        """Build a table from columns in any order.

        Parameters
        ----------
        address, size
            ``(n,)`` integers. An object of size 0 occupies its start address, so that it can
            be found, but has nothing to scan.
        min_count, flags
            ``(n,)`` or one value for all.
        excess_ref, trace
            ``(n,)`` or None.
        scan_areas
            ``(object address, area start, area size)``: only these parts of that object are
            scanned. As in the kernel the area added last is scanned first. An area that
            leaves its object is dropped and told in `anomalies`.
        on_overlap
            ``"error"`` raises; ``"drop"`` keeps the object that comes first in the input and
            tells the dropped ones in `anomalies`.
        allocation_order
            Whether the rows come in the order of allocation; otherwise that is unknown.

        Raises
        ------
        OverlapError
            Two objects claim the same address.
        ValueError
            Columns of different lengths, or an object that leaves the address space.
        """
        start = _column(address, np.uint64, "address")
        length = _column(size, np.uint64, "size")
        n = start.size
        if length.size != n:
            raise ValueError(f"{n} addresses but {length.size} sizes")
        if n >= 1 << 30:
            raise ValueError("a table holds fewer than 2**30 objects")
        columns = {
            "min_count": _spread(min_count, np.int32, n, "min_count"),
            "flags": _spread(flags, np.uint8, n, "flags"),
        }
        if excess_ref is not None:
            columns["excess_ref"] = _spread(excess_ref, np.uint64, n, "excess_ref")
        if trace is not None:
            columns["trace"] = _spread(trace, np.int64, n, "trace")

        table = cls()
        rows: NDArray[Any] | None = None  # input rows by address; None: they are sorted already
        if not _ascending(start):
            rows = np.argsort(start, kind="stable")
            start, length = start[rows], length[rows]
        if _overlapping(start, length):
            end = _ends(start, length)
            keep = _resolve_overlaps(start, length, end, rows, on_overlap, table.anomalies)
            rows = np.flatnonzero(keep) if rows is None else rows[keep]
            start, length = start[keep], length[keep]
        if rows is not None:
            for name, column in columns.items():
                columns[name] = column[rows]
            if allocation_order:
                table.order = np.argsort(rows, kind="stable").astype(np.uint32)
        table.address = start
        table.size = length
        for name, column in columns.items():
            setattr(table, name, column)
        areas = list(scan_areas)
        if areas:
            table.set_scan_areas(areas)
        return table

    def set_scan_areas(self, areas: Iterable[tuple[int, int, int]]) -> None:
        """Restrict what is scanned of some objects; see `from_arrays` for the areas."""
        accepted: list[tuple[int, int, int, int]] = []
        for position, (owner, start, size) in enumerate(areas):
            row = self.find(owner)
            if row is None or int(self.address[row]) != owner:
                self.anomalies.add(
                    "objects.scan-area", f"scan area of an unknown object {owner:#x}", address=owner
                )
                continue
            end = owner + int(self.size[row])
            if start < owner or size < 0 or start + size > end:
                self.anomalies.add(
                    "objects.scan-area",
                    f"scan area {start:#x} (size {size}) leaves its object {owner:#x}",
                    address=start,
                )
                continue
            accepted.append((row, -position, start, size))
        accepted.sort()
        rows = np.array([a[0] for a in accepted], dtype=np.int64)
        self.area_offsets = np.searchsorted(rows, np.arange(len(self) + 1)).astype(np.int64)
        self.area_address = np.array([a[2] for a in accepted], dtype=np.uint64)
        self.area_size = np.array([a[3] for a in accepted], dtype=np.uint64)

    def find(self, address: int) -> int | None:
        """Return the row of the object that holds an address, or None."""
        row = int(np.searchsorted(self.address, np.uint64(address), side="right")) - 1
        if row < 0 or address >= int(self.address[row]) + max(1, int(self.size[row])):
            return None
        return row

    def allocation_order(self) -> NDArray[Any]:
        """Return all rows in allocation order (address order where that is not known)."""
        return np.arange(len(self)) if self.order is None else self.order

    @property
    def nbytes(self) -> int:
        """Bytes in all objects together."""
        return int(self.size.sum(dtype=np.uint64))

    def __len__(self) -> int:
        return int(self.address.size)

    def __repr__(self) -> str:
        return f"<ObjectTable {len(self):,} objects, {self.nbytes:,} bytes>"


def _column(values: ArrayLike, dtype: Any, name: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has {array.ndim} dimensions, one is wanted")
    if array.size == 0:
        return np.empty(0, dtype)
    if array.dtype.kind not in "iub" and not (
        array.dtype == object and all(isinstance(v, int) for v in array)
    ):
        raise ValueError(f"{name} holds {array.dtype}, integers are wanted")
    signed = np.dtype(dtype).kind == "u" and array.dtype.kind in "iO"
    if signed and any(bool(np.any(array[part] < 0)) for part in blocks(array.size)):
        raise ValueError(f"{name} holds a negative number")
    try:
        # A column that is right as it is stays the caller's: it can be a file larger than memory.
        return np.require(array, dtype, ["C", "ALIGNED"])
    except OverflowError:
        raise ValueError(f"{name} holds a number beyond {np.dtype(dtype)}") from None


def _spread(values: ArrayLike, dtype: Any, n: int, name: str) -> NDArray[Any]:
    if np.ndim(values) == 0:
        # Zeros that nobody writes to take no memory.
        return np.full(n, values, dtype=dtype) if values else np.zeros(n, dtype=dtype)
    column = _column(values, dtype, name)
    if column.size != n:
        raise ValueError(f"{n} addresses but {column.size} values of {name}")
    return column


def blocks(n: int) -> Iterator[slice]:
    """Yield slices that cover n rows: what is made for each stays in the cache."""
    return (slice(begin, begin + _ROWS) for begin in range(0, n, _ROWS))


def inside(start: NDArray[np.uint64], length: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which objects lie in the address space, ``(n,)`` ``bool``."""
    # One more is kept free, so that one past an end is an address too.
    room = np.uint64((1 << 64) - 1) - start
    kept: NDArray[np.bool_] = np.maximum(length, np.uint64(1)) < room
    return kept


def _ends(start: NDArray[np.uint64], length: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return start + np.maximum(length, np.uint64(1))


def _ascending(start: NDArray[np.uint64]) -> bool:
    return all(
        bool(np.all(start[part][: after.size] < after))
        for part in blocks(start.size)
        for after in [start[part.start + 1 : part.stop + 1]]
    )


def _overlapping(start: NDArray[np.uint64], length: NDArray[np.uint64]) -> bool:
    """Check sorted rows: whether any two overlap; ValueError where one leaves the address space."""
    overlap = False
    for part in blocks(start.size):
        bad = np.flatnonzero(~inside(start[part], length[part]))
        if bad.size:
            row = part.start + int(bad[0])
            raise ValueError(
                f"object {int(start[row]):#x} (size {int(length[row])}) leaves the address space"
            )
        after = start[part.start + 1 : part.stop + 1]
        overlap |= bool(np.any(_ends(start[part], length[part])[: after.size] > after))
    return overlap


def _resolve_overlaps(
    start: NDArray[np.uint64],
    length: NDArray[np.uint64],
    end: NDArray[np.uint64],
    rows: NDArray[Any] | None,
    on_overlap: str,
    anomalies: Coverage,
) -> NDArray[np.bool_]:
    """Decide which sorted rows stay, the earlier input row winning in each overlapping run."""
    keep = np.ones(start.size, dtype=bool)
    # A run of rows that overlap one another begins where no earlier row reaches over the start.
    reach = np.maximum.accumulate(end)
    begins = np.flatnonzero(np.concatenate(([True], reach[:-1] <= start[1:])))
    limits = np.append(begins[1:], start.size)
    crowded = limits - begins > 1
    for begin, limit in zip(begins[crowded].tolist(), limits[crowded].tolist(), strict=True):
        members = range(begin, limit)
        kept = IntervalTree()
        for row in sorted(members, key=lambda r: r if rows is None else int(rows[r])):
            clash = kept.overlap(int(start[row]), int(end[row]))
            if not clash:
                kept[int(start[row]) : int(end[row])] = row
                continue
            new = int(start[row]), int(length[row])
            other = min(clash).data
            existing = int(start[other]), int(length[other])
            if on_overlap == "error":
                raise OverlapError(existing, new, what="object")
            keep[row] = False
            anomalies.add(
                "objects.overlap",
                f"object {new[0]:#x} (size {new[1]}) overlaps {existing[0]:#x} "
                f"(size {existing[1]}) and was left out",
                nbytes=new[1],
                address=new[0],
            )
    return keep
