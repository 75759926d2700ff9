"""Sizes and heaps that the benchmarks share, and the yardstick that each is measured with."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from .building import CannotBuildError
from .measuring import SMOKE, scaled
from .reading import bandwidth
from .synthetic import SyntheticHeap, make_heap

#: Objects of the large heap, and of the one that pure Python can still walk.
LARGE = scaled(1_000_000)
SMALL = scaled(100_000)


@pytest.fixture(scope="session")
def large() -> SyntheticHeap:
    return make_heap(LARGE)


@pytest.fixture(scope="session")
def small() -> SyntheticHeap:
    return make_heap(SMALL)


@pytest.fixture(autouse=True)
def _yardstick(request: pytest.FixtureRequest) -> Iterator[None]:
    """Note beside each benchmark how fast the machine read memory just before and after it."""
    if "benchmark" not in request.fixturenames:
        yield
        return
    benchmark: Any = request.getfixturevalue("benchmark")
    if SMOKE:  # once will do
        benchmark.extra_info["bandwidth"] = any_bandwidth()
        yield
        return
    before = bandwidth(3)
    yield
    benchmark.extra_info.setdefault("bandwidth", max(before, bandwidth(3)))


@cache
def any_bandwidth() -> float:
    """Return how fast the machine reads memory, measured once."""
    return bandwidth(1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skip a benchmark whose program cannot be built here, and say why."""
    try:
        yield
    except CannotBuildError as error:
        pytest.skip(str(error))
