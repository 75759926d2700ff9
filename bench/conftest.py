"""Sizes and heaps that the benchmarks share."""

from __future__ import annotations

import os

import pytest

from .synthetic import SyntheticHeap, make_heap

SMOKE = bool(os.environ.get("KMEMLEAK_BENCH_SMOKE"))
#: Objects of the large heap, and of the one that pure Python can still walk.
LARGE = 10_000 if SMOKE else 1_000_000
SMALL = 1_000 if SMOKE else 100_000


@pytest.fixture(scope="session")
def large() -> SyntheticHeap:
    return make_heap(LARGE)


@pytest.fixture(scope="session")
def small() -> SyntheticHeap:
    return make_heap(SMALL)
