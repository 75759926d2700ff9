"""Collects the chunks that a walk found in use: two growing arrays, sorted by address."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..._columns import merge, remove
from ..._heap import STOP_FULL, ChunkWalk


class ChunkTable:
    """The program's address and usable size of every chunk in use.

    Attributes
    ----------
    address, usable : ndarray of uint64, shape (capacity,)
        Only the first `count` entries mean anything. They grow in place: the largest memory
        that a walk needs is that of its result.
    count : int
        Entries taken.
    """

    __slots__ = ("address", "count", "usable")

    def __init__(self, capacity: int = 1 << 16) -> None:
        self.address: NDArray[np.uint64] = np.empty(max(1, capacity), np.uint64)
        self.usable: NDArray[np.uint64] = np.empty(max(1, capacity), np.uint64)
        self.count = 0

    def _resize(self, capacity: int) -> None:
        # In place: no view of either array outlives the call that made it.
        self.address.resize(capacity, refcheck=False)
        self.usable.resize(capacity, refcheck=False)

    def grow(self, by: int = 1) -> None:
        """Make room for at least so many more entries."""
        wanted = self.count + by
        if wanted > self.address.size:
            self._resize(max(wanted, self.address.size * 3 // 2))

    def run(self, walk: ChunkWalk, until: int | None = None) -> None:
        """Add what a walk finds in use until it stops, or comes to a chunk at `until`."""
        bound = (1 << 64) - 1 if until is None else until
        while True:
            self.count = walk.run(self.address, self.usable, self.count, bound)
            if walk.stop != STOP_FULL:
                return
            self.grow()

    def extend(self, other: ChunkTable, first: int) -> None:
        """Add the entries of another table from a row on; they are beyond all others."""
        more = other.count - first
        self.grow(more)
        self.address[self.count : self.count + more] = other.address[first : other.count]
        self.usable[self.count : self.count + more] = other.usable[first : other.count]
        self.count += more

    def append(self, address: int, usable: int) -> None:
        """Add one entry; its address is beyond all others."""
        self.grow()
        self.address[self.count] = address
        self.usable[self.count] = usable
        self.count += 1

    def merge(self, address: NDArray[np.uint64], usable: NDArray[np.uint64]) -> None:
        """Add entries that are sorted by address, wherever they belong."""
        self.grow(address.size)
        self.count = merge(
            self.address,
            self.usable,
            self.count,
            np.ascontiguousarray(address),
            np.ascontiguousarray(usable),
        )

    def remove(self, address: NDArray[np.uint64]) -> int:
        """Drop the entries at these addresses; return how many there were."""
        before = self.count
        self.count = remove(self.address, self.usable, self.count, np.unique(address))
        return before - self.count

    def find(self, address: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the row of each address, ``(n,)``; −1 where no entry has it."""
        known = self.address[: self.count]
        rows = np.searchsorted(known, address)
        inside = rows < self.count
        found = np.full(address.shape, -1, np.int64)
        hits = np.flatnonzero(inside)
        hits = hits[known[rows[hits]] == address[hits]]
        found[hits] = rows[hits]
        return found

    def finish(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Return the two columns, each ``(count,)``; the table is not to be used any more."""
        self._resize(self.count)
        return self.address, self.usable
