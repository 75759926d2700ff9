"""Turns a kernel's array of ``struct page`` into columns: flags, counts, compound heads, slabs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..errors import DumpError, FaultError
from ..symbols import Types
from .kernel import Kernel
from .zones import Zone, read_zones

#: ``page_type`` of a page that has none (it is the mapcount's −1 then).
_NO_TYPE = 0xFFFF_FFFF
#: A tail's mask (see `_heads`) spans a compound page's structs: so many bytes at most.
_MASK_SPAN = np.uint64(1 << 36)


@dataclass(frozen=True, slots=True)
class PageTypes:
    """What tells what a page is used for; recognised by enumerators.

    A use is a bit of ``flags``, a value of the upper byte of ``page_type`` (Linux 6.12 and
    later), or a bit that is clear in ``page_type`` (before; slabs in 6.10 and 6.11).

    Parameters
    ----------
    types
        Where the enumerators come from.
    info
        VMCOREINFO, which has some of the numbers too.
    """

    types: Types
    info: dict[str, str] = field(default_factory=dict)

    def flag(self, name: str) -> int | None:
        """Return the number of a bit of ``flags``: ``"reserved"``; None where there is none."""
        value = self.types.enumerator(f"PG_{name}")
        return value if value is not None and 0 <= value < 64 else None

    def matching(
        self, name: str, flags: NDArray[np.uint64], kinds: NDArray[np.uint32]
    ) -> NDArray[np.bool_] | None:
        """Return which pages are of a use, by whatever tells it; None where nothing does."""
        value = self.types.enumerator(f"PGTY_{name}")
        if value is not None:
            return _equal(kinds >> np.uint32(24), value & 0xFF)
        stated = self.info.get(f"NUMBER(PAGE_{name.upper()}_MAPCOUNT_VALUE)", "")
        value = self.types.enumerator(f"PG_{name}")
        if value is None and stated.removeprefix("-").isdecimal():
            number = int(stated) & _NO_TYPE
            if number & 0xFF_FFFF == 0:
                return _equal(kinds >> np.uint32(24), number >> 24)
            value = ~number & _NO_TYPE
        if value is None or value < 0:
            return None
        if value < 64:
            return _bit(flags, value)
        # The base is 0xf0000000 up to 6.10, 0x80000000 in 6.11: the upper bit is set in both.
        wanted = 0x8000_0000
        return _equal(kinds & np.uint32(wanted | value & 0x7FFF_FFFF), wanted)


def _equal(values: NDArray[Any], wanted: int) -> NDArray[np.bool_]:
    equal: NDArray[np.bool_] = values == values.dtype.type(wanted)
    return equal


def _bit(flags: NDArray[np.uint64], number: int) -> NDArray[np.bool_]:
    is_set: NDArray[np.bool_] = flags & np.uint64(1 << number) != 0
    return is_set


@dataclass(eq=False)
class Pages:
    """The struct pages that the image holds, by page frame; a row each.

    Parameters
    ----------
    array, struct_size
        Where the struct page of frame 0 would be, and how large one is.
    page_size, direct_map
        Of the kernel.
    frame : ndarray of uint64, shape (n,)
        Page frame numbers, ascending; those of absent sections are missing.
    flags : ndarray of uint64, shape (n,)
        ``page->flags``, zone and node included.
    refcount : ndarray of int32, shape (n,)
        ``page->_refcount``: 0 in a tail.
    page_type : ndarray of uint32, shape (n,)
        ``page->page_type``, which shares its place with the mapcount; −1 for none.
    mapping : ndarray of uint64, shape (n,)
        ``page->mapping``: the file or anonymous memory that it belongs to. Means nothing where
        the page is a slab's or a tail.
    head : ndarray of int64, shape (n,)
        Row of the compound page's head; the own row of all but tails.
    kinds
        What tells what a page is used for.
    zones
        The frames that the kernel manages; empty where that could not be read.
    coverage
        What did not fit.
    """

    array: int
    struct_size: int
    page_size: int
    direct_map: int
    frame: NDArray[np.uint64]
    flags: NDArray[np.uint64]
    refcount: NDArray[np.int32]
    page_type: NDArray[np.uint32]
    mapping: NDArray[np.uint64]
    head: NDArray[np.int64]
    kinds: PageTypes
    zones: tuple[Zone, ...] = ()
    coverage: Coverage = field(default_factory=Coverage)
    _cache: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.frame.size)

    @property
    def count(self) -> NDArray[np.int32]:
        """``page_count()`` of each page, ``(n,)`` ``int32``: a tail's is its head's."""
        return self.refcount[self.head]

    @property
    def tail(self) -> NDArray[np.bool_]:
        """Which pages are compound pages' tails, ``(n,)`` ``bool``."""
        return np.not_equal(self.head, np.arange(len(self)))

    @property
    def slab(self) -> NDArray[np.bool_]:
        """Which pages are slabs' (tails included), ``(n,)`` ``bool``."""
        return self.used_as("slab")

    @property
    def address(self) -> NDArray[np.uint64]:
        """Where each ``struct page`` is, ``(n,)`` ``uint64``."""
        return np.uint64(self.array) + self.frame * np.uint64(self.struct_size)

    @property
    def memory(self) -> NDArray[np.uint64]:
        """Where each page's memory is in the linear mapping, ``(n,)`` ``uint64``."""
        return np.uint64(self.direct_map) + self.frame * np.uint64(self.page_size)

    def flagged(self, name: str) -> NDArray[np.bool_]:
        """Return which pages themselves have a flag: ``"reserved"``, ``"lru"``, ``"head"``."""
        bit = self.kinds.flag(name)
        if bit is None:
            return np.zeros(len(self), bool)
        return _bit(self.flags, bit)

    def used_as(self, name: str) -> NDArray[np.bool_]:
        """Return which pages are of a use, tails as their heads are.

        Parameters
        ----------
        name
            ``"slab"``, ``"table"`` (page tables), ``"large_kmalloc"``, ``"buddy"``, ….

        Returns
        -------
        ndarray of bool, shape (n,)
            False throughout where the kernel does not tell (see `knows`).
        """
        if name not in self._cache:
            own = self.kinds.matching(name, self.flags, self.page_type)
            self._cache[name] = np.zeros(len(self), bool) if own is None else own[self.head]
        return self._cache[name]

    def knows(self, name: str) -> bool:
        """Whether the kernel marks pages of that use."""
        nothing = np.empty(0, np.uint64)
        return self.kinds.matching(name, nothing, nothing.astype(np.uint32)) is not None

    def rows(self, frame: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the rows of page frames, ``(m,)`` ``int64``; −1 where the image lacks one."""
        starts, first = self._pieces
        piece = np.searchsorted(starts, frame, side="right") - 1
        if not starts.size:
            return np.full(frame.shape, -1, np.int64)
        row = first[piece] + (frame - starts[piece]).astype(np.int64)
        row[(piece < 0) | (row >= first[piece + 1])] = -1
        return row

    def rows_of_memory(self, address: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the rows of addresses in the linear mapping; −1 where there is none."""
        frame = (address - np.uint64(self.direct_map)) // np.uint64(self.page_size)
        return self.rows(frame)

    def rows_of_structs(self, address: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the rows of ``struct page`` addresses; −1 where there is none."""
        return self.rows((address - np.uint64(self.array)) // np.uint64(self.struct_size))

    def runs(self, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return rows ``[first, end)`` of each run of chosen pages whose frames follow on."""
        edge = np.diff(chosen.astype(np.int8), prepend=0, append=0)
        breaks = self._pieces[1][1:-1]  # a run ends where a section is absent
        inner = breaks[chosen[breaks] & chosen[breaks - 1]] if breaks.size else breaks
        first, end = np.flatnonzero(edge == 1), np.flatnonzero(edge == -1)
        return np.sort(np.append(first, inner)), np.sort(np.append(end, inner))

    @property
    def managed(self) -> NDArray[np.bool_]:
        """Which pages lie in the span of a zone, ``(n,)`` ``bool``; all where that is unknown."""
        inside = np.full(len(self), not self.zones)
        for zone in self.zones:
            first, end = np.searchsorted(self.frame, np.array([zone.first, zone.end], np.uint64))
            inside[first:end] = True
        return inside

    def structs_in_use(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Return addresses and sizes of runs of managed struct pages whose page count is not 0.

        These are what kmemleak scans of the array.
        """
        first, end = self.runs((self.count != 0) & self.managed)
        return self.address[first], (end - first).astype(np.uint64) * np.uint64(self.struct_size)

    @cached_property
    def _pieces(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """First frame of each piece without gaps; its first row, and one past all rows."""
        breaks = np.flatnonzero(np.diff(self.frame) != 1) + 1
        first = np.concatenate(([0], breaks)).astype(np.int64)[: len(self)]
        return self.frame[first], np.append(first, len(self))


def read_pages(kernel: Kernel) -> Pages:
    """Read the array of struct pages.

    Returns
    -------
    Pages
        Of all page frames whose ``struct page`` the image holds.

    Raises
    ------
    DumpError
        The layout of ``struct page`` is not known, or the image holds no part of the array.
    """
    structures = kernel.structures()
    size = structures.struct("page").size
    columns = {
        "flags": _one_of(kernel, "flags.f", "flags"),  # memdesc_flags_t since 6.18
        "refcount": _one_of(kernel, "_refcount.counter", "_count.counter"),
        "page_type": _one_of(kernel, "page_type", "_mapcount.counter"),
        "mapping": _one_of(kernel, "mapping"),
        "link": _one_of(kernel, "compound_head", "compound_info"),
    }
    zones = read_zones(kernel)
    pieces = list(_held(kernel, size, zones))
    total = sum(len(data) // size for _, data in pieces)
    # The array is memory like all other; what maps one page of it again and again is damage,
    # but for huge pages of which a kernel keeps one page of tails in place of thousands.
    if total > kernel.physical.nbytes // 16 + (1 << 20):
        raise DumpError("the page tables map the array of struct pages to far too many places")
    if not total:
        raise DumpError(
            f"the image holds no struct page at {kernel.page_array:#x}",
            hint="the dump lacks the kernel's own pages, or its address was not found",
        )
    out: dict[str, NDArray[Any]] = {
        name: np.empty(total, np.uint64 if width == 8 else np.uint32)
        for name, (_, width) in columns.items()
    }
    frame = np.empty(total, np.uint64)
    order = "<" if kernel.image.byteorder == "little" else ">"
    at = 0
    for first, data in pieces:
        n = len(data) // size
        frame[at : at + n] = np.arange(first, first + n, dtype=np.uint64)
        for name, (offset, width) in columns.items():
            out[name][at : at + n] = np.ndarray(
                (n,), f"{order}u{width}", buffer=data, offset=offset, strides=(size,)
            )
        at += n
    machine = kernel.dump.machine
    pages = Pages(
        array=kernel.page_array,
        struct_size=size,
        page_size=kernel.page_size,
        direct_map=kernel.direct_map,
        frame=frame,
        flags=out["flags"],
        refcount=out["refcount"].view(np.int32),
        page_type=out["page_type"],
        mapping=out["mapping"],
        head=np.arange(total),
        kinds=PageTypes(kernel.types, dict(machine.info) if machine else {}),
        zones=zones,
    )
    _heads(pages, out["link"])
    return pages


def _one_of(kernel: Kernel, *paths: str) -> tuple[int, int]:
    """Return offset and size of the first member of struct page that there is."""
    for path in paths:
        member = kernel.types.member("page", path)
        if member is not None and member.size in (4, 8):
            return member.offset, member.size
    raise DumpError(f"struct page has no member {paths[0]} in {kernel.types.origin}")


def _held(
    kernel: Kernel, size: int, zones: tuple[Zone, ...]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield ``(frame, bytes)`` of whole struct pages, in place; ascending frames.

    Frames before and behind all memory have none: other things can be mapped there.
    """
    image, array = kernel.image, kernel.page_array
    physical, page = kernel.physical, kernel.page_size
    spans = [(zone.first, zone.end) for zone in zones]
    if physical.ranges:
        spans.append((physical.ranges[0].address // page, -(-physical.ranges[-1].end // page)))
    limit = min(array + max((end for _, end in spans), default=0) * size, 1 << 64)
    at = array + min((first for first, _ in spans), default=0) * size  # up to where all is done
    if at >= limit:
        return
    i = max(0, int(np.searchsorted(image.starts, np.uint64(at), side="right")) - 1)
    for segment in image.segments[i:]:
        if segment.address >= limit:
            break
        if at < segment.address:
            # The first struct page may begin in memory that is not there.
            at = array + -(-(segment.address - array) // size) * size
        n = (min(segment.end, limit) - at) // size
        if n > 0:
            offset = at - segment.address
            yield (at - array) // size, segment.data[offset : offset + n * size]
            at += n * size
        if at < segment.end and at + size <= limit:
            try:
                yield (at - array) // size, image.view(at, size)
            except FaultError:
                continue
            at += size


def _heads(pages: Pages, link: NDArray[np.uint64]) -> None:
    """Fill in `Pages.head`.

    Bit 0 of ``compound_head`` marks a tail; the rest is the head's address or, in kernels
    that call it ``compound_info``, possibly a mask that turns the tail's address into it.
    """
    tails = np.flatnonzero(link & np.uint64(1))
    where = link[tails] - np.uint64(1)
    span = ~where + np.uint64(1)
    masked = (span & (span - np.uint64(1)) == 0) & (span - np.uint64(1) < _MASK_SPAN)
    if masked.any():
        own = np.uint64(pages.array) + pages.frame[tails] * np.uint64(pages.struct_size)
        where = np.where(masked, own & where, where)
    head = pages.rows_of_structs(where)
    lost = head < 0
    if lost.any():
        pages.coverage.add(
            "kernel.pages.head",
            "compound pages whose head is not in the dump: taken as pages of their own",
            count=int(np.count_nonzero(lost)),
            address=int(where[lost][0]),
        )
    pages.head[tails[~lost]] = head[~lost]
    # Of a huge page's struct pages a kernel may keep the first page only and map it for the
    # others too: tails look like heads there. The page after such a one knows better.
    rows = np.flatnonzero(pages.flagged("head")[:-1])
    at = np.uint64(pages.array) + pages.frame[rows] * np.uint64(pages.struct_size)
    rows = rows[at % np.uint64(pages.page_size) == 0]
    follows = pages.frame[rows + 1] == pages.frame[rows] + np.uint64(1)
    tail = (link[rows] & np.uint64(1) == 0) & (link[rows + 1] & np.uint64(1) != 0)
    rows = rows[follows & tail]
    pages.head[rows] = np.minimum(pages.head[rows + 1], rows)
