"""The detector at work beside an interval tree and a dict of Python objects that do the same.

Allocations come and go one by one and in bulk; a live image is scanned; checksums are taken. What
the others do is what one would write in an afternoon: a table of Python objects, a scan that looks
each word up in it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import pytest
from intervaltree import IntervalTree

import kmemleak_core as km

from .conftest import LARGE, SMALL

BASE, STRIDE, SIZE = 0x7F00_0000_0000, 64, 40
#: Calls that one round of the one-by-one benchmarks makes.
CALLS = 1_000


@dataclass(slots=True)
class Tracked:
    """An object as a user's own tracker would keep it."""

    address: int
    size: int
    count: int = 0
    checksum: int = -1


def columns(count):
    address = np.random.default_rng(5).permutation(count).astype(np.uint64)
    return address * np.uint64(STRIDE) + np.uint64(BASE), np.full(count, SIZE, dtype=np.uint64)


def gaps(count):
    """Return where objects of 8 bytes fit between others, all over the table."""
    return (np.random.default_rng(6).choice(columns(count)[0], CALLS) + np.uint64(SIZE)).tolist()


def full_detector(count, image=None, **options):
    if image is None:
        image = km.MemoryImage.from_segments([(BASE, bytearray(8))])
    detector = km.Kmemleak(image, min_age=0, **options)
    assert detector.alloc_many(*columns(count)).all()
    return detector


def linked_image(count):
    """Return an image in which each object but the last points at the next, and its words."""
    words = np.zeros(count * STRIDE // 8, dtype=np.uint64)
    words[:: STRIDE // 8][:-1] = np.arange(1, count, dtype=np.uint64) * np.uint64(STRIDE) + BASE
    return km.MemoryImage.from_segments([(BASE, words)]), words


def group(what, count):
    return f"{what}, {count:,} objects"


# One by one.


@pytest.mark.parametrize("count", [SMALL, LARGE])
@pytest.mark.parametrize("backtraces", [False, True], ids=["plain", "backtraces"])
def bench_one_by_one_detector(benchmark, count, backtraces):
    benchmark.group = group("alloc and free one by one", count)
    detector = full_detector(count, backtraces=backtraces)
    places = sorted(set(gaps(count)))

    def come_and_go():
        alloc, free = detector.alloc, detector.free
        for address in places:
            alloc(address, 8)
        for address in places:
            free(address)

    benchmark(come_and_go)
    assert len(detector) == count
    benchmark.extra_info["pairs"] = len(places)


@pytest.mark.parametrize("count", [SMALL])
def bench_one_by_one_intervaltree(benchmark, count):
    benchmark.group = group("alloc and free one by one", count)
    addresses = columns(count)[0].tolist()
    tree = IntervalTree.from_tuples((a, a + SIZE, Tracked(a, SIZE)) for a in addresses)
    places = sorted(set(gaps(count)))

    def come_and_go():
        for address in places:
            assert not tree.overlap(address, address + 8)
            tree.addi(address, address + 8, Tracked(address, 8))
        for address in places:
            (found,) = tree.at(address)
            tree.remove(found)

    benchmark.pedantic(come_and_go, rounds=3)
    assert len(tree) == count


@pytest.mark.parametrize("count", [SMALL, LARGE])
def bench_one_by_one_dict(benchmark, count):
    benchmark.group = group("alloc and free one by one", count)
    table = {a: Tracked(a, SIZE) for a in columns(count)[0].tolist()}
    places = sorted(set(gaps(count)))

    def come_and_go():
        for address in places:
            table[address] = Tracked(address, 8)
        for address in places:
            del table[address]

    benchmark(come_and_go)
    assert len(table) == count


# In bulk.


@pytest.mark.parametrize("count", [SMALL, LARGE])
@pytest.mark.parametrize("order", ["ascending", "random"])
def bench_bulk_detector(benchmark, count, order):
    benchmark.group = group("alloc and free in bulk", count)
    detector = km.Kmemleak(km.MemoryImage.from_segments([(BASE, bytearray(8))]))
    address, size = columns(count)
    if order == "ascending":
        address = np.sort(address)

    def come_and_go():
        assert detector.alloc_many(address, size).all()
        assert detector.free_many(address).all()

    benchmark(come_and_go)
    assert len(detector) == 0
    benchmark.extra_info["pairs"] = count


@pytest.mark.parametrize("count", [SMALL])
def bench_bulk_intervaltree(benchmark, count):
    benchmark.group = group("alloc and free in bulk", count)
    addresses = columns(count)[0].tolist()

    def come_and_go():
        tree = IntervalTree.from_tuples((a, a + SIZE, Tracked(a, SIZE)) for a in addresses)
        assert len(tree) == count
        tree.clear()

    benchmark.pedantic(come_and_go, rounds=2)


@pytest.mark.parametrize("count", [SMALL, LARGE])
def bench_bulk_dict(benchmark, count):
    benchmark.group = group("alloc and free in bulk", count)
    addresses = columns(count)[0].tolist()

    def come_and_go():
        table = {a: Tracked(a, SIZE) for a in addresses}
        for address in addresses:
            del table[address]
        return table

    assert not benchmark.pedantic(come_and_go, rounds=3)


# Scans: everything is held, in one long list.


@pytest.mark.parametrize("count", [SMALL, LARGE])
def bench_scan_detector(benchmark, count):
    benchmark.group = group("scan a live image", count)
    detector = full_detector(count, linked_image(count)[0])
    detector.not_leak(BASE)
    counters = benchmark.pedantic(detector.scan, rounds=3, warmup_rounds=1)
    assert counters.unreferenced == 0
    assert counters.words == count * SIZE // 8
    benchmark.extra_info["megabytes"] = count * SIZE // 1_000_000


@pytest.mark.parametrize("count", [SMALL])
@pytest.mark.parametrize("structure", ["intervaltree", "dict"])
def bench_scan_in_python(benchmark, count, structure):
    benchmark.group = group("scan a live image", count)
    words = linked_image(count)[1]
    table = {a: Tracked(a, SIZE) for a in columns(count)[0].tolist()}
    if structure == "dict":  # which finds no pointer to an object's inside
        find = table.get
    else:
        tree = IntervalTree.from_tuples((a, a + SIZE, t) for a, t in table.items())

        def find(value):
            return next((found.data for found in tree.at(value)), None)

    def scan():
        for tracked in table.values():
            tracked.count = 0
        gray = [table[BASE]]
        for tracked in gray:
            first = (tracked.address - BASE) // 8
            for value in words[first : first + tracked.size // 8].tolist():
                target = find(value)
                if target is not None and target is not tracked:
                    target.count += 1
                    if target.count == 1:
                        gray.append(target)
        return len(gray)

    assert benchmark.pedantic(scan, rounds=1) == count


# Checksums: nothing is held, so that every object is summed, and found as it was.


@pytest.mark.parametrize("count", [SMALL, LARGE])
def bench_checksums_detector(benchmark, count):
    benchmark.group = group("scan with a checksum of every object", count)
    detector = full_detector(count, linked_image(count)[0], min_unref_scans=60_000, confirm=False)
    detector.scan()
    counters = benchmark.pedantic(detector.scan, rounds=2)
    # All are leaks but hold one another: only what the kernel would call unreferenced is white.
    assert counters.unreferenced == count


@pytest.mark.parametrize("count", [SMALL, LARGE])
def bench_checksums_dict(benchmark, count):
    benchmark.group = group("scan with a checksum of every object", count)
    memory = memoryview(linked_image(count)[1]).cast("B")
    table = {a: Tracked(a, SIZE) for a in columns(count)[0].tolist()}

    def sums():
        changed = 0
        for tracked in table.values():
            first = tracked.address - BASE
            checksum = zlib.crc32(memory[first : first + tracked.size])
            changed += checksum != tracked.checksum
            tracked.checksum = checksum
        return changed

    sums()
    assert benchmark.pedantic(sums, rounds=2) == 0
