"""Slab objects of a made-up kernel: from its struct pages to a table of what is allocated."""

from __future__ import annotations

import pytest

from kmemleak_core.heaps.slub import SlubHeap
from tests.builders.slub import Plan, make_slabs

from .measuring import measure, scaled

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
#: Shares of the slots, and caches as kernels have them: hardened, one of them of larger slabs.
CACHES = ((0.5, 64, 0), (0.3, 192, 0), (0.2, 512, 2))
KEY = 0x5BD1_E995_9D2C_5680


def make_kernel(count):
    """Make a kernel of so many slots, most of them allocated."""
    return make_slabs(
        [
            Plan(f"kmalloc-{each}", each, int(count * share), random=KEY, order=order)
            for share, each, order in CACHES
        ]
    )


@pytest.fixture(scope="module", params=SIZES)
def size(request):
    return request.param


@pytest.fixture(scope="module")
def slabs(size):
    return make_kernel(scaled(size))


def bench_slab_objects(benchmark, size, slabs):
    slots = sum(len(v) for v in slabs.allocated.values())
    heap = measure(
        benchmark,
        lambda: SlubHeap().find(slabs.kernel),
        work="slab objects",
        size=size,
        units=slots,
    )
    assert len(heap.objects) == slots
    assert all(check.passed for check in heap.checks)
    benchmark.extra_info["slots"] = heap.counters["slots"]
