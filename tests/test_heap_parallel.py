"""A walk that is cut into parts finds just what one walk from end to end finds, damage included."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmemleak_core import workers
from kmemleak_core._heap import STOP_TOP, STOP_UNTIL, ChunkWalk
from kmemleak_core.heaps.glibc import walk as walking
from kmemleak_core.heaps.glibc.arenas import Arena
from kmemleak_core.heaps.glibc.layouts import layouts
from kmemleak_core.heaps.glibc.regions import Region
from kmemleak_core.image import MemoryImage, Segment

from .test_heap_walk import BASE, PREV_INUSE, build, orders, words
from .test_heap_walk import Region as Built

Found = tuple[list[tuple[int, int]], list[walking.Walked]]

chunks = st.lists(st.tuples(st.integers(2, 12), st.booleans()), min_size=1, max_size=200)
# What the program or an overrun puts into a word: sizes that lead somewhere are the nasty ones.
values = st.one_of(
    st.integers(0, 64).map(lambda units: 16 * units | PREV_INUSE),
    st.sampled_from([0, 0x10, 0x11, 0x4141414141414141, (1 << 64) - 15]),
    st.integers(0, (1 << 64) - 1),
)
damage = st.lists(st.tuples(st.integers(0, 10_000), values), max_size=25)


def walked(image: MemoryImage, built: Built, threads: int, part: int, *, top: bool = True) -> Found:
    family = next(each for each in layouts(image.word_size) if each.align == 16)
    end = BASE + len(built.memory)
    limit = built.top if top else end
    arena = Arena(0x1000, family, built.top if top else 0, end - BASE, 0x2000, contiguous=True)
    with patch.object(walking, "PART", part):
        table, walks = walking.walk_all(
            image, [Region(arena, BASE, BASE, limit, end, end)], threads
        )
    address, usable = table.finish(np.empty(0, np.uint64))
    return list(zip(address.tolist(), usable.tolist(), strict=True)), walks


@given(chunks, damage, words, orders, st.sampled_from([64, 160, 1024, 4096]), st.booleans())
def test_parts_find_what_the_whole_walk_finds(
    layout: list[tuple[int, bool]],
    harm: list[tuple[int, int]],
    word: int,
    byteorder: str,
    part: int,
    top: bool,
) -> None:
    built = build(layout, word=word, byteorder=byteorder)
    for place, value in harm:
        built.put(BASE + place * word % (len(built.memory) - word), value)
    image = built.image
    plain = walked(image, built, 1, part, top=top)
    assert walked(image, built, 2, part, top=top) == plain


@given(chunks, st.integers(0, 6), st.integers(1, 6), st.sampled_from([64, 1024]))
def test_parts_find_what_the_whole_walk_finds_around_missing_memory(
    layout: list[tuple[int, bool]], hole: int, length: int, part: int
) -> None:
    built = build(layout)
    data = np.frombuffer(bytes(built.memory), np.uint8)
    low, high = 512 * hole + 8 * length, 512 * (hole + length)
    image = MemoryImage([Segment(BASE, data[:low]), Segment(BASE + high, data[high:])])
    assert walked(image, built, 2, part) == walked(image, built, 1, part)


def test_a_sound_region_is_put_together_in_one_go() -> None:
    built = build([(4, False), (6, True), (2, False)] * 400)
    image = built.image
    met: list[int] = []
    join = walking._go_on

    def counted(*arguments: object) -> None:
        met.append(len(arguments[4]))  # type: ignore[arg-type]
        join(*arguments)  # type: ignore[arg-type]

    with patch.object(walking, "_go_on", counted):
        found, _ = walked(image, built, 2, 4096)
    assert found == built.used
    assert met == [-(-(built.top - BASE) // 4096)]


def test_a_region_that_claims_all_memory_is_walked_where_there_is_some() -> None:
    built = build([(4, False)] * 50)
    image = built.image
    family = next(each for each in layouts(image.word_size) if each.align == 16)
    top = 1 << 63
    arena = Arena(0x1000, family, top, top - BASE, 0x2000, contiguous=True)
    found = []
    for threads in (1, 2):
        region = Region(arena, BASE, BASE, top, top, top)
        table, walks = walking.walk_all(image, [region], threads)
        address, _ = table.finish(np.empty(0, np.uint64))
        found.append((address.tolist(), walks))
    assert found[0] == found[1]
    assert len(found[0][0]) >= 49


def test_a_walk_stops_at_the_place_it_is_asked_to() -> None:
    built = build([(4, False)] * 20)
    walk = ChunkWalk(built.image.engine, BASE, built.top, built.top, 16)
    address, usable = np.zeros(30, np.uint64), np.zeros(30, np.uint64)
    count = walk.run(address, usable, 0, built.chunks[7][0] - 16)
    assert (count, walk.stop, walk.position, walk.pending) == (7, STOP_UNTIL, built.chunks[7][0], 0)
    assert walk.run(address, usable, count) == 20
    assert walk.stop == STOP_TOP


def test_walks_that_do_not_meet_are_not_joined() -> None:
    built = build([(4, False)] * 20)
    engine = built.image.engine
    address, usable = np.zeros(30, np.uint64), np.zeros(30, np.uint64)
    walk, ahead, other = (ChunkWalk(engine, BASE, built.top, built.top, 16) for _ in range(3))
    walk.run(address, usable, 0, built.chunks[7][0])
    with pytest.raises(ValueError, match="do not meet"):
        walk.join(ahead, other)
    elsewhere = ChunkWalk(engine, BASE, built.top, 0, 16)
    with pytest.raises(ValueError, match="another region"):
        walk.join(elsewhere, other)


def test_results_come_in_the_order_of_the_tasks() -> None:
    tasks = [lambda i=i: i * i for i in range(50)]
    assert workers.run(4, tasks) == workers.run(1, tasks) == [i * i for i in range(50)]


def test_the_first_failure_is_raised() -> None:
    def fail() -> int:
        raise LookupError("second")

    with pytest.raises(LookupError, match="second"):
        workers.run(3, [lambda: 1, fail, lambda: 2])
