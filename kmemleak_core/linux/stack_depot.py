"""Turns handles of a kernel's stack depot into backtraces."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..symbols import Member
from .kernel import Kernel

#: Bits by which a handle's offset counts: DEPOT_STACK_ALIGN of lib/stackdepot.c, since 4.6.
_ALIGN = 4
#: Frames of a backtrace at most: CONFIG_STACKDEPOT_MAX_FRAMES is 64.
_FRAMES = 256
#: Handles by which a layout is tried.
_SAMPLES = 256

#: What the parts of a handle and the pools have been called.
_INDEX = ("pool_index_plus_1", "pool_index", "slabindex", "slab_index")
_POOLS = ("stack_pools", "stack_slabs")


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a handle leads to its record.

    Parameters
    ----------
    pools
        Where the table of pools begins.
    base
        What the first pool's number is: 0, or 1 since Linux 6.8, where a handle of 0 is none.
    """

    pools: int
    base: int


class StackDepot:
    """The backtraces that a kernel keeps once each, under 32-bit handles.

    Read in lib/stackdepot.c: a handle is ``{pool index, offset, valid, extra}`` (``union
    handle_parts``); a pool is some pages full of ``struct stack_record``, which has its own
    handle, the number of frames and the frames. Names and widths of the parts have changed, the
    index counts from 1 since 6.8, and the table of pools is an array or a pointer to one: what
    holds is seen by which reading leads to records that know their handles.

    Parameters
    ----------
    kernel
        Whose depot it is.
    coverage
        Receives ``kernel.depot`` (there is none that can be read) and ``kernel.traces`` (handles
        that lead nowhere).
    """

    def __init__(self, kernel: Kernel, coverage: Coverage) -> None:
        self.kernel = kernel
        self.coverage = coverage
        self._structures = kernel.structures()

    def traces(
        self, handles: NDArray[np.uint64]
    ) -> tuple[NDArray[np.int64], list[tuple[int, ...]]]:
        """Find the backtraces of handles.

        Parameters
        ----------
        handles
            ``(n,)`` uint64; 0 is none.

        Returns
        -------
        index : ndarray of int64, shape (n,)
            Into `traces`; −1 where there is no backtrace.
        traces : list of tuple of int
            Each once: return addresses, innermost first.
        """
        distinct = np.unique(handles)
        distinct = distinct[distinct != 0]
        nothing = np.full(handles.size, -1, np.int64)
        if not distinct.size:
            return nothing, []
        layout = self._layout(distinct)
        if layout is None:
            self.coverage.add(
                "kernel.depot",
                "the kernel's stack depot cannot be read: its objects have no backtraces",
                count=int(distinct.size),
            )
            return nothing, []
        record = self._records(distinct, layout)
        good = self._know(record, distinct)
        frames, many, whole = self._frames(record[good])
        good[good] = whole
        bad = int(np.count_nonzero(~good))
        if bad:
            self.coverage.add(
                "kernel.traces",
                f"{bad:,} backtraces are not in the kernel's stack depot",
                count=bad,
            )
        ends = np.cumsum(many[whole])
        words = frames[np.repeat(whole, many)].tolist()
        begins = (ends - many[whole]).tolist()
        traces = [tuple(words[a:b]) for a, b in zip(begins, ends.tolist(), strict=True)]
        number = np.full(distinct.size + 1, -1, np.int64)
        number[:-1][good] = np.arange(len(traces))
        place = np.searchsorted(distinct, handles)
        place[handles == 0] = distinct.size
        return number[place], traces

    @cached_property
    def _index(self) -> Member | None:
        """The part of a handle that tells the pool."""
        found = (self.kernel.types.member("handle_parts", name) for name in _INDEX)
        return next((member for member in found if member is not None), None)

    @cached_property
    def _offset(self) -> Member | None:
        return self.kernel.types.member("handle_parts", "offset")

    def _layout(self, distinct: NDArray[np.uint64]) -> _Layout | None:
        """Return how handles are to be read: the way in which most of a sample make sense."""
        if self._index is None or self._offset is None:
            return None
        if not self._structures.has("stack_record", "size", "handle", "entries"):
            return None
        steps = np.linspace(0, distinct.size - 1, min(_SAMPLES, distinct.size)).astype(np.int64)
        sample = distinct[steps]
        best: tuple[int, _Layout] | None = None
        for layout in self._layouts():
            good = int(np.count_nonzero(self._know(self._records(sample, layout), sample)))
            if good and (best is None or good > best[0]):
                best = good, layout
        return best[1] if best else None

    def _layouts(self) -> list[_Layout]:
        symbols = self.kernel.symbols
        tables = [a for name in _POOLS if (a := symbols.address(name)) is not None]
        pointers, present = self._structures.numbers(tables, 0, self.kernel.image.word_size)
        tables += pointers[present].tolist()
        assert self._index is not None
        bases = (1,) if self._index.name.endswith("plus_1") else (0, 1)
        return [_Layout(table, base) for table in tables for base in bases]

    def _records(self, handles: NDArray[np.uint64], layout: _Layout) -> NDArray[np.uint64]:
        """Return where the handles' records would be."""
        assert self._index is not None
        assert self._offset is not None
        word = self.kernel.image.word_size
        pool = _part(handles, self._index) - np.uint64(layout.base)
        table = np.uint64(layout.pools) + pool * np.uint64(word)
        pools, present = self._structures.numbers(table, 0, word)
        offset = _part(handles, self._offset) << np.uint64(_ALIGN)
        return np.where(present & (pools != 0), pools + offset, np.uint64(0))

    def _know(self, record: NDArray[np.uint64], handles: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return which records have these handles; what users put into one does not count."""
        member = self._structures.member("stack_record", "handle")
        own, present = self._structures.numbers(record, member.offset, 4)
        extra = self.kernel.types.member("handle_parts", "extra")
        if extra is not None:
            kept = np.uint64(0xFFFF_FFFF & ~(((1 << extra.bit_size) - 1) << extra.bit_offset))
            own, handles = own & kept, handles & kept
        known: NDArray[np.bool_] = present & (own == handles)
        return known

    def _frames(
        self, record: NDArray[np.uint64]
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.bool_]]:
        """Return the frames of all records, how many each has, and which are whole."""
        word = self.kernel.image.word_size
        many = self._structures.column(record, "stack_record", "size")
        sane = many <= _FRAMES
        many = np.where(sane, many, np.uint64(0)).astype(np.int64)
        entries = self._structures.member("stack_record", "entries").offset
        owner = np.repeat(np.arange(record.size), many)
        place = np.arange(owner.size) - np.repeat(np.cumsum(many) - many, many)
        at = record[owner] + (place * word).astype(np.uint64)
        frames, present = self._structures.numbers(at, entries, word)
        sane[owner[~present]] = False
        return frames, many, sane


def _part(handles: NDArray[np.uint64], member: Member) -> NDArray[np.uint64]:
    """Cut a part out of handles."""
    mask = np.uint64((1 << (member.bit_size or 32)) - 1)
    return (handles >> np.uint64(8 * member.offset + member.bit_offset)) & mask


def distinct_rows(rows: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the distinct rows of a matrix, numbered as they first appear.

    Parameters
    ----------
    rows
        ``(n, k)``, C-contiguous.

    Returns
    -------
    index : ndarray of int64, shape (n,)
        Which of the distinct rows each row is.
    first : ndarray of int64, shape (m,)
        A row of the matrix for each distinct one.
    """
    if not rows.size:
        return np.zeros(len(rows), np.int64), np.zeros(min(1, len(rows)), np.int64)
    # One sum stands for each row: sorting numbers is much faster than sorting rows.
    factors = np.random.default_rng(0).integers(1 << 62, 1 << 63, rows.shape[1], np.uint64)
    mixed = rows * (factors | np.uint64(1))
    mixed ^= mixed >> np.uint64(29)
    keys = np.bitwise_xor.reduce(mixed * np.uint64(0x9E3779B97F4A7C15), axis=1)
    keys = np.add.reduce(mixed, axis=1) ^ (keys >> np.uint64(7))
    # Neighbours are alike mostly: one of each run is enough.
    begins = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    first, index = _numbered(*np.unique(keys[begins], return_index=True, return_inverse=True)[1:])
    index = np.repeat(index, np.diff(np.append(begins, len(rows))))
    first = begins[first]
    if not bool(np.array_equal(rows[first][index], rows)):
        found = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        first, index = _numbered(found[1], found[2].reshape(-1))
    return index, first


def _numbered(
    first: NDArray[np.int64], index: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number what `numpy.unique` found by first appearance."""
    order = np.argsort(first)
    number = np.empty_like(order)
    number[order] = np.arange(order.size)
    return first[order], number[index]
