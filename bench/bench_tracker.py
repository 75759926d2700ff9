"""The table of live objects beside an interval tree and a dict of Python objects.

Each group does the same work: a full table in which objects come and go. The dict has no order,
so it finds no object by its inside and no overlap; it is what the bare bookkeeping costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from intervaltree import IntervalTree

from kmemleak_core._tracker import ObjectStore

from .conftest import LARGE, SMALL

STEP, SIZE = 64, 40
#: Calls that one round of the one-by-one benchmarks makes.
CALLS = 1_000


@dataclass(slots=True)
class Tracked:
    """An object as a user's own tracker would keep it."""

    address: int
    size: int
    min_count: int
    sequence: int


def columns(count, order):
    address = np.arange(count, dtype=np.uint64) * np.uint64(STEP) + np.uint64(0x7F00_0000_0000)
    if order == "random":
        address = np.random.default_rng(5).permutation(address)
    return address, np.full(count, SIZE, dtype=np.uint64)


def gaps(address):
    """Return where objects of 8 bytes fit between others, all over the table."""
    chosen = np.random.default_rng(6).choice(address, CALLS, replace=False)
    return (chosen + np.uint64(SIZE)).tolist()


def full_store(count, order="random"):
    store = ObjectStore()
    store.insert_many(*columns(count, order))
    assert len(store) == count
    return store


def make_tree(addresses):
    return IntervalTree.from_tuples((a, a + SIZE, i) for i, a in enumerate(addresses))


def make_dict(addresses):
    return {a: Tracked(a, SIZE, 1, i) for i, a in enumerate(addresses)}


def group(count):
    return f"insert and remove one by one, {count:,} objects"


@pytest.mark.parametrize("count", [SMALL, LARGE])
def bench_one_by_one_store(benchmark, count):
    benchmark.group = group(count)
    store = full_store(count)
    places = gaps(columns(count, "sorted")[0])

    def come_and_go():
        insert, remove = store.insert, store.remove
        for address in places:
            remove(insert(address, 8))

    benchmark(come_and_go)
    assert len(store) == count
    assert store.last_sequence % CALLS == count % CALLS
    benchmark.extra_info["pairs"] = CALLS
    benchmark.extra_info["bytes an object"] = round(store.nbytes / count, 1)


@pytest.mark.parametrize("count", [SMALL])
def bench_one_by_one_intervaltree(benchmark, count):
    benchmark.group = group(count)
    tree = make_tree(columns(count, "random")[0].tolist())
    places = gaps(columns(count, "sorted")[0])

    def come_and_go():
        for address in places:
            assert not tree.overlap(address, address + 8)
            tree.addi(address, address + 8, 1)
            tree.removei(address, address + 8, 1)

    benchmark.pedantic(come_and_go, rounds=3)
    assert len(tree) == count


@pytest.mark.parametrize("count", [SMALL, LARGE])
def bench_one_by_one_dict(benchmark, count):
    benchmark.group = group(count)
    table = make_dict(columns(count, "random")[0].tolist())
    places = gaps(columns(count, "sorted")[0])

    def come_and_go():
        for sequence, address in enumerate(places):
            if address not in table:
                table[address] = Tracked(address, 8, 1, sequence)
            del table[address]

    benchmark(come_and_go)
    assert len(table) == count


@pytest.mark.parametrize("order", ["sorted", "random"])
def bench_fill_store(benchmark, order):
    benchmark.group = f"fill a table, {order} addresses"
    address, size = columns(SMALL, order)

    def fill():
        store = ObjectStore()
        store.insert_many(address, size)
        return store

    assert len(benchmark(fill)) == SMALL


@pytest.mark.parametrize("order", ["sorted", "random"])
def bench_fill_intervaltree(benchmark, order):
    benchmark.group = f"fill a table, {order} addresses"
    addresses = columns(SMALL, order)[0].tolist()
    assert len(benchmark.pedantic(make_tree, (addresses,), rounds=2)) == SMALL


@pytest.mark.parametrize("order", ["sorted", "random"])
def bench_fill_dict(benchmark, order):
    benchmark.group = f"fill a table, {order} addresses"
    addresses = columns(SMALL, order)[0].tolist()
    assert len(benchmark(make_dict, addresses)) == SMALL


@pytest.mark.parametrize("order", ["sorted", "random"])
def bench_fill_large_store(benchmark, order):
    benchmark.group = "fill and empty a large table"
    address, size = columns(LARGE, order)
    store = ObjectStore()

    def fill_and_empty():
        assert (store.insert_many(address, size) >= 0).all()
        assert store.remove_many(address).all()

    benchmark(fill_and_empty)
    assert len(store) == 0
    benchmark.extra_info["objects"] = LARGE


@pytest.mark.benchmark(group="find the object that holds an address")
def bench_find_store(benchmark):
    store = full_store(SMALL)
    places = [address - 1 for address in gaps(columns(SMALL, "sorted")[0])]
    found = benchmark(lambda: [store.find(address) for address in places])
    starts = store.records["address"][found]
    assert (starts + np.uint64(SIZE - 1) == np.array(places, dtype=np.uint64)).all()


@pytest.mark.benchmark(group="find the object that holds an address")
def bench_find_intervaltree(benchmark):
    tree = make_tree(columns(SMALL, "random")[0].tolist())
    places = [address - 1 for address in gaps(columns(SMALL, "sorted")[0])]
    found = benchmark.pedantic(
        lambda: [next(iter(tree.at(address))).begin for address in places], rounds=3
    )
    assert found == [address - SIZE + 1 for address in places]


@pytest.mark.benchmark(group="copy a large table in the order of addresses")
def bench_snapshot_store(benchmark):
    store = full_store(LARGE)
    address, _, _ = benchmark(store.snapshot)
    assert (address == columns(LARGE, "sorted")[0]).all()
    benchmark.extra_info["objects"] = LARGE


@pytest.mark.benchmark(group="copy a large table in the order of addresses")
def bench_snapshot_dict(benchmark):
    table = make_dict(columns(LARGE, "random")[0].tolist())
    address, _ = benchmark.pedantic(
        lambda: zip(*sorted((t.address, t.size) for t in table.values()), strict=True), rounds=2
    )
    assert (np.array(address, dtype=np.uint64) == columns(LARGE, "sorted")[0]).all()


@pytest.mark.benchmark(group="list a large table in allocation order")
@pytest.mark.parametrize("slots", ["fresh", "used again"])
def bench_allocation_order_store(benchmark, slots):
    store = full_store(LARGE)
    if slots == "used again":
        address, size = columns(LARGE, "random")
        store.remove_many(address)
        store.insert_many(address, size)
    order = benchmark(store.in_allocation_order)
    assert (np.diff(store.records["sequence"][order].astype(np.int64)) == 1).all()
