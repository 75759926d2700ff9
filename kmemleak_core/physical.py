"""Turns the memory ranges of a machine's dump into PhysicalMemory: bytes by physical address."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import FaultError, OverlapError


@dataclass(frozen=True, slots=True, eq=False)
class PhysicalRange:
    """Memory that the dump holds, by physical address.

    Parameters
    ----------
    address
        Physical address of the first byte.
    data
        The bytes, ``uint8``, C-contiguous; normally a view of an ``mmap``.
    """

    address: int
    data: NDArray[np.uint8]

    @property
    def end(self) -> int:
        """Physical address of the first byte after the range."""
        return self.address + self.data.size


class PhysicalMemory:
    """A machine's memory: sorted ranges that do not overlap, views on whatever they came from.

    Parameters
    ----------
    ranges
        In any order; empty ones are dropped.

    Attributes
    ----------
    ranges : tuple of PhysicalRange
        By address.
    starts, ends : ndarray of uint64, shape (n,)
        Of the ranges.

    Raises
    ------
    OverlapError
        Two ranges claim the same address.
    """

    __slots__ = ("ends", "ranges", "starts")

    def __init__(self, ranges: Iterable[PhysicalRange]) -> None:
        self.ranges = tuple(sorted((r for r in ranges if r.data.size), key=lambda r: r.address))
        self.starts: NDArray[np.uint64] = np.array([r.address for r in self.ranges], np.uint64)
        self.ends: NDArray[np.uint64] = np.array([r.end for r in self.ranges], np.uint64)
        for i in np.flatnonzero(self.ends[:-1] > self.starts[1:]).tolist():
            one, other = self.ranges[i], self.ranges[i + 1]
            raise OverlapError(
                (one.address, one.data.size), (other.address, other.data.size), what="range"
            )

    @property
    def nbytes(self) -> int:
        """Bytes that are present."""
        return sum(r.data.size for r in self.ranges)

    def find(self, address: int) -> PhysicalRange | None:
        """Return the range that holds a physical address."""
        i = int(np.searchsorted(self.starts, np.uint64(address), side="right")) - 1
        return self.ranges[i] if i >= 0 and address < self.ranges[i].end else None

    def view(self, address: int, size: int) -> NDArray[np.uint8]:
        """Return bytes that lie within one range; `FaultError` where they do not."""
        found = self.find(address)
        if found is None:
            raise FaultError(address, f"physical address {address:#x} is not in the dump")
        if size > found.end - address:
            raise FaultError(found.end, f"physical address {found.end:#x} is not in the dump")
        return found.data[address - found.address : address - found.address + size]

    def blocks(
        self, address: NDArray[np.uint64], size: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Read many blocks of the same size.

        Parameters
        ----------
        address
            ``(n,)``; multiples of `size`.
        size
            Bytes of each.

        Returns
        -------
        data : ndarray of uint8, shape (n, size)
            Copies; zeros where the dump lacks any of a block's bytes.
        present : ndarray of bool, shape (n,)
            Whether all bytes of a block were there.
        """
        data = np.zeros((address.size, size), np.uint8)
        present = np.zeros(address.size, bool)
        index = np.searchsorted(self.starts, address, side="right") - 1
        # By range, so that each is looked at once.
        order = np.argsort(index, kind="stable")
        begins = np.flatnonzero(np.diff(index[order], prepend=-1))
        for rows in np.split(order, begins)[1:]:
            found = self.ranges[index[rows[0]]]
            skipped = -found.address % size
            whole = found.data[skipped:]
            whole = whole[: whole.size // size * size].reshape(-1, size)
            at = address[rows] - np.uint64(found.address)
            number = (at - np.uint64(skipped)) // np.uint64(size)
            fits = (at >= skipped) & (number < np.uint64(len(whole)))
            rows = rows[fits]
            data[rows] = whole[number[fits].astype(np.int64)]
            present[rows] = True
        return data, present

    def __repr__(self) -> str:
        return f"<PhysicalMemory {len(self.ranges)} ranges, {self.nbytes:,} bytes>"
