"""A damaged heap loses as little as possible, says what it lost, and never makes a walk fail."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zstandard
from numpy.typing import NDArray

from kmemleak_core.coverage import CoverageNote
from kmemleak_core.dump import Dump
from kmemleak_core.dumps import open_dump
from kmemleak_core.heaps import Heap
from kmemleak_core.heaps.glibc import GlibcHeap
from kmemleak_core.image import Hole, MemoryImage, Segment

GARBAGE = 0x4141414141414141
# Offsets in glibc 2.36's malloc_state, which this core has.
TOP, BINS, NEXT, SYSTEM_MEM, FASTBINS = 96, 112, 2160, 2184, 16


@pytest.fixture(scope="module")
def core(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dump]:
    packed = shared_data / "usercore" / "core.zst"
    if not packed.is_file():
        pytest.skip(f"no core with known answers at {packed}")
    path = tmp_path_factory.mktemp("usercore") / "core"
    with packed.open("rb") as source, path.open("wb") as target:
        zstandard.ZstdDecompressor(max_window_size=1 << 27).copy_stream(source, target)
    yield open_dump(str(path))
    path.unlink()


@pytest.fixture(scope="module")
def sound(core: Dump) -> Heap:
    return find(core)


def find(dump: Dump) -> Heap:
    heap = GlibcHeap().find(dump)
    assert heap is not None
    return heap


def altered(dump: Dump, words: Mapping[int, int]) -> Dump:
    """Return the dump with some words overwritten."""
    segments = []
    for segment in dump.image.segments:
        inside = [a for a in words if segment.address <= a < segment.end]
        if inside:
            data = segment.data.copy()
            for address in inside:
                offset = address - segment.address
                data[offset : offset + 8].view("<u8")[:] = words[address]
            segment = replace(segment, data=data)
        segments.append(segment)
    return replace(dump, image=MemoryImage(segments, holes=dump.image.holes))


def main_arena(heap: Heap) -> int:
    return next(e.begin for e in heap.excluded if e.reason == "arena")


def main_heap(heap: Heap) -> tuple[int, int]:
    return next((e.begin, e.end) for e in heap.excluded if e.reason == "heap")


def objects_in_main_heap(heap: Heap) -> NDArray[np.uint64]:
    low, high = main_heap(heap)
    address = heap.objects.address
    return address[(address >= low) & (address < high)]


def lost(sound: Heap, damaged: Heap) -> set[int]:
    return set(sound.objects.address.tolist()) - set(damaged.objects.address.tolist())


def gained(sound: Heap, damaged: Heap) -> set[int]:
    return lost(damaged, sound)


def note(heap: Heap, code: str) -> CoverageNote:
    return next(n for n in heap.coverage if n.code == code)


@pytest.mark.parametrize(
    "size", [GARBAGE, 0, 1, 8, (1 << 64) - 15, 0x123456789, 0x21, 0x7FFFFFFFFFF1]
)
def test_one_overwritten_size_costs_at_most_that_object(core: Dump, sound: Heap, size: int) -> None:
    for victim in objects_in_main_heap(sound)[[100, 4000, 9000]].tolist():
        heap = find(altered(core, {victim - 8: size}))
        assert lost(sound, heap) <= {victim}
        assert not gained(sound, heap)


def test_a_damaged_place_is_told(core: Dump, sound: Heap) -> None:
    victim = int(objects_in_main_heap(sound)[5000])
    heap = find(altered(core, {victim - 8: GARBAGE}))
    told = note(heap, "heap.resync")
    assert told.count == 1
    assert told.address == victim - 16
    assert 0 < told.nbytes < 8192
    assert heap.counters["unparsed_bytes"] == told.nbytes
    assert not next(c for c in heap.checks if "main arena" in c.name).passed


def test_what_did_not_parse_stays_a_root(core: Dump, sound: Heap) -> None:
    victim = int(objects_in_main_heap(sound)[5000])
    heap = find(altered(core, {victim - 8: GARBAGE}))
    assert not any(e.begin <= victim < e.end for e in heap.excluded)
    assert any(e.begin <= victim < e.end for e in sound.excluded)


def test_a_size_that_leads_astray_does_not_swallow_the_next_objects(
    core: Dump, sound: Heap
) -> None:
    objects = objects_in_main_heap(sound)
    victim = int(objects[3000])
    reach = int(objects[3040]) - victim + 32  # into the middle of a later block
    heap = find(altered(core, {victim - 8: reach // 16 * 16 | 1}))
    assert len(lost(sound, heap)) <= 1
    assert len(gained(sound, heap)) <= 1


def test_a_hundred_overwritten_sizes_cost_about_a_hundred_objects(core: Dump, sound: Heap) -> None:
    victims = objects_in_main_heap(sound)[50::160][:100]
    heap = find(altered(core, {v - 8: GARBAGE + v for v in victims.tolist()}))
    assert len(lost(sound, heap) - set(victims.tolist())) <= 5
    assert len(gained(sound, heap)) <= 5
    assert note(heap, "heap.resync").count >= 90


def test_adjoining_overwritten_sizes_are_passed_together(core: Dump, sound: Heap) -> None:
    victims = objects_in_main_heap(sound)[6000:6040].tolist()
    heap = find(altered(core, {v - 8: GARBAGE for v in victims}))
    assert lost(sound, heap) <= set(victims)


@pytest.mark.parametrize("link", [GARBAGE, 0x1000, 8])
def test_a_damaged_tcache_link_costs_only_the_rest_of_its_list(
    core: Dump, sound: Heap, link: int
) -> None:
    tcache = next(e.begin for e in sound.excluded if e.reason == "tcache")
    heads = core.image.words(tcache + 128, 64)
    head = int(heads[np.flatnonzero(heads)[3]])
    heap = find(altered(core, {head: link}))
    assert not lost(sound, heap)
    assert len(gained(sound, heap)) <= 7
    assert note(heap, "heap.free-list").count == 1


def test_a_tcache_list_that_loops_ends(core: Dump, sound: Heap) -> None:
    tcache = next(e.begin for e in sound.excluded if e.reason == "tcache")
    heads = core.image.words(tcache + 128, 64)
    head = int(heads[np.flatnonzero(heads)[3]])
    heap = find(altered(core, {head: head ^ (head >> 12)}))
    assert not lost(sound, heap)
    assert note(heap, "heap.free-list").count == 1


def test_a_fastbin_that_loops_ends(core: Dump, sound: Heap) -> None:
    heap_info = 48
    arena = next(e.begin for e in sound.excluded if e.begin % (64 << 20) == 0) + heap_info
    heads = core.image.words(arena + FASTBINS, 10)
    head = int(heads[np.flatnonzero(heads)[0]])
    heap = find(altered(core, {head + 16: head ^ ((head + 16) >> 12)}))
    assert not lost(sound, heap)
    assert note(heap, "heap.free-list").count == 1


@pytest.mark.parametrize("size", [GARBAGE, 0, 0x1001, (1 << 64) - 15])
def test_a_damaged_top_costs_no_object(core: Dump, sound: Heap, size: int) -> None:
    top = core.image.word(main_arena(sound) + TOP)
    heap = find(altered(core, {top + 8: size}))
    assert not lost(sound, heap)
    assert not gained(sound, heap)


@pytest.mark.parametrize("size", [GARBAGE, 0x10000, 0x1000000, (1 << 64) - 1])
def test_a_damaged_system_mem_costs_no_object(core: Dump, sound: Heap, size: int) -> None:
    heap = find(altered(core, {main_arena(sound) + SYSTEM_MEM: size}))
    assert not lost(sound, heap)
    assert not gained(sound, heap)
    assert not next(c for c in heap.checks if "system_mem of the main" in c.name).passed


@pytest.mark.parametrize("link", [GARBAGE, 0, 0x7F0000000000])
def test_a_broken_ring_of_arenas_costs_no_object(core: Dump, sound: Heap, link: int) -> None:
    heap = find(altered(core, {main_arena(sound) + NEXT: link}))
    assert not lost(sound, heap)
    assert not gained(sound, heap)


def test_damaged_bins_cost_no_object(core: Dump, sound: Heap) -> None:
    bins = main_arena(sound) + BINS
    heap = find(altered(core, {bins + 16 * k: GARBAGE for k in range(0, 50, 2)}))
    assert not lost(sound, heap)
    assert not gained(sound, heap)


def test_a_truncated_heap_gives_what_is_there(core: Dump, sound: Heap) -> None:
    low, high = main_heap(sound)
    cut = (low + high) // 2 & ~0xFFF
    segments: list[Segment] = []
    for segment in core.image.segments:
        if segment.address <= cut < segment.end:
            segment = replace(segment, data=segment.data[: cut - segment.address])
        segments.append(segment)
    holes = [*core.image.holes, Hole(cut, high - cut, "truncated", "rw-", "anonymous", "[heap]")]
    heap = find(replace(core, image=MemoryImage(segments, holes=holes)))
    gone = lost(sound, heap)
    assert all(cut - 4096 < address < high for address in gone)
    told = note(heap, "heap.missing")
    assert cut - 4096 < (told.address or 0) <= cut + 4096


def test_a_hole_in_the_heap_is_passed(core: Dump, sound: Heap) -> None:
    low, _ = main_heap(sound)
    begin, end = low + 0x100000, low + 0x180000
    segments: list[Segment] = []
    for segment in core.image.segments:
        if segment.address <= begin < segment.end:
            first = segment.data[: begin - segment.address]
            segments.append(replace(segment, data=first))
            second = segment.data[end - segment.address :]
            segments.append(replace(segment, address=end, data=second))
        else:
            segments.append(segment)
    holes = [*core.image.holes, Hole(begin, end - begin, "not-dumped", "rw-")]
    heap = find(replace(core, image=MemoryImage(segments, holes=holes)))
    assert all(begin - 8192 < a < end + 8192 for a in lost(sound, heap))
    # Free lists that lead into the hole cannot be followed to their ends.
    freed = sound.counters["tcache_chunks"] + sound.counters["fastbin_chunks"]
    assert len(gained(sound, heap)) < freed
    assert note(heap, "heap.free-list").count >= 1


@pytest.mark.parametrize("contiguous", [0, 2])
def test_sums_beyond_all_memory_cost_neither_memory_nor_time(
    core: Dump, sound: Heap, contiguous: int
) -> None:
    arena = main_arena(sound)
    top = core.image.word(arena + TOP)
    flags = core.image.word(arena) & 0xFFFFFFFF
    low, _ = main_heap(sound)
    damage = {arena + SYSTEM_MEM: top - 0x1000, arena: contiguous << 32 | flags}
    for place in range(arena - 4096, arena, 8):  # mp_ does not tell better
        if core.image.word(place) == low:
            damage[place] = 0x2000
    dump = altered(core, damage)
    holes = [*core.image.holes, Hole(0x2000, low - 0x2000, "truncated", "rw-", "anonymous")]
    heap = find(replace(dump, image=MemoryImage(dump.image.segments, holes=holes)))
    assert len(lost(sound, heap)) < 10


def test_a_thread_whose_control_block_is_blank_is_told(core: Dump, sound: Heap) -> None:
    base = core.threads[1].tls_base
    heap = find(altered(core, {base + 8 * k: 0 for k in range(288)}))
    assert note(heap, "heap.thread-memory").count == 1
    assert core.threads[1].tid not in {s.tid for s in heap.stacks}


@pytest.mark.parametrize("seed", range(12))
def test_damage_anywhere_is_survived(core: Dump, sound: Heap, seed: int) -> None:
    random = np.random.default_rng(seed)
    arena = main_arena(sound)
    low, high = main_heap(sound)
    places = [
        *(low + 8 * random.integers(0, (high - low) // 8, 300)).tolist(),
        *(arena + 8 * random.integers(0, 275, 12)).tolist(),
        *(objects_in_main_heap(sound)[random.integers(0, 10000, 40)] - np.uint64(8)).tolist(),
    ]
    for exclusion in sound.excluded:
        if exclusion.reason in ("heap", "tcache"):
            places += (exclusion.begin + 8 * random.integers(0, 80, 6)).tolist()
    values = random.integers(0, 1 << 64, len(places), dtype=np.uint64)
    small = random.random(len(places)) < 0.5
    values[small] &= np.uint64(0xFFF1)
    heap = GlibcHeap().find(altered(core, dict(zip(places, values.tolist(), strict=True))))
    if heap is not None:
        assert len(lost(sound, heap)) < 4000 or len(heap.coverage)
