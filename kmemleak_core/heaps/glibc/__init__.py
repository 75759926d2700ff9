"""Turns a dump of a process into the blocks that glibc's malloc has given to it.

Works without symbols, by structure (see `arenas`). Held to real programs under glibc 2.31, 2.36,
2.41 and 2.43 on x86-64, and tried under 2.36 on i386; the layouts of earlier versions and of
other machines, either byte order, were only tried on structures built by tests. Not handled:
``glibc.malloc.hugetlb=2`` beyond what its heaps' alignment tells, memory tagging, stacks of ended
threads on other architectures than x86.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...coverage import Coverage
from ...dump import Dump
from ...objects import ObjectFlags, ObjectTable
from .. import Check, Exclusion, Heap
from ..foreign import name_foreign_allocator
from .arenas import Arena, MallocParameters, find_arenas
from .layouts import Layout
from .mmapped import Mapped, find_mapped_chunks
from .regions import Region, anonymous_ranges, find_scattered, plan_main, plan_secondary
from .tcache import FreeLists, find_free_lists
from .threads import Stacks, find_stacks
from .walk import Walked, walk_all

AT_PAGESZ = 6


class GlibcHeap:
    """Finds the heap of glibc's malloc."""

    name = "glibc"

    def find(self, dump: Dump, threads: int = 1) -> Heap | None:
        """Return the heap, or None where glibc's malloc left no trace.

        That is also so where it was never asked for memory and another allocator is there.

        The table is in address order: a chunk does not tell when it was allocated. An object
        is the program's part of a chunk with all of its usable bytes, so it may be some bytes
        longer than what was asked for.
        """
        image = dump.image
        coverage = Coverage()
        arenas = find_arenas(image, coverage)
        foreign = name_foreign_allocator(dump)
        if not arenas or (foreign is not None and all(a.initial for a in arenas)):
            return None
        page = _page_size(dump)
        layout = arenas[0].layout
        parameters: list[tuple[Arena, MallocParameters | None]] = []
        regions: list[Region] = []
        for arena in arenas:
            if not arena.main:
                regions += plan_secondary(image, arena)
                continue
            planned, found = plan_main(image, arena)
            regions += planned
            parameters.append((arena, found))
        for arena, found in parameters:
            if not arena.contiguous and not arena.initial:
                base = found.sbrk_base if found else 0
                regions += find_scattered(image, arena, base, regions, page)
        regions = _disjoint(regions, coverage)

        table, walks = walk_all(image, regions, threads)
        outside = anonymous_ranges(image, [(r.begin, r.dead) for r in regions])
        mapped = find_mapped_chunks(image, layout, outside, page)
        table.merge(mapped.address, mapped.usable)
        lists = find_free_lists(dump, arenas, layout, table)
        own = np.array(lists.structures, np.uint64)
        ends = own + table.find(own)
        structures = list(zip(own.tolist(), ends.tolist(), strict=True))
        gone = np.concatenate([lists.tcached, lists.fastbinned, own])
        address, usable = table.finish(gone, threads)
        free_ranges = _without(outside, mapped)
        stacks = find_stacks(dump, free_ranges)

        heap = Heap(
            allocator=f"glibc {_versions(layout, lists)}",
            objects=_objects(address, usable, mapped),
            excluded=_excluded(arenas, regions, walks, mapped, structures, stacks),
            stacks=stacks.live + stacks.ended,
            checks=_checks(arenas, regions, walks, mapped, parameters),
            counters={
                "arenas": len(arenas),
                "heaps": len(regions),
                "chunks": sum(w.chunks for w in walks) + int(mapped.base.size),
                "allocated": int(address.size),
                "free_chunks": sum(w.free_chunks for w in walks),
                "tcache_chunks": int(lists.tcached.size),
                "fastbin_chunks": int(lists.fastbinned.size),
                "tcaches": len(lists.structures),
                "mmapped_chunks": int(mapped.base.size),
                "unparsed_bytes": sum(_total(w.lost) + _total(w.missing) for w in walks),
                "heap_bytes": sum(r.end - r.begin for r in regions)
                - sum(_total(w.foreign) for w in walks)
                + int(mapped.length.sum()),
            },
            coverage=coverage,
        )
        _tell(heap, walks, lists, stacks, foreign)
        return heap


def _page_size(dump: Dump) -> int:
    page = dump.auxv.get(AT_PAGESZ, 4096)
    return page if 4096 <= page <= 1 << 20 and not page & (page - 1) else 4096


def _versions(layout: Layout, lists: FreeLists) -> str:
    """Name the family: the arena's layout and the tcache's each narrow it."""
    return lists.versions if lists.versions and layout.fastbin_count else layout.versions


def _total(ranges: list[tuple[int, int]]) -> int:
    return sum(high - low for low, high in ranges)


def _objects(
    address: NDArray[np.uint64], usable: NDArray[np.uint64], mapped: Mapped
) -> ObjectTable:
    flags = np.zeros(address.size, dtype=np.uint8)
    # A mapped chunk ends where the next mapping begins: often a thread's stack, to which the
    # thread's own records point.
    row = np.minimum(np.searchsorted(address, mapped.address), max(0, address.size - 1))
    flags[row[address[row] == mapped.address]] = ObjectFlags.EXACT_END
    return ObjectTable.from_arrays(
        address, usable, flags=flags, allocation_order=False, on_overlap="drop"
    )


def _disjoint(regions: list[Region], coverage: Coverage) -> list[Region]:
    """Sort regions by address; drop those that a damaged arena lays over others."""
    kept: list[Region] = []
    for region in sorted(regions, key=lambda r: (r.begin, r.end)):
        if kept and region.begin < kept[-1].end:
            coverage.add(
                "heap.arena",
                f"{region.arena.name} claims memory of {kept[-1].arena.name}: left out",
                nbytes=region.end - region.begin,
                address=region.begin,
            )
            continue
        if kept and kept[-1].dead > region.begin:
            kept[-1].dead = kept[-1].end
        kept.append(region)
    return kept


def _without(ranges: list[tuple[int, int]], mapped: Mapped) -> list[tuple[int, int]]:
    """Return sorted ranges without the mappings of chunks."""
    if not mapped.base.size:
        return ranges
    begins, ends = mapped.base, mapped.base + mapped.length
    pieces = []
    for low, high in ranges:
        first = int(np.searchsorted(ends, np.uint64(low), side="right"))
        last = int(np.searchsorted(begins, np.uint64(high - 1), side="right"))
        for begin, end in zip(begins[first:last].tolist(), ends[first:last].tolist(), strict=True):
            if low < begin:
                pieces.append((low, begin))
            low = max(low, end)
        if low < high:
            pieces.append((low, high))
    return pieces


def _excluded(
    arenas: list[Arena],
    regions: list[Region],
    walks: list[Walked],
    mapped: Mapped,
    structures: list[tuple[int, int]],
    stacks: Stacks,
) -> list[Exclusion]:
    excluded = [Exclusion(a.base, a.end, "arena") for a in arenas if a.main]
    for region, walked in zip(regions, walks, strict=True):
        # What did not parse may still hold what the program reaches: it stays a root.
        at = region.begin
        for low, high in sorted(walked.lost + walked.missing + walked.foreign):
            if at < low:
                excluded.append(Exclusion(at, low, "heap"))
            at = max(at, high)
        if at < region.dead:
            excluded.append(Exclusion(at, region.dead, "heap"))
    excluded += [Exclusion(low, high, "tcache") for low, high in structures]
    excluded += [
        Exclusion(base, base + length, "heap-mapped")
        for base, length in zip(mapped.base.tolist(), mapped.length.tolist(), strict=True)
    ]
    excluded += [Exclusion(s.low, s.high, "ended-thread-stack") for s in stacks.ended]
    return excluded


def _checks(
    arenas: list[Arena],
    regions: list[Region],
    walks: list[Walked],
    mapped: Mapped,
    parameters: list[tuple[Arena, MallocParameters | None]],
) -> list[Check]:
    """Compare the allocator's own sums with what was walked."""
    checks = []
    for arena in arenas:
        if arena.initial:
            continue
        walked = sum(
            r.end - r.begin - _total(w.lost) - _total(w.missing)
            for r, w in zip(regions, walks, strict=True)
            if r.arena is arena
        )
        checks.append(Check(f"system_mem of {arena.name}", arena.system_mem, walked))
    for arena, found in parameters:
        if found is None:
            continue
        begins = [r.begin for r in regions if r.arena is arena]
        if found.sbrk_base and begins and arena.contiguous:
            checks.append(Check(f"start of {arena.name}", found.sbrk_base, begins[0]))
    counted = [found for _, found in parameters if found is not None]
    if counted:
        expected = sum(found.mapped_count for found in counted)
        checks.append(Check("number of mmapped chunks", expected, int(mapped.base.size)))
        expected = sum(found.mapped_bytes for found in counted)
        checks.append(Check("bytes of mmapped chunks", expected, int(mapped.length.sum())))
    return checks


def _tell(
    heap: Heap, walks: list[Walked], lists: FreeLists, stacks: Stacks, foreign: str | None
) -> None:
    """Put into words what did not parse."""
    add = heap.coverage.add
    lost = sorted(piece for w in walks for piece in w.lost)
    missing = sorted(piece for w in walks for piece in w.missing)
    truncated = sorted(chunk for w in walks for chunk in w.truncated)
    if lost or truncated:
        first = min([low for low, _ in lost] + truncated)
        add(
            "heap.resync",
            "chunk headers are damaged: the walk went on at the next sound ones, and what lies "
            "between is scanned as a root instead of as objects",
            count=len(lost) + len(truncated),
            nbytes=_total(lost),
            address=first,
        )
    if missing:
        add(
            "heap.missing",
            "the dump lacks parts of the heap",
            count=len(missing),
            nbytes=_total(missing),
            address=missing[0][0],
        )
    inconsistent = sum(w.inconsistent for w in walks)
    if inconsistent:
        add(
            "heap.inconsistent",
            "free chunks whose size at their end differs from the one at their start",
            count=inconsistent,
        )
    if lists.damaged:
        add(
            "heap.free-list",
            "free lists (tcache, fastbins) loop or lead to what is no chunk: the rest of each "
            "is taken for allocated",
            count=len(lists.damaged),
            address=min(lists.damaged),
        )
    for check in heap.checks:
        if not check.passed:
            add(
                "heap.check",
                f"{check.name}: the allocator says {check.expected:,}, the walk {check.found:,}",
            )
    if stacks.blank:
        add(
            "heap.thread-memory",
            "the dump holds no control block for some threads, so memory near it may be blank too "
            "(gdb's gcore gives up at guard pages): what only these threads hold looks lost",
            count=len(stacks.blank),
        )
    if stacks.unknown:
        add(
            "heap.threads",
            "threads whose stack was not found: all of its memory is scanned",
            count=len(stacks.unknown),
        )
    if not stacks.searched:
        add(
            "heap.threads",
            "stacks of ended threads are not recognised on this architecture, and are scanned",
        )
    if foreign is not None:
        add(
            "heap.foreign-allocator",
            f"the program also uses {foreign}, which is not read yet: its blocks are neither "
            "checked nor told apart",
        )
