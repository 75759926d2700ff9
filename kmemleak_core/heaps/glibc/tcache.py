"""Finds what threads and arenas hold ready for reuse: tcaches and fastbins, links mangled or not.

Such chunks look allocated to their neighbours (PREV_INUSE stays set); only these lists tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..._heap_find import LIST_END, follow
from ...dump import Dump
from ...errors import FaultError
from ...image import MemoryImage
from .arenas import Arena, word_at
from .chunks import ChunkTable, sorted_once
from .layouts import TCACHE_LAYOUTS, Layout, TcacheLayout

#: Bytes of static TLS that are searched for the pointer to the tcache, nearest part first.
TLS_WINDOWS = (4096, 65536)

#: First bin that holds chunks of mixed sizes (≥ 2.42).
MIXED_BIN = 64


#: Multiples of malloc's alignment by which the chunk of a tcache may be too long: no more than
#: lie between two families.
SLACK = 4


@dataclass(slots=True)
class FreeLists:
    """The tcaches and fastbins of a process.

    Parameters
    ----------
    structures
        Addresses of the tcache structures (each is a chunk in use).
    versions
        The tcache's layout family, empty if there is no tcache.
    tcached, fastbinned
        The program's addresses of the chunks in them, ``uint64``.
    mangled
        Whether links are mangled (safe-linking, ≥ 2.32).
    damaged
        Heads of lists that loop, or that lead to what is no chunk: the rest of each is lost.
    """

    structures: list[int] = field(default_factory=list)
    versions: str = ""
    tcached: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    fastbinned: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    mangled: bool = False
    damaged: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Lists:
    """Lists that were followed with one way of decoding links."""

    nodes: list[NDArray[np.uint64]] = field(default_factory=list)
    damaged: list[int] = field(default_factory=list)

    @property
    def count(self) -> int:
        return sum(part.size for part in self.nodes)

    def all(self) -> NDArray[np.uint64]:
        """Return every node once, sorted."""
        return sorted_once(*self.nodes)


class _Reader:
    """Follows lists, keeping only nodes that are chunks in use."""

    def __init__(self, image: MemoryImage, layout: Layout, table: ChunkTable) -> None:
        self.image = image
        self.layout = layout
        self.table = table
        # Sound lists hold no more nodes than there are chunks.
        self.buffer = np.empty(len(table) + 1, np.uint64)

    def follow(
        self,
        heads: NDArray[np.uint64],
        offset: int,
        mangled: bool,
        bins: NDArray[np.int64] | None,
        into: _Lists,
    ) -> None:
        """Follow lists whose nodes lie `offset` bytes before the program's address.

        Where `bins` are given, list i must hold chunks of the size class ``bins[i]``.
        """
        ends, stops = np.empty(heads.size, np.int64), np.empty(heads.size, np.uint8)
        follow(self.image.engine, heads, offset, mangled, self.buffer, ends, stops)
        begins = np.concatenate(([0], ends[:-1]))
        nodes = self.buffer[: ends[-1] if ends.size else 0] + np.uint64(offset)
        usable = self.table.find(nodes)
        sound = usable > 0
        if bins is not None:
            layout = self.layout
            size = usable.astype(np.int64) + layout.word
            index = (size - layout.minimum + layout.align - 1) // layout.align
            wanted = np.repeat(bins, ends - begins)
            sound &= (index == wanted) | (wanted >= MIXED_BIN)
        # Behind the first node that is no chunk nothing can be trusted.
        good = ends.copy()
        wrong = np.flatnonzero(~sound)
        if wrong.size:
            first = np.append(wrong, nodes.size)[np.searchsorted(wrong, begins)]
            good = np.minimum(ends, first)
            kept = np.arange(nodes.size) < np.repeat(good, ends - begins)
            nodes = nodes[kept]
        if nodes.size:
            into.nodes.append(nodes)
        into.damaged += heads[(good < ends) | (stops != LIST_END)].tolist()

    def tcache(self, address: int, layout: TcacheLayout, mangled: bool, into: _Lists) -> None:
        """Follow all lists of one tcache."""
        word = self.layout.word
        try:
            data = self.image.view(address, layout.entries(word) + layout.bins * word)
        except FaultError:
            into.damaged.append(address)
            return
        order = "<" if self.image.byteorder == "little" else ">"
        entries = data[layout.entries(word) :].view(self.image.word_dtype)
        counts = data[: layout.count_size * layout.bins].view(f"{order}u{layout.count_size}")
        if layout.slots_left:
            if not counts.any():
                into.damaged.append(address)  # nothing there, and no room either
        else:
            into.damaged += [address] * int(np.count_nonzero((counts == 0) != (entries == 0)))
        used = np.flatnonzero(entries)
        self.follow(entries[used].astype(np.uint64), 0, mangled, used, into)


def find_free_lists(
    dump: Dump, arenas: Iterable[Arena], layout: Layout, table: ChunkTable
) -> FreeLists:
    """Find every tcache and fastbin.

    Parameters
    ----------
    dump
        The memory and its threads.
    arenas
        All arenas of one C library.
    layout
        Their layout.
    table
        All chunks in use, those in these lists included.
    """
    reader = _Reader(dump.image, layout, table)
    fastbins = {True: _Lists(), False: _Lists()}
    heads = np.array(_fastbin_heads(dump.image, arenas, layout), np.uint64)
    for mangled, lists in fastbins.items():
        reader.follow(heads, layout.header, mangled, None, lists)
    candidates = _candidates(dump, layout, table)
    parsed: dict[tuple[int, bool], _Lists] = {}
    best = None
    for slot, (structures, family) in enumerate(candidates):
        for mangled in (True, False):
            lists = parsed[slot, mangled] = _Lists()
            for address in structures:
                reader.tcache(address, family, mangled, lists)
            # Among equals (empty ones all), what most threads have: a tcache is every thread's.
            rank = (*_rank(lists, fastbins[mangled]), -len(structures), slot)
            if best is None or rank < best[0]:
                best = rank, slot, mangled
    if best is None:
        mangled = len(fastbins[True].damaged) <= len(fastbins[False].damaged)
        return FreeLists(
            fastbinned=fastbins[mangled].all(), mangled=mangled, damaged=fastbins[mangled].damaged
        )
    _, chosen, mangled = best
    found = FreeLists(
        fastbinned=fastbins[mangled].all(), mangled=mangled, damaged=fastbins[mangled].damaged
    )
    tcached = []
    for slot, (structures, family) in enumerate(candidates):
        lists = parsed[slot, mangled]
        # Another C library of the same process (dlmopen) keeps its tcache at another place. One of
        # another family must hold something: a block of the program's may look like an empty one.
        # One of the same family that does loses nothing: it is in use, since its thread points to
        # it, and holds nothing but zeros.
        other = slot != chosen
        if other and (lists.damaged or (family is not candidates[chosen][1] and not lists.count)):
            continue
        found.damaged += lists.damaged
        if lists.damaged and not lists.count:
            continue
        found.structures += [a for a in structures if a not in found.structures]
        found.versions = found.versions or family.versions
        tcached.append(lists.all())
    if tcached:
        found.tcached = sorted_once(*tcached)
    return found


def _rank(tcached: _Lists, fastbinned: _Lists) -> tuple[int, int]:
    """Order candidates: few damaged lists for what they hold, then many chunks."""
    held = tcached.count + fastbinned.count
    damaged = len(tcached.damaged) + len(fastbinned.damaged)
    # One damaged list among many sound ones is damage; a wrong guess has hardly a sound one.
    return (0, -held) if damaged <= max(2, held // 4) else (1, damaged)


def _fastbin_heads(image: MemoryImage, arenas: Iterable[Arena], layout: Layout) -> list[int]:
    heads = []
    for arena in arenas:
        for i in range(layout.fastbin_count):
            head = word_at(image, arena.base + layout.fastbins + i * layout.word)
            if head:
                heads.append(head)
    return heads


def _candidates(
    dump: Dump, layout: Layout, table: ChunkTable
) -> list[tuple[tuple[int, ...], TcacheLayout]]:
    """Return sets of chunks that may be the threads' tcaches, likeliest first.

    A thread's TLS holds a pointer to its tcache, at the same offset from the thread pointer in
    every thread; the structure is a chunk of a size that tells its family.
    """
    families = {
        f.usable(layout.word, layout.align) + slack: f
        for f in TCACHE_LAYOUTS
        if layout.fastbin_count or f.slots_left
        # The chunk may be longer than what was asked for: a remainder that makes no chunk stays
        # with it, and 2.43 reuses chunks a little longer.
        for slack in range(0, SLACK * layout.align, layout.align)
    }
    threads = [t for t in dump.threads if t.tls_base]
    for window in TLS_WINDOWS if threads else ():
        slots: dict[tuple[int, TcacheLayout], list[int]] = {}
        for thread in threads:
            for place, value, usable in _tls_chunks(dump, thread.tls_base, window, table):
                if usable in families:
                    slots.setdefault((place, families[usable]), []).append(value)
        if slots:
            return [
                (tuple(dict.fromkeys(values)), family)
                for (_, family), values in sorted(slots.items(), key=lambda s: abs(s[0][0]))
            ]
    if threads:
        return []
    # No thread pointers: every chunk of the right size is looked at by itself.
    members: dict[TcacheLayout, list[int]] = {}
    reader = _Reader(dump.image, layout, table)
    for usable, family in families.items():
        for address in table.with_usable(usable, 10_000):
            for mangled in (True, False):
                lists = _Lists()
                reader.tcache(address, family, mangled, lists)
                if lists.count and not lists.damaged:
                    members.setdefault(family, []).append(address)
    return [(tuple(dict.fromkeys(found)), family) for family, found in members.items()]


def _tls_chunks(
    dump: Dump, tls_base: int, window: int, table: ChunkTable
) -> list[tuple[int, int, int]]:
    """Return (offset, value, usable size) of the pointers to chunks in a thread's static TLS."""
    image = dump.image
    # Static TLS lies below the thread pointer on x86, above it on Arm and others.
    above = dump.architecture not in ("x86_64", "i386")
    low = tls_base if above else max(0, tls_base - window)
    high = tls_base + window if above else tls_base
    segment = image.find(low if above else high - 1)
    if segment is None:
        return []
    low = max(low, segment.address)
    low += -low % image.word_size
    count = (min(high, segment.end) - low) // image.word_size
    if count <= 0:
        return []
    values = image.words(low, count).astype(np.uint64)
    usable = table.find(values)
    return [
        (low + i * image.word_size - tls_base, int(values[i]), int(usable[i]))
        for i in np.flatnonzero(usable).tolist()
    ]
