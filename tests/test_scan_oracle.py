"""The engine agrees with the oracle on arbitrary small heaps, every option included."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import partial
from importlib import import_module

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kmemleak_core as km
from kmemleak_core import _index, _scan

from .oracle import Block, Oracle, Rules

# The module: the package has a function of that name.
SCAN = import_module("kmemleak_core.scan")

FLAGS = {
    "no_scan": km.ObjectFlags.NO_SCAN,
    "full_scan": km.ObjectFlags.FULL_SCAN,
    "exact_end": km.ObjectFlags.EXACT_END,
}


@st.composite
def heaps(draw):
    """Draw memory, blocks, roots and rules whose words mostly point somewhere near the blocks."""
    word = draw(st.sampled_from([8, 8, 4]))
    rules = Rules(
        word_size=word,
        byteorder=draw(st.sampled_from(["little", "little", "big"])),
        step=draw(st.sampled_from([word, word, 1, 2, 4, 8])),
        mask=draw(st.sampled_from([(1 << 64) - 1, 0x0000FFFFFFFFFFFF, 0xFFFFFFF8])),
        interior=draw(st.booleans()),
        end_pointers=draw(st.booleans()),
    )
    base = draw(st.sampled_from([0x1000, 0xFFF8, 0x1FFFF0]))
    # Cut a small address range into blocks and gaps.
    blocks, at = [], base
    for _ in range(draw(st.integers(0, 8))):
        at += draw(st.sampled_from([0, 0, 1, 8, 16, 40]))
        size = draw(st.sampled_from([0, 1, 7, 8, 16, 24, 33, 64]))
        blocks.append(Block(at, size))
        at += max(size, 1)
    top = at + 32
    targets = [base, top, *(b.address for b in blocks), *(b.address + b.size for b in blocks)]
    for block in blocks:
        block.min_count = draw(st.sampled_from([1, 1, 1, 2, 3, 0, -1]))
        block.no_scan = draw(st.sampled_from([False] * 5 + [True]))
        block.full_scan = draw(st.sampled_from([False] * 3 + [True]))
        block.exact_end = draw(st.sampled_from([False] * 3 + [True]))
        block.excess_ref = draw(st.sampled_from([0, 0, 0, *targets]))
        for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
            begin = draw(st.integers(0, block.size))
            block.areas.append((block.address + begin, draw(st.integers(0, block.size - begin))))
    # Adjoining and separate segments, at any alignment, with holes between them.
    segments, at = [], base - draw(st.sampled_from([0, 3, 8, 16]))
    while at < top:
        size = draw(st.integers(1, 96))
        data = bytearray(size)
        for offset in range(draw(st.sampled_from([0, 1, 3, 5])), size - word + 1, word):
            value = draw(st.sampled_from(targets)) + draw(st.sampled_from([0, 0, 0, 1, 8, -1]))
            tag = draw(st.sampled_from([0, 0, 0, 0xA5 << 56]))
            word_value = (value | tag) & ((1 << (8 * word)) - 1)
            data[offset : offset + word] = word_value.to_bytes(word, rules.byteorder)
        segments.append((at, bytes(data)))
        at += size + draw(st.sampled_from([0, 0, 0, 5, 16]))
    places = st.integers(base - 16, top)
    ranges = draw(st.lists(st.tuples(places, st.integers(0, 64)), max_size=3))
    words = draw(st.lists(st.sampled_from(targets), max_size=3))
    modified = draw(st.lists(st.sampled_from(blocks), max_size=2)) if blocks else []
    order = draw(st.permutations(blocks))
    return rules, segments, order, ranges, words, modified


def run_engine(case, *, apart=False, **how):
    """Scan a case; `apart`: without what is modified, but with what is possibly lost."""
    rules, segments, blocks, ranges, words, modified = case
    image = km.MemoryImage.from_segments(
        segments, word_size=rules.word_size, byteorder=rules.byteorder
    )
    flags = [sum(flag for name, flag in FLAGS.items() if getattr(b, name)) for b in blocks]
    table = km.ObjectTable.from_arrays(
        [b.address for b in blocks],
        [b.size for b in blocks],
        [b.min_count for b in blocks],
        flags,
        excess_ref=[b.excess_ref for b in blocks],
        scan_areas=[(b.address, *area) for b in blocks for area in b.areas],
    )
    mask = np.zeros(len(table), dtype=bool)
    for block in modified:
        mask[np.flatnonzero(table.address == block.address)] = True
    return km.scan_image(
        image,
        table,
        km.Roots.from_ranges(ranges, words),
        options=km.ScanOptions(
            alignment=rules.step,
            pointer_mask=rules.mask,
            interior=rules.interior,
            end_pointers=rules.end_pointers,
            possible=apart,
            heuristics=frozenset(),
        ),
        modified=None if apart else mask,
        **how,
    )


@pytest.fixture(params=_scan.simd_levels)
def level(request):
    try:
        yield _scan._choose_level(request.param)
    finally:
        _scan._choose_level("")


@pytest.fixture(params=["ranks", "directory", "search"])
def form(request, monkeypatch):
    """Have every scan use this form of the index, where it can."""
    monkeypatch.setattr(SCAN, "AddressIndex", partial(_index.AddressIndex, form=request.param))


@pytest.fixture(params=["lists, one thread", "lists, three threads", "gray list"])
def way(request):
    """Scan in this way; with threads, every few bytes are a part of their own."""
    rows, nbytes = _index._choose_part(1), _scan._choose_part(64)
    yield {
        "threads": 3 if "three" in request.param else 1,
        "low_memory": request.param == "gray list",
    }
    _index._choose_part(rows)
    _scan._choose_part(nbytes)


@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=heaps())
def test_engine_gives_the_oracles_counts_colours_and_kinds(level, form, way, case):
    result = run_engine(case, **way)
    rules, segments, blocks, ranges, words, modified = case
    memory = {at + i: byte for at, data in segments for i, byte in enumerate(data)}
    white = Oracle(memory, blocks, rules).run(words, ranges, modified)
    rows = result.objects.allocation_order()
    assert [int(result.objects.address[r]) for r in rows if result.white[r]] == white
    assert result.count[rows].tolist() == [b.count for b in blocks]
    assert result.held[rows].tolist() == [b.held for b in blocks]


def possibly_lost(case):
    """Return the gray blocks' addresses that would be white if only pointers to starts counted."""
    rules, segments, blocks, ranges, words, _ = case
    memory = {at + i: byte for at, data in segments for i, byte in enumerate(data)}
    white = set(Oracle(memory, deepcopy(blocks), rules).run(words, ranges))
    starts = replace(rules, interior=False, end_pointers=False)
    return set(Oracle(memory, deepcopy(blocks), starts).run(words, ranges)) - white


@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=heaps())
def test_what_is_possibly_lost_is_what_the_oracle_loses_without_other_pointers(way, case):
    result = run_engine(case, apart=True, **way)
    assert set(result.objects.address[result.possible_rows].tolist()) == possibly_lost(case)
    rules, segments, blocks, ranges, words, _ = case
    memory = {at + i: byte for at, data in segments for i, byte in enumerate(data)}
    Oracle(memory, blocks, rules).run(words, ranges)
    rows = result.objects.allocation_order()
    assert result.count[rows].tolist() == [b.count for b in blocks]
    assert result.held[rows].tolist() == [b.held for b in blocks]


@st.composite
def lists(draw):
    """Draw linked lists of some hundred objects in random order, with branches here and there."""
    random = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    count = draw(st.integers(150, 400))
    address = [0x10000 + 16 * i for i in range(count)]
    order = random.permutation(count)
    wanted = draw(st.sampled_from([[1], [1], [1, 1, 1, 2], [1, 1, 0, -1]]))
    blocks = [
        Block(a, 16, int(m), excess_ref=int(e))
        for a, m, e in zip(
            address,
            random.choice(wanted, count),
            random.choice([0, 0, 0, address[0]], count) if draw(st.booleans()) else [0] * count,
            strict=True,
        )
    ]
    words = np.zeros((count, 2), dtype="<u8")
    words[order[:-1], 0] = np.array(address)[order[1:]]
    branches = random.random(count) < draw(st.sampled_from([0, 0.05, 0.5]))
    words[branches, 1] = random.choice(address, int(branches.sum()))
    # Now and then a list ends, and what follows is reached from elsewhere or leaks.
    words[random.random(count) < draw(st.sampled_from([0, 0.01])), 0] = 0
    inside = (random.random(count) < draw(st.sampled_from([0, 0.02]))) & (words[:, 0] != 0)
    words[inside, 0] += 8
    roots = [address[i] for i in order[: draw(st.integers(1, 3))]]
    late = draw(st.lists(st.sampled_from(blocks), max_size=2))
    return Rules(), [(0x10000, words.tobytes())], blocks, [], roots, late


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=lists())
def test_long_lists_are_followed_as_the_oracle_does(way, case):
    lost = possibly_lost(case)
    result = run_engine(case, **way)
    rules, segments, blocks, ranges, words, modified = case
    memory = {at + i: byte for at, data in segments for i, byte in enumerate(data)}
    white = Oracle(memory, blocks, rules).run(words, ranges, modified)
    assert result.objects.address[result.white].tolist() == white
    assert result.count.tolist() == [b.count for b in blocks]
    assert result.held.tolist() == [b.held for b in blocks]
    again = run_engine(case, apart=True, **way)
    assert set(again.objects.address[again.possible_rows].tolist()) == lost


@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=heaps())
def test_every_way_tells_the_same_leaks_and_counters(way, case):
    plain, other = run_engine(case, threads=1), run_engine(case, **way)
    assert other.leaks.array.tolist() == plain.leaks.array.tolist()
    assert other.root_references.targets.tolist() == plain.root_references.targets.tolist()
    if not way["low_memory"]:
        assert other.references.offsets.tolist() == plain.references.offsets.tolist()
        assert other.references.targets.tolist() == plain.references.targets.tolist()
        for name in ("words", "candidates", "hits", "self_references", "missing_bytes"):
            assert other.counters[name] == plain.counters[name]
