"""The walk over chunks, on regions built here: exact where sound, bounded where not."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmemleak_core import _heap, _heap_find
from kmemleak_core._columns import copy_without
from kmemleak_core._heap import ChunkWalk
from kmemleak_core._heap_find import find_linked, find_mapped, follow
from kmemleak_core.heaps.glibc.chunks import ChunkTable
from kmemleak_core.image import MemoryImage, Segment

BASE = 0x5555_0000_0000
PREV_INUSE, IS_MMAPPED = 1, 2


@dataclass
class Region:
    """Chunks laid out one after another, and what a walk must find in them."""

    memory: bytearray
    word: int
    byteorder: str
    top: int
    chunks: list[tuple[int, int, bool]] = field(default_factory=list)

    @property
    def image(self) -> MemoryImage:
        return MemoryImage(
            [Segment(BASE, np.frombuffer(bytes(self.memory), np.uint8), kind="anonymous")],
            word_size=self.word,
            byteorder=self.byteorder,  # type: ignore[arg-type]
        )

    @property
    def used(self) -> list[tuple[int, int]]:
        return [(c + 2 * self.word, size - self.word) for c, size, free in self.chunks if not free]

    def put(self, address: int, value: int) -> None:
        pack(self.memory, address - BASE, value, self.word, self.byteorder)


def pack(memory: bytearray, offset: int, value: int, word: int, byteorder: str) -> None:
    code = ("<" if byteorder == "little" else ">") + ("Q" if word == 8 else "I")
    struct.pack_into(code, memory, offset, value & ((1 << 8 * word) - 1))


def build(
    layout: list[tuple[int, bool]], *, word: int = 8, byteorder: str = "little", top: int = 0x1000
) -> Region:
    """Lay out (units of 16 bytes, free) chunks and a top; free ones never touch each other."""
    total = sum(16 * units for units, _ in layout) + top
    region = Region(bytearray(b"\xa5" * total), word, byteorder, BASE)
    at, before_used, before_size = BASE, True, 0
    for units, free in [*layout, (top // 16, False)]:
        free = free and before_used
        size = 16 * units
        if not before_used:
            region.put(at, before_size)
        region.put(at + word, size | before_used)
        if at - BASE + size < total:
            region.chunks.append((at, size, free))
        else:
            region.top = at
        at, before_used, before_size = at + size, not free, size
    # The chunk before the top is never free: it would be part of it.
    if region.chunks and region.chunks[-1][2]:
        c, size, _ = region.chunks.pop()
        region.top = c
        region.put(c + word, (size + top) | PREV_INUSE)
    return region


def run(region: Region, capacity: int = 1 << 16) -> tuple[list[tuple[int, int]], ChunkWalk]:
    walk = ChunkWalk(region.image.engine, BASE, region.top, region.top, 16)
    address, usable = np.zeros(capacity, np.uint64), np.zeros(capacity, np.uint64)
    count = walk.run(address, usable, 0)
    return list(zip(address[:count].tolist(), usable[:count].tolist(), strict=True)), walk


layouts = st.lists(st.tuples(st.integers(2, 40), st.booleans()), min_size=1, max_size=120)
words = st.sampled_from([4, 8])
orders = st.sampled_from(["little", "big"])


@given(layouts, words, orders)
def test_a_sound_region_is_walked_exactly(
    layout: list[tuple[int, bool]], word: int, byteorder: str
) -> None:
    region = build(layout, word=word, byteorder=byteorder)
    found, walk = run(region)
    assert walk.stop == _heap.STOP_TOP
    assert found == region.used
    assert walk.chunks == len(region.chunks)
    assert walk.free_chunks == sum(free for *_, free in region.chunks)
    assert walk.free_bytes == sum(size for _, size, free in region.chunks if free)


@given(layouts, st.integers(1, 7))
def test_arrays_may_be_filled_in_pieces(layout: list[tuple[int, bool]], step: int) -> None:
    region = build(layout)
    walk = ChunkWalk(region.image.engine, BASE, region.top, region.top, 16)
    found: list[tuple[int, int]] = []
    while True:
        address, usable = np.zeros(step, np.uint64), np.zeros(step, np.uint64)
        count = walk.run(address, usable, 0)
        found += zip(address[:count].tolist(), usable[:count].tolist(), strict=True)
        if walk.stop != _heap.STOP_FULL:
            break
    assert found == region.used


@given(layouts, st.integers(0, 119), st.integers(0, (1 << 64) - 1))
def test_a_walk_over_a_damaged_size_stops_inside_its_region(
    layout: list[tuple[int, bool]], which: int, value: int
) -> None:
    region = build(layout)
    chunk = region.chunks[which % len(region.chunks)][0] if region.chunks else BASE
    region.put(chunk + 8, value)
    found, walk = run(region)
    assert BASE <= walk.position <= region.top
    assert [a for a, _ in found] == sorted({a for a, _ in found})
    assert all(a > BASE and a + size <= region.top + 8 for a, size in found)


@settings(max_examples=50)
@given(layouts, st.integers(0, 119), st.sampled_from([0, 8, 24, 0x4141414141414141, 1 << 40 | 1]))
def test_the_next_sound_chunk_is_found_again(
    layout: list[tuple[int, bool]], which: int, value: int
) -> None:
    region = build([*layout, *[(4, False)] * 40])
    row = which % (len(region.chunks) - 40)
    chunk, size, _ = region.chunks[row]
    region.put(chunk + 8, value)
    _, walk = run(region)
    assert walk.stop == _heap.STOP_BAD
    assert walk.resync(chunk + 16) == chunk + size


def test_fenceposts_end_a_region() -> None:
    region = build([(4, False)] * 5)
    region.put(region.top + 8, 0x10 | PREV_INUSE)
    region.put(region.top + 24, 0x10 | PREV_INUSE)
    limit = BASE + len(region.memory)
    walk = ChunkWalk(region.image.engine, BASE, limit, 0, 16)
    address, usable = np.zeros(100, np.uint64), np.zeros(100, np.uint64)
    assert walk.run(address, usable, 0) == 5
    assert walk.stop == _heap.STOP_FENCE
    assert walk.position == region.top + 32


def test_a_single_fencepost_is_damage() -> None:
    region = build([(4, False)] * 5)
    region.put(region.chunks[2][0] + 8, 0x10 | PREV_INUSE)
    _, walk = run(region)
    assert walk.stop == _heap.STOP_BAD
    assert walk.position == region.chunks[2][0]


def test_a_chunk_may_not_cross_the_regions_end() -> None:
    region = build([(4, False)] * 5)
    region.put(region.chunks[4][0] + 8, 0x2000 | PREV_INUSE)
    _, walk = run(region)
    assert walk.stop == _heap.STOP_BAD


def test_memory_that_is_missing_stops_the_walk() -> None:
    region = build([(64, False)] * 20)
    data = np.frombuffer(bytes(region.memory), np.uint8)
    image = MemoryImage([Segment(BASE, data[:5000]), Segment(BASE + 8192, data[8192:])])
    walk = ChunkWalk(image.engine, BASE, region.top, region.top, 16)
    address, usable = np.zeros(100, np.uint64), np.zeros(100, np.uint64)
    assert walk.run(address, usable, 0) == 4
    assert walk.stop == _heap.STOP_MISSING
    assert walk.resync(walk.position) == BASE + 8192


def test_a_number_that_leads_far_ahead_does_not_hide_the_chunks_it_jumps_over() -> None:
    region = build([(8, False), (8, False), *[(4, False)] * 60])
    damaged, target = region.chunks[1][0], region.chunks[40][0]
    region.put(damaged + 8, 0)
    region.put(damaged + 40, (target - (damaged + 32)) | PREV_INUSE)
    _, walk = run(region)
    assert walk.resync(damaged + 16) == region.chunks[2][0]


def test_foreign_memory_ends_where_a_chain_reaches_the_top() -> None:
    region = build([(4, False)] * 200)
    for chunk, _, _ in region.chunks[:100]:
        region.put(chunk + 8, 0x1230 | PREV_INUSE)  # leads nowhere in the end
    region.put(region.chunks[99][0] + 8, 0)
    walk = ChunkWalk(region.image.engine, BASE, region.top, region.top, 16)
    found = walk.resume(BASE)
    assert found <= region.chunks[100][0]
    assert walk.chains(found)


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=300))
def test_words_of_any_kind_neither_crash_nor_hang_a_walk(values: list[int]) -> None:
    memory = np.array(values, dtype=np.uint64).view(np.uint8)
    image = MemoryImage([Segment(BASE, memory)])
    end = BASE + memory.size
    walk = ChunkWalk(image.engine, BASE, end, end, 16)
    address, usable = np.zeros(400, np.uint64), np.zeros(400, np.uint64)
    walk.run(address, usable, 0)
    assert BASE <= walk.resync(BASE) <= end
    assert BASE <= walk.resume(BASE) <= end


def follow_one(image: MemoryImage, head: int, link: int, mangled: bool) -> tuple[list[int], int]:
    out, ends, stops = np.zeros(500, np.uint64), np.zeros(1, np.int64), np.zeros(1, np.uint8)
    follow(image.engine, np.array([head], np.uint64), link, mangled, out, ends, stops)
    return out[: ends[0]].tolist(), int(stops[0])


@given(st.lists(st.integers(0, 20), min_size=1, max_size=20), st.booleans())
def test_a_free_list_is_followed_to_its_end_or_its_loop(nexts: list[int], mangled: bool) -> None:
    memory = np.zeros(64 * 32, np.uint64)
    for node, after in enumerate(nexts):
        address = BASE + 32 * node
        value = 0 if after >= len(nexts) else BASE + 32 * after
        memory[4 * node] = value ^ (address >> 12) if mangled else value
    image = MemoryImage([Segment(BASE, memory.view(np.uint8))])
    nodes, stop = follow_one(image, BASE, 0, mangled)
    expected, node = [], 0
    while node < len(nexts) and node not in expected:
        expected.append(node)
        node = nexts[node]
    loops = node < len(nexts)
    assert stop == (_heap_find.LIST_LOOP if loops else _heap_find.LIST_END)
    met = [(a - BASE) // 32 for a in nodes]
    assert met[: len(expected)] == expected
    assert len(met) <= 4 * len(nexts) + 4


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=20),
    st.lists(st.integers(0, 25), max_size=8),
    st.booleans(),
)
def test_many_free_lists_are_followed_as_each_would_be(
    nexts: list[int], firsts: list[int], mangled: bool
) -> None:
    memory = np.zeros(4 * len(nexts), np.uint64)
    for node, after in enumerate(nexts):
        address = BASE + 32 * node
        value = 0 if after >= len(nexts) else BASE + 32 * after
        memory[4 * node] = value ^ (address >> 12) if mangled else value
    image = MemoryImage([Segment(BASE, memory.view(np.uint8))])
    heads = np.array([BASE + 32 * first for first in firsts], np.uint64)
    out = np.zeros(1000, np.uint64)
    ends, stops = np.zeros(heads.size, np.int64), np.zeros(heads.size, np.uint8)
    follow(image.engine, heads, 0, mangled, out, ends, stops)
    begins = [0, *ends.tolist()]
    for i, head in enumerate(heads.tolist()):
        nodes = out[begins[i] : begins[i + 1]].tolist()
        assert (nodes, int(stops[i])) == follow_one(image, head, 0, mangled)


def test_lists_that_hold_more_than_there_is_room_for_are_told() -> None:
    memory = np.array([BASE + 32, 0, 0, 0, 0, 0, 0, 0], np.uint64)
    image = MemoryImage([Segment(BASE, memory.view(np.uint8))])
    heads = np.array([BASE, BASE, 0], np.uint64)
    out, ends, stops = np.zeros(3, np.uint64), np.zeros(3, np.int64), np.zeros(3, np.uint8)
    follow(image.engine, heads, 0, False, out, ends, stops)
    assert ends.tolist() == [2, 3, 3]
    assert stops.tolist() == [_heap_find.LIST_END, _heap_find.LIST_FULL, _heap_find.LIST_END]


def test_a_free_list_that_leaves_the_image_is_told() -> None:
    memory = np.array([0x1234, 0], np.uint64)
    image = MemoryImage([Segment(BASE, memory.view(np.uint8))])
    assert follow_one(image, BASE, 0, False) == ([BASE], _heap_find.LIST_BAD)
    assert follow_one(image, (1 << 64) - 4, 8, False) == ([], _heap_find.LIST_BAD)


def test_words_that_point_to_themselves_are_found() -> None:
    memory = np.zeros(512, np.uint64)
    for row in (64, 128, 200):
        memory[row] = BASE + 8 * row - 16
        memory[row + 1] = BASE + 8 * row - 16
    image = MemoryImage([Segment(BASE, memory.view(np.uint8))])
    back = (1 << 64) - 16
    found = find_linked(image.engine, BASE, BASE + 4096, 8, 0, back, 8, back, 100)
    assert found == [BASE + 8 * row for row in (64, 128, 200)]
    assert len(find_linked(image.engine, BASE, BASE + 4096, 8, 0, back, 8, back, 2)) == 2


def mapped(image: MemoryImage, size: int, trailer: int = 0) -> list[tuple[int, int, int]]:
    columns = [np.zeros(64, np.uint64) for _ in range(3)]
    count = find_mapped(image.engine, BASE, BASE + size, 4096, trailer, 16, *columns)
    return list(zip(*(c[:count].tolist() for c in columns), strict=True))


@pytest.mark.parametrize("trailer", [0, 16])
def test_adjoining_mapped_chunks_are_told_apart(trailer: int) -> None:
    memory = np.zeros(16 * 512, np.uint64)
    for page, pages in ((1, 3), (4, 1), (8, 8)):
        memory[page * 512 + 1] = (pages * 4096 - trailer) | IS_MMAPPED
    image = MemoryImage([Segment(BASE, memory.view(np.uint8))])
    assert mapped(image, memory.nbytes, trailer) == [
        (BASE + 4096, BASE + 4096, 3 * 4096),
        (BASE + 4 * 4096, BASE + 4 * 4096, 4096),
        (BASE + 8 * 4096, BASE + 8 * 4096, 8 * 4096),
    ]


def test_an_aligned_mapped_chunk_is_found_behind_the_stale_header() -> None:
    memory = np.zeros(16 * 512, np.uint64)
    memory[1] = 16 * 4096 | IS_MMAPPED
    chunk = 8192 - 16
    memory[chunk // 8] = chunk
    memory[chunk // 8 + 1] = (16 * 4096 - chunk) | IS_MMAPPED
    image = MemoryImage([Segment(BASE, memory.view(np.uint8))])
    assert mapped(image, memory.nbytes) == [(BASE, BASE + chunk, 16 * 4096)]


def test_a_mapped_chunk_may_not_reach_beyond_its_memory() -> None:
    memory = np.zeros(4 * 512, np.uint64)
    memory[1] = 8 * 4096 | IS_MMAPPED
    image = MemoryImage([Segment(BASE, memory.view(np.uint8))])
    assert mapped(image, memory.nbytes) == []


rows = st.lists(st.integers(1, 1 << 60), unique=True, max_size=60).map(sorted)


@given(rows, st.sets(st.integers(0, 59)))
def test_rows_are_left_out_of_a_copy(values: list[int], gone: set[int]) -> None:
    gone = {row for row in gone if row < len(values)}
    out = np.zeros(len(values) - len(gone), np.uint64)
    copy_without(np.array(values, np.uint64), np.array(sorted(gone), np.int64), out)
    assert out.tolist() == [v for row, v in enumerate(values) if row not in gone]


@given(rows, rows, rows, st.integers(1, 9), st.integers(1, 2))
def test_a_table_is_all_that_was_put_in_but_what_is_left_out(
    old: list[int], new: list[int], gone: list[int], block: int, threads: int
) -> None:
    new = [a for a in new if a not in old]
    gone = sorted({*gone, *old[::3], *new[::2]})
    table, more = ChunkTable(block), ChunkTable(block)
    half = len(old) // 2
    for address in old[:half]:
        table.append(address, address % 97 + 1)
    for address in old[half // 2 :]:
        more.append(address, address % 97 + 1)
    table.extend(more, half - half // 2)
    merged = np.array(new, np.uint64)
    table.merge(merged, merged % np.uint64(97) + np.uint64(1))
    both = sorted(old + new)
    assert len(table) == len(both)
    asked = np.array([*both[::2], *gone, 5], np.uint64)
    told = {a: a % 97 + 1 for a in both}
    assert table.find(asked).tolist() == [told.get(a, 0) for a in asked.tolist()]
    assert table.with_usable(7, 1000) == [a for a in both if a % 97 == 6]
    address, usable = table.finish(np.array(gone[::-1], np.uint64), threads)
    assert address.tolist() == [a for a in both if a not in gone]
    assert usable.tolist() == [a % 97 + 1 for a in both if a not in gone]


def test_wrong_arrays_are_refused() -> None:
    one = np.zeros(1, np.uint64)
    with pytest.raises(ValueError, match="fit"):
        copy_without(one, np.zeros(1, np.int64), one.copy())
    with pytest.raises(ValueError, match="rows"):
        copy_without(one, np.ones(1, np.int64), one[:0])
    with pytest.raises(ValueError, match="rows"):
        copy_without(np.zeros(3, np.uint64), np.array([1, 1], np.int64), one)
    region = build([(4, False)])
    with pytest.raises(ValueError, match="alignment"):
        ChunkWalk(region.image.engine, BASE, BASE + 64, 0, 12)
    with pytest.raises(ValueError, match="ends before"):
        ChunkWalk(region.image.engine, BASE, BASE - 64, 0, 16)
