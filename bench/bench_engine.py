"""The engine's parts beside what a user would do instead, each group doing the same work."""

from __future__ import annotations

import numpy as np
import pytest
from kmemleak_core._index import AddressIndex
from kmemleak_core._mark import mark

import kmemleak_core as km
from kmemleak_core._scan import extract_references

from . import alternatives
from .synthetic import BASE, make_heap


def ends(heap):
    return heap.objects.address + heap.objects.size


def rows_of(targets):
    """Turn targets into rows, −1 for none."""
    rows = (targets & np.uint32((1 << 30) - 1)).astype(np.int64)
    rows[targets == np.uint32(0xFFFFFFFF)] = -1
    return rows


@pytest.mark.benchmark(group="build an index")
def bench_index_build_engine(benchmark, small):
    index = benchmark(AddressIndex, small.objects.address, small.objects.size)
    assert len(index) == len(small.objects)


@pytest.mark.benchmark(group="build an index")
def bench_index_build_intervaltree(benchmark, small):
    start, end = small.objects.address.tolist(), ends(small).tolist()
    tree = benchmark.pedantic(alternatives.make_tree, (start, end), rounds=2)
    assert len(tree) == len(small.objects)


@pytest.mark.benchmark(group="look pointers up")
def bench_lookup_engine(benchmark, small):
    index = AddressIndex(small.objects.address, small.objects.size)
    found = benchmark(index.lookup, small.pointers)
    assert (rows_of(found) >= 0).all()


@pytest.mark.benchmark(group="look pointers up")
def bench_lookup_numpy_searchsorted(benchmark, small):
    start, end = small.objects.address, ends(small)
    found = benchmark(alternatives.numpy_lookup, start, end, small.pointers)
    index = AddressIndex(small.objects.address, small.objects.size)
    assert (found == rows_of(index.lookup(small.pointers))).all()


@pytest.mark.benchmark(group="look pointers up")
def bench_lookup_bisect(benchmark, small):
    start, end = small.objects.address.tolist(), ends(small).tolist()
    values = small.pointers.tolist()
    found = benchmark.pedantic(alternatives.bisect_lookup, (start, end, values), rounds=3)
    index = AddressIndex(small.objects.address, small.objects.size)
    assert found == rows_of(index.lookup(small.pointers)).tolist()


@pytest.mark.benchmark(group="look pointers up")
def bench_lookup_intervaltree(benchmark, small):
    tree = alternatives.make_tree(small.objects.address.tolist(), ends(small).tolist())
    values = small.pointers.tolist()
    found = benchmark.pedantic(alternatives.tree_lookup, (tree, values), rounds=1)
    index = AddressIndex(small.objects.address, small.objects.size)
    assert found == rows_of(index.lookup(small.pointers)).tolist()


@pytest.mark.benchmark(group="read memory, nothing more")
def bench_read(benchmark, large):
    benchmark(large.words.max)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5])
def bench_scan_engine(benchmark, share, large):
    benchmark.group = f"scan words, {share:.1%} of them pointers"
    heap = make_heap(len(large.objects), pointer_share=share)
    index = AddressIndex(heap.objects.address, heap.objects.size)
    start = np.array([BASE], dtype=np.uint64)
    size = np.array([heap.words.nbytes], dtype=np.uint64)
    owner = np.array([-1], dtype=np.int64)
    _, targets, _ = benchmark(
        extract_references, heap.image.engine, index, start, size, owner, step=8
    )
    assert targets.size == heap.pointers.size
    benchmark.extra_info["bytes"] = heap.words.nbytes


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5])
def bench_scan_numpy(benchmark, share, large):
    benchmark.group = f"scan words, {share:.1%} of them pointers"
    heap = make_heap(len(large.objects), pointer_share=share)
    start, end = heap.objects.address, ends(heap)

    def scan():
        words = heap.words
        near = words[(words >= start[0]) & (words < end[-1])]
        return alternatives.numpy_lookup(start, end, near)

    found = benchmark.pedantic(scan, rounds=3)
    assert (found >= 0).sum() == heap.pointers.size
    benchmark.extra_info["bytes"] = heap.words.nbytes


def hits(heap):
    """Return the values that are scanned for, as the engine's filter finds them."""
    start, end = int(heap.objects.address[0]), int(ends(heap)[-1])
    return [value for value in heap.words.tolist() if start <= value < end]


@pytest.mark.benchmark(group="scan words, small heap")
def bench_small_scan_engine(benchmark, small):
    index = AddressIndex(small.objects.address, small.objects.size)
    start = np.array([BASE], dtype=np.uint64)
    size = np.array([small.words.nbytes], dtype=np.uint64)
    owner = np.array([-1], dtype=np.int64)
    _, targets, _ = benchmark(
        extract_references, small.image.engine, index, start, size, owner, step=8
    )
    assert targets.size == small.pointers.size


@pytest.mark.benchmark(group="scan words, small heap")
def bench_small_scan_bisect(benchmark, small):
    start, end = small.objects.address.tolist(), ends(small).tolist()
    found = benchmark.pedantic(
        lambda: alternatives.bisect_lookup(start, end, hits(small)), rounds=2
    )
    assert len(found) == small.pointers.size


@pytest.mark.benchmark(group="scan words, small heap")
def bench_small_scan_intervaltree(benchmark, small):
    tree = alternatives.make_tree(small.objects.address.tolist(), ends(small).tolist())
    found = benchmark.pedantic(lambda: alternatives.tree_lookup(tree, hits(small)), rounds=1)
    assert len(found) == small.pointers.size


@pytest.mark.benchmark(group="extract all references")
def bench_references_engine(benchmark, large):
    index = AddressIndex(large.objects.address, large.objects.size)
    offsets, targets, _ = benchmark(
        extract_references,
        large.image.engine,
        index,
        large.objects.address,
        large.objects.size,
        step=8,
    )
    assert offsets[-1] == targets.size


@pytest.mark.benchmark(group="extract all references")
def bench_references_numpy(benchmark, large):
    start, end = large.objects.address, ends(large)
    source, target = benchmark.pedantic(
        alternatives.numpy_references, (start, end, large.words, BASE), rounds=3
    )
    index = AddressIndex(large.objects.address, large.objects.size)
    offsets, targets, _ = extract_references(
        large.image.engine, index, large.objects.address, large.objects.size, step=8
    )
    assert (target == rows_of(targets)).all()
    assert (source == np.repeat(np.arange(len(large.objects)), np.diff(offsets))).all()


def reachable_by_scipy(offsets, rows, count, roots):
    """Walk the graph with scipy: the usual library's answer."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import breadth_first_order

    hub = np.append(offsets, offsets[-1] + roots.size)
    graph = csr_array(
        (np.ones(hub[-1], dtype=np.int8), np.append(rows, roots), hub), shape=(count + 1,) * 2
    )
    return breadth_first_order(graph, count, return_predecessors=False)


@pytest.fixture(scope="module")
def graph(large):
    index = AddressIndex(large.objects.address, large.objects.size)
    offsets, targets, _ = extract_references(
        large.image.engine, index, large.objects.address, large.objects.size, step=8
    )
    return offsets, targets, index.lookup(large.roots.word_array())


@pytest.mark.benchmark(group="mark")
def bench_mark_engine(benchmark, large, graph):
    offsets, targets, roots = graph
    count, _ = benchmark(mark, offsets, targets, large.objects.min_count, roots)
    assert count.sum() > 0.5 * len(large.objects)


@pytest.mark.benchmark(group="mark")
def bench_mark_scipy(benchmark, large, graph):
    offsets, targets, roots = graph
    found = benchmark.pedantic(
        reachable_by_scipy,
        (offsets, rows_of(targets), len(large.objects), rows_of(roots)),
        rounds=3,
    )
    count, _ = mark(offsets, targets, large.objects.min_count, roots)
    assert found.size - 1 == count.sum()


@pytest.mark.benchmark(group="whole mark")
def bench_scan_image(benchmark, large):
    result = benchmark(km.scan_image, large.image, large.objects, large.roots)
    assert result.counters["missing_bytes"] == 0
    benchmark.extra_info["objects"] = len(large.objects)
