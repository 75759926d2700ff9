"""Turns a dump and its objects into what recognisers ask for: words, texts, names, referring words.

Everything that is read may be missing, and may be anything: what is not there is said to be
absent, and nothing raises.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .._index import ROWS, AddressIndex
from .._scan import scan_words
from .._structures import read_members
from ..dump import Dump
from ..errors import FaultError
from ..image import MEMORY_FILES
from ..objects import ObjectTable, blocks
from ..roots import Roots
from ..shared_property import shared_property

if TYPE_CHECKING:
    from ..symbols.process import ProcessSymbols
    from .virtual_tables import VirtualTables

#: Bytes of memory whose referring words are listed at a time.
_PART = 1 << 28
#: A string that libstdc++ holds, and nothing that is not linked with it.
_LIBSTDCXX = b"N10__cxxabiv120__si_class_type_infoE\0"
#: So much of a range of a file is searched for that, and of so many.
_SEARCHED, _MOST_RANGES = 1 << 26, 16
_AT_PHDR = 3


class Context:
    """What recognisers know of a dump.

    Parameters
    ----------
    dump
        The memory, and what was mapped.
    objects
        All objects.
    roots
        What was scanned unconditionally.
    sysroot
        Folder under which files are found; None for ``/``.
    """

    def __init__(
        self, dump: Dump, objects: ObjectTable, roots: Roots, sysroot: Path | None = None
    ) -> None:
        self.dump = dump
        self.image = dump.image
        self.objects = objects
        self.roots = roots
        self._sysroot = sysroot

    @shared_property
    def symbols(self) -> ProcessSymbols:
        """Names of addresses; no file is opened before it is asked for one."""
        from ..symbols.process import ProcessSymbols

        return ProcessSymbols(self.dump, self._sysroot)

    @property
    def word(self) -> int:
        """Bytes in a pointer."""
        return self.image.word_size

    def read(
        self, address: NDArray[np.uint64], *offsets: int, size: int | None = None
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Read numbers at the same offsets from many addresses.

        Parameters
        ----------
        address
            ``(n,)``; any value.
        offsets
            m bytes from there to each number, not negative.
        size
            Bytes of each number; None for a word.

        Returns
        -------
        values : ndarray of uint64, shape (m, n)
            0 where the image lacks them.
        present : ndarray of bool, shape (m, n)
            Whether they were there.
        """
        shape = len(offsets), address.size
        values, present = np.zeros(shape, np.uint64), np.zeros(shape, np.uint8)
        read_members(
            self.image.engine,
            np.ascontiguousarray(address),
            np.array(offsets, np.uint64),
            np.full(len(offsets), size or self.word, np.uint8),
            values,
            present,
        )
        return values, present.astype(np.bool_)

    def bytes_at(self, address: int, most: int) -> bytes:
        """Return bytes from an address on, at most so many; of what is absent, as the file has it.

        Only files that are those that were mapped are read, and of these only parts that the
        program could not write to.
        """
        try:
            return self.image.upto(address, most).tobytes()
        except FaultError:
            return self.symbols.unchanged(address, most)

    def text(self, address: int, most: int) -> bytes:
        """Return the bytes up to a NUL; empty if there is none among the first so many."""
        before, nul, _ = self.bytes_at(address, most).partition(b"\0")
        return before if nul else b""

    def row_at(self, address: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the row of the object that starts at each address; −1 for none."""
        starts = self.objects.address
        if not starts.size:
            return np.full(address.size, -1, np.int64)
        row = np.minimum(np.searchsorted(starts, address), starts.size - 1)
        return np.where(starts[row] == address, row, -1)

    def in_files(self, values: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which values are aligned addresses in files that were mapped, ``(n,)``."""
        bounds = self._bounds
        inside = np.zeros(values.size, np.bool_)
        if not bounds.size:
            return inside
        low, span = bounds[0], bounds[-1] - bounds[0]
        odd = np.uint64(self.word - 1)
        for part in blocks(values.size):
            some = values[part]
            at = np.flatnonzero((some - low < span) & (some & odd == 0))
            inside[part.start + at] = np.searchsorted(bounds, some[at], side="right") & 1 == 1
        return inside

    @shared_property
    def _bounds(self) -> NDArray[np.uint64]:
        """Begins and ends, one after the other, of ranges of files."""
        bounds: list[int] = []
        for file in self.dump.files:
            if file.path.startswith(MEMORY_FILES) or file.size <= 0:
                continue
            if bounds and file.address <= bounds[-1]:
                bounds[-1] = max(bounds[-1], file.end)
            else:
                bounds += [file.address, file.end]
        return np.array(bounds, np.uint64)

    def maps(self, *names: str) -> bool:
        """Return whether a file is mapped whose name begins with one of these."""
        return any(os.path.basename(path).startswith(names) for path in self._paths)

    @shared_property
    def _paths(self) -> frozenset[str]:
        return frozenset(file.path for file in self.dump.files)

    @shared_property
    def has_libstdcxx(self) -> bool:
        """Whether the program uses GNU's C++ library, as a file or as a part of itself."""
        if self.maps("libstdc++.so"):
            return True
        if self.maps("libc.so", "libc-", "ld-", "libc++"):
            return False
        # A program that was linked statically: only its own file is looked at.
        headers = self.dump.auxv.get(_AT_PHDR, 0)
        program = next((f.path for f in self.dump.files if f.address <= headers < f.end), None)
        own = [file for file in self.dump.files if file.path == program]
        return any(
            _LIBSTDCXX in self.bytes_at(file.address, min(file.size, _SEARCHED))
            for file in own[:_MOST_RANGES]
        )

    @shared_property
    def virtual_tables(self) -> VirtualTables:
        """Classes of C++ objects."""
        from .virtual_tables import VirtualTables

        return VirtualTables(self)

    def references(
        self, rows: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
        """Find the words that hold the starts of objects.

        Of all objects: in objects and roots. Of some, which are leaks: only among themselves,
        for nothing else refers to these.

        Parameters
        ----------
        rows
            ``(n,)``, rising.

        Yields
        ------
        place : ndarray of uint64, shape (m,)
            The words' addresses, some at a time.
        row : ndarray of int64, shape (m,)
            The object that starts at the address that each holds.
        """
        address, size = self.objects.address[rows], self.objects.size[rows]
        if not rows.size:
            return
        index = AddressIndex(address, size, interior=False)
        if rows.size == len(self.objects):
            more = self.roots.range_arrays()
            address, size = (
                np.concatenate((own, other))
                for own, other in zip((address, size), more, strict=True)
            )
        reach = np.cumsum(np.minimum(size, np.uint64(_PART)), dtype=np.uint64)
        parts = np.searchsorted(reach, np.arange(0, int(reach[-1]) + 1, _PART, dtype=np.uint64))
        for low, high in zip(parts, np.append(parts[1:], reach.size), strict=True):
            if low < high:
                place, _, target, _ = scan_words(
                    self.image.engine,
                    index,
                    address[low:high],
                    size[low:high],
                    np.full(high - low, -1, np.int64),
                    step=self.word,
                )
                yield place, rows[target & ROWS]
