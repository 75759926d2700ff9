"""What heads of leaks and what is possibly lost cost beside the plain scan."""

from __future__ import annotations

import pytest

import kmemleak_core as km

from .measuring import measure, scaled
from .synthetic import make_kinds

SIZES = (1_000_000, 10_000_000)


@pytest.fixture(scope="module", params=SIZES)
def size(request):
    return request.param


@pytest.fixture(scope="module")
def heap(size):
    return make_kinds(scaled(size))


def scan(heap, **options):
    return km.scan_image(
        heap.image, heap.objects, heap.roots, options=km.ScanOptions(**options), threads=1
    )


def bench_scan_alone(benchmark, heap, size):
    result = measure(
        benchmark,
        lambda: scan(heap),
        work="scan for colours",
        size=size,
        units=len(heap.objects),
        memory=heap.words,
        rounds=3,
    )
    # What nobody happens to refer to is lost as well.
    assert 0.05 < result.white.mean() < 0.06


def bench_scan_and_kinds(benchmark, heap, size):
    def kinds():
        result = scan(heap, possible=True)
        return result, result.leaks, result.possible

    result, leaks, possible = measure(
        benchmark,
        kinds,
        work="scan for colours, heads and kinds",
        size=size,
        units=len(heap.objects),
        memory=heap.words,
        rounds=3,
    )
    assert len(leaks) == result.white.sum()
    assert 0 < leaks["direct"].sum() < len(leaks)
    # So is what others happen to refer to by pointers into the middle alone.
    assert 0.05 < len(possible) / len(heap.objects) < 0.07
