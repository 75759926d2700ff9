"""Reference lists, the walk over them and dominators, beside libraries doing the same."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

import kmemleak_core as km
from kmemleak_core._dominators import add_up, dominators
from kmemleak_core._index import ROWS, AddressIndex
from kmemleak_core._mark import mark
from kmemleak_core._scan import extract_references

from . import alternatives
from .measuring import huge, measure, scaled
from .synthetic import BASE, make_heap, make_list

MANY, MOST = 1_000_000, 10_000_000
SHAPES = {"random graph": make_heap, "linked list": make_list}


def extract(heap, index, **options):
    """Find what each object of a heap refers to."""
    return extract_references(
        heap.image.engine, index, heap.objects.address, heap.objects.size, step=8, **options
    )


# These are fixtures so that pytest runs what needs the same heap in a row, then drops it.
@pytest.fixture(
    scope="module",
    params=[(shape, size) for size in (MANY, MOST) for shape in SHAPES],
    ids=lambda case: f"{case[0]}-{case[1]}",
)
def case(request):
    return request.param


@pytest.fixture(scope="module")
def heap(case):
    shape, size = case
    return SHAPES[shape](scaled(size))


@pytest.fixture(scope="module")
def index(heap):
    return AddressIndex(heap.objects.address, heap.objects.size)


@pytest.fixture(scope="module")
def lists(heap, index):
    offsets, targets, _ = extract(heap, index)
    return offsets, targets, index.lookup(heap.roots.word_array())


def bench_lists(benchmark, case, heap, index):
    shape, size = case
    _, targets, _ = measure(
        benchmark,
        lambda: extract(heap, index),
        work=f"lists, {shape}",
        size=size,
        units=len(heap.objects),
        memory=heap.words,
    )
    assert 0.85 * heap.references <= targets.size <= heap.references
    benchmark.extra_info["references"] = targets.size


@pytest.mark.parametrize("threads", [1, 2])
def bench_lists_by_threads(benchmark, case, heap, index, threads):
    shape, size = case
    if "threads" not in str(inspect.signature(extract_references)):
        pytest.skip("extract_references has no `threads` yet")
    measure(
        benchmark,
        lambda: extract(heap, index, threads=threads),
        work=f"lists, {shape}, threads: {threads}",
        size=size,
        units=len(heap.objects),
        memory=heap.words,
        rounds=9,
    )


def bench_lists_numpy(benchmark, case, heap, index):
    shape, size = case
    if size > MANY:
        pytest.skip("numpy would need 10 GB: the smaller heap tells")
    start = heap.objects.address
    source, target = measure(
        benchmark,
        lambda: alternatives.numpy_references(start, start + heap.objects.size, heap.words, BASE),
        work=f"lists, {shape}",
        size=size,
        units=len(heap.objects),
        tool="numpy",
        rounds=1,
    )
    offsets, targets, _ = extract(heap, index)
    assert (target == targets & np.uint32(ROWS)).all()
    assert (source == np.repeat(np.arange(len(heap.objects)), np.diff(offsets))).all()


def bench_walk(benchmark, case, heap, lists):
    shape, size = case
    offsets, targets, roots = lists
    count, *_ = measure(
        benchmark,
        lambda: mark(offsets, targets, heap.objects.min_count, roots),
        work=f"walk, {shape}",
        size=size,
        units=len(heap.objects),
    )
    assert count.sum() > 0.99 * len(heap.objects)


def bench_walk_scipy(benchmark, case, heap, lists):
    shape, size = case
    if size > MANY:
        pytest.skip("the smaller heap tells")
    offsets, targets, roots = lists
    rows, rows_of_roots = (found.astype(np.int64) & ROWS for found in (targets, roots))
    found = measure(
        benchmark,
        lambda: alternatives.walk_by_scipy(offsets, rows, len(heap.objects), rows_of_roots),
        work=f"walk, {shape}",
        size=size,
        units=len(heap.objects),
        tool="scipy",
        rounds=3,
    )
    count, *_ = mark(offsets, targets, heap.objects.min_count, roots)
    assert found.size - 1 == count.sum()


@pytest.fixture
def below_roots(heap, lists):
    """The lists, and a root for each reference from one, as `dominators` takes them."""
    offsets, targets, roots = lists
    return offsets, targets, np.arange(roots.size + 1), roots, np.zeros(roots.size, np.uint32)


def bench_retained(benchmark, case, heap, below_roots):
    shape, size = case
    nbytes, count = measure(
        benchmark,
        lambda: add_up(*dominators(*below_roots), heap.objects.size),
        work=f"retained sizes, {shape}",
        size=size,
        units=len(heap.objects),
        rounds=3,
    )
    assert count[-1] > 0.99 * len(heap.objects)
    assert nbytes[-1] <= heap.objects.nbytes


# Theirs make a Python object of each node, networkx of each reference too: smaller graphs tell.
@pytest.mark.parametrize(("tool", "count"), [("networkx", 20_000), ("rustworkx", 200_000)])
@pytest.mark.parametrize("shape", SHAPES)
def bench_dominators_elsewhere(benchmark, shape, tool, count):
    pytest.importorskip(tool)
    heap = SHAPES[shape](scaled(count))
    index = AddressIndex(heap.objects.address, heap.objects.size)
    offsets, targets, _ = extract(heap, index)
    roots = index.lookup(heap.roots.word_array())
    graph = alternatives.GRAPHS[tool](offsets, targets & np.uint32(ROWS), roots & np.uint32(ROWS))
    found = measure(
        benchmark,
        lambda: alternatives.dominators_by(tool, graph, len(heap.objects)),
        work=f"dominators, {shape}",
        size=count,
        units=len(heap.objects),
        tool=tool,
        rounds=1,
    )
    n = len(heap.objects)
    idom, _ = dominators(offsets, targets, np.array([0, roots.size]), roots, np.zeros(1, np.uint32))
    ours = {row: min(above, n) for row, above in enumerate(idom[:n].tolist()) if above <= n + 2}
    assert {row: above for row, above in found.items() if row < n} == ours


@pytest.mark.parametrize("count", [20_000, 200_000])
@pytest.mark.parametrize("shape", SHAPES)
def bench_dominators(benchmark, shape, count):
    heap = SHAPES[shape](scaled(count))
    index = AddressIndex(heap.objects.address, heap.objects.size)
    offsets, targets, _ = extract(heap, index)
    roots = index.lookup(heap.roots.word_array())
    one = np.array([0, roots.size]), roots, np.zeros(1, np.uint32)
    measure(
        benchmark,
        lambda: dominators(offsets, targets, *one),
        work=f"dominators, {shape}",
        size=count,
        units=len(heap.objects),
    )


def bench_scan_image(benchmark, case, heap):
    shape, size = case
    result = measure(
        benchmark,
        lambda: km.scan_image(heap.image, heap.objects, heap.roots, threads=1),
        work=f"index, lists and walk, {shape}",
        size=size,
        units=len(heap.objects),
        memory=heap.words,
        rounds=3,
    )
    assert result.counters["missing_bytes"] == 0


@pytest.mark.parametrize("size", [huge(100_000_000, 36)])
def bench_scan_image_huge(benchmark, size):
    bench_scan_image(benchmark, ("random graph", size), make_heap(scaled(size)))
