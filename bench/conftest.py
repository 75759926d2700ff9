"""Sizes and heaps that the benchmarks share, and the yardstick that each is measured with."""

from __future__ import annotations

from collections.abc import Iterator
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
    passes = 1 if SMOKE else 3
    before = bandwidth(passes)
    yield
    benchmark.extra_info.setdefault("bandwidth", max(before, bandwidth(passes)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Skip a benchmark whose program cannot be built here, and say why."""
    try:
        yield
    except CannotBuildError as error:
        pytest.skip(str(error))
