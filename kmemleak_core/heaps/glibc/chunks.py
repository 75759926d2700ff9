"""Collects the chunks that walks found in use: blocks of rows, sorted, then two columns of all."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ... import workers
from ..._columns import copy_without
from ..._heap import STOP_FULL, ChunkWalk

#: Rows of a block: columns long enough for numpy to ask for huge pages, so for few page faults.
ROWS = 1 << 19

Column = NDArray[np.uint64]


class ChunkTable:
    """The program's address and usable size of every chunk in use, sorted by address.

    Attributes
    ----------
    blocks : list of (address, usable)
        Columns of equal length that follow one another; none is copied or moved before
        `finish`, so that the largest memory that a walk needs is little more than its result.
    """

    __slots__ = ("_address", "_filled", "_rows", "_taken", "_usable", "blocks")

    def __init__(self, rows: int = ROWS) -> None:
        self.blocks: list[tuple[Column, Column]] = []
        self._rows = max(1, rows)
        self._begin()

    def _begin(self) -> None:
        self._address: Column = np.empty(self._rows, np.uint64)
        self._usable: Column = np.empty(self._rows, np.uint64)
        self._filled = self._taken = 0

    def _close(self) -> None:
        """Make a block of the rows that were added since the last one."""
        if self._filled > self._taken:
            rows = slice(self._taken, self._filled)
            self.blocks.append((self._address[rows], self._usable[rows]))
            self._taken = self._filled
        if self._filled == self._rows:
            self._begin()

    def __len__(self) -> int:
        return sum(address.size for address, _ in self.blocks) + self._filled - self._taken

    def run(self, walk: ChunkWalk, until: int | None = None) -> None:
        """Add what a walk finds in use until it stops, or comes to a chunk at `until`."""
        bound = (1 << 64) - 1 if until is None else until
        while True:
            self._filled = walk.run(self._address, self._usable, self._filled, bound)
            if walk.stop != STOP_FULL:
                return
            self._close()

    def append(self, address: int, usable: int) -> None:
        """Add one row; its address is beyond all others."""
        if self._filled == self._rows:
            self._close()
        self._address[self._filled] = address
        self._usable[self._filled] = usable
        self._filled += 1

    def extend(self, other: ChunkTable, first: int = 0) -> None:
        """Add the rows of another table from a row on; they are beyond all others."""
        self._close()
        other._close()
        for address, usable in other.blocks:
            if first < address.size:
                self.blocks.append((address[first:], usable[first:]))
            first = max(0, first - address.size)

    def merge(self, address: Column, usable: Column) -> None:
        """Add rows that are sorted by address, wherever they belong."""
        self._close()
        blocks, self.blocks = self.blocks, []
        cuts = np.searchsorted(address, self._starts(blocks)).tolist()
        parts = [slice(low, high) for low, high in pairwise([0, *cuts, address.size])]
        if address[parts[0]].size:
            self.blocks.append((address[parts[0]], usable[parts[0]]))
        for (known, sizes), part in zip(blocks, parts[1:], strict=True):
            if address[part].size:
                both = np.concatenate((known, address[part]))
                order = np.argsort(both, kind="stable")
                self.blocks.append((both[order], np.concatenate((sizes, usable[part]))[order]))
            else:
                self.blocks.append((known, sizes))

    @staticmethod
    def _starts(blocks: list[tuple[Column, Column]]) -> Column:
        return np.array([address[0] for address, _ in blocks], np.uint64)

    def _split(self, address: Column) -> Iterator[tuple[slice, int]]:
        """Yield which of some sorted addresses can only be found in which block."""
        cuts = np.searchsorted(address, self._starts(self.blocks)).tolist()
        for block, (low, high) in enumerate(pairwise([*cuts, address.size])):
            if low < high:
                yield slice(low, high), block

    def find(self, address: Column) -> Column:
        """Return the usable size of the chunk at each address, 0 where none begins."""
        self._close()
        order = np.argsort(address)
        wanted = address[order]
        found = np.zeros(address.size, np.uint64)
        for part, block in self._split(wanted):
            known, usable = self.blocks[block]
            rows = np.searchsorted(known, wanted[part], side="right") - 1
            found[order[part]] = np.where(known[rows] == wanted[part], usable[rows], np.uint64(0))
        return found

    def with_usable(self, usable: int, most: int) -> list[int]:
        """Return the addresses of the chunks with so many usable bytes, the first few of them."""
        self._close()
        found: list[int] = []
        for address, sizes in self.blocks:
            found += address[sizes == np.uint64(usable)][: most - len(found)].tolist()
        return found

    def finish(self, gone: Column, threads: int = 1) -> tuple[Column, Column]:
        """Return the two columns, each ``(n,)``; the table is empty afterwards.

        Parameters
        ----------
        gone
            Addresses of the chunks that are left out.
        threads
            How many copy at a time.
        """
        self._close()
        gone = sorted_once(gone)
        rows: dict[int, NDArray[np.int64]] = {}
        for part, block in self._split(gone):
            known = self.blocks[block][0]
            at = np.searchsorted(known, gone[part], side="right") - 1
            rows[block] = at[known[at] == gone[part]]
        nothing = np.empty(0, np.int64)
        total = len(self) - sum(each.size for each in rows.values())
        columns = np.empty(total, np.uint64), np.empty(total, np.uint64)
        tasks, begin = [], 0
        for block, (known, usable) in enumerate(self.blocks):
            left_out = rows.get(block, nothing)
            end = begin + known.size - left_out.size
            # Each block is given back as soon as it is copied.
            tasks.append(partial(_copy, [known, usable], left_out, [c[begin:end] for c in columns]))
            begin = end
        self.blocks = []
        workers.run(threads, tasks)
        return columns


def sorted_once(*parts: Column) -> Column:
    """Return every value of some columns once, sorted (``np.unique`` may hash: slower here)."""
    values = np.sort(np.concatenate(parts)) if parts else np.empty(0, np.uint64)
    return values[np.append(True, values[1:] != values[:-1])] if values.size else values


def _copy(source: list[Column], rows: NDArray[np.int64], out: list[Column]) -> None:
    for place in reversed(out):
        copy_without(source.pop(), rows, place)
