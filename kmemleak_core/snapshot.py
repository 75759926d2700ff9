"""Turns the live tables into a snapshot: rows of one graph, and the way back to the tables."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._tracker import ObjectStore
from .lifecycle import Space
from .live_scan import LiveObjects
from .objects import ObjectFlags, ObjectTable

_ENGINE_FLAGS = int(ObjectFlags.NO_SCAN | ObjectFlags.FULL_SCAN)


@dataclass(slots=True)
class Snapshot:
    """The tracked objects at one moment, as rows, and the way back to the live tables.

    `identity` names each row's object for good: the tables count their sequences on their own.
    """

    objects: LiveObjects
    slots: dict[Space, NDArray[np.uint32]]
    records: dict[Space, NDArray[np.void]]
    identity: NDArray[np.uint64] = field(init=False)

    def __post_init__(self) -> None:
        self.identity = self.column("sequence") * np.uint64(2)
        self.identity[self.slots[""].size :] += np.uint64(1)

    def column(self, name: str) -> NDArray[Any]:
        """Return a field of all rows."""
        return np.concatenate((self.records[""][name], self.records["percpu"][name]))

    def split(self, column: NDArray[Any]) -> list[tuple[Space, NDArray[Any]]]:
        """Cut a column of all rows into those of the tables."""
        boundary = self.slots[""].size
        return [("", column[:boundary]), ("percpu", column[boundary:])]


def take_snapshot(
    stores: Mapping[Space, ObjectStore],
    areas: Mapping[int, list[tuple[int, int]]],
    excess: Mapping[int, int],
    offsets: Mapping[int, tuple[int, ...]],
    guard: AbstractContextManager[object],
) -> Snapshot:
    """Copy what is tracked at this moment.

    Parameters
    ----------
    stores
        The live tables.
    areas, excess, offsets
        Scan areas, the block that surplus references count for, the places of a per-CPU object's
        copies: by sequence number.
    guard
        Held while the tables are copied: it keeps out what changes them in several steps.
    """
    slots: dict[Space, NDArray[np.uint32]] = {}
    records: dict[Space, NDArray[np.void]] = {}
    with guard:
        for space in ("", "percpu"):
            slots[space], records[space] = stores[space].snapshot_records()
    virtual, percpu = _table(records[""]), _table(records["percpu"])
    sequence = records[""]["sequence"]
    restricted = [
        (int(virtual.address[row]), start, size)
        for row, several in _of_rows(areas, sequence)
        for start, size in several
    ]
    if restricted:
        virtual.set_scan_areas(restricted)
    carriers = list(_of_rows(excess, sequence))
    if carriers:
        virtual.excess_ref = np.zeros(len(virtual), dtype=np.uint64)
        for row, ptr in carriers:
            virtual.excess_ref[row] = ptr
    copies = [offsets.get(int(s), ()) for s in records["percpu"]["sequence"]]
    both = np.concatenate((sequence, records["percpu"]["sequence"]))
    # Sequence numbers of two tables do not compare: birth times do, then the row.
    births = np.concatenate((records[""]["birth"], records["percpu"]["birth"]))
    order = np.argsort(both if not len(percpu) else births, kind="stable").astype(np.uint32)
    objects = LiveObjects(
        virtual,
        percpu,
        copies,
        np.concatenate((virtual.min_count, percpu.min_count)),
        order,
    )
    return Snapshot(objects, slots, records)


def _table(records: NDArray[np.void]) -> ObjectTable:
    """Make the table of a snapshot; its records are sorted and do not overlap."""
    table = ObjectTable()
    table.address = np.ascontiguousarray(records["address"])
    table.size = np.ascontiguousarray(records["size"])
    table.min_count = np.ascontiguousarray(records["min_count"])
    table.flags = (records["flags"] & _ENGINE_FLAGS).astype(np.uint8)
    return table


def _of_rows(extras: Mapping[int, Any], sequence: NDArray[np.uint64]) -> list[tuple[int, Any]]:
    """Return (row, value) for the entries whose object is in the snapshot."""
    if not extras:
        return []
    items = list(extras.items())
    order = np.argsort(sequence)
    wanted = np.array([key for key, _ in items], dtype=np.uint64)
    place = np.searchsorted(sequence, wanted, sorter=order)
    found = []
    for (key, value), at in zip(items, place.tolist(), strict=True):
        if at < order.size and int(sequence[order[at]]) == key:
            found.append((int(order[at]), value))
    return found
