"""Turns a piece of work into a benchmark whose figures can be set beside the targets and others.

A measurement says what was done (`work`), on how many objects (`size`), by whom (`tool`) and how
many times a unit of it (`units`: words, pointers, objects, events). `report` divides.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import pytest
from numpy.typing import NDArray

from .reading import seconds_to_read

Result = TypeVar("Result")

SMOKE = bool(os.environ.get("KMEMLEAK_BENCH_SMOKE"))
#: Whether there is time and memory for 100 million objects.
HUGE = bool(os.environ.get("KMEMLEAK_BENCH_HUGE"))
#: The name that our own measurements go by.
OURS = "ours"


def scaled(size: int) -> int:
    """Return how many objects stand for so many: a hundredth in a smoke test."""
    return max(1, size // 100) if SMOKE else size


def free_gigabytes() -> float:
    """Return how much memory there is to be had."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvail")) / 1e6


def huge(size: int, gigabytes: int) -> Any:
    """Return a parameter that is only run where it is asked for, and fits."""
    reason = f"{size:,} objects take {gigabytes} GB of memory and minutes: KMEMLEAK_BENCH_HUGE=1"
    possible = HUGE and (SMOKE or free_gigabytes() > gigabytes)
    return pytest.param(size, marks=pytest.mark.skipif(not possible, reason=reason))


def measure(
    benchmark: Any,
    call: Callable[[], Result],
    *,
    work: str,
    size: int,
    units: int,
    tool: str = OURS,
    memory: NDArray[Any] | None = None,
    rounds: int = 5,
    warmup_rounds: int | None = None,
) -> Result:
    """Time some work; return what it returned.

    Parameters
    ----------
    benchmark
        pytest-benchmark's fixture.
    call
        The work.
    work, size, tool
        What it is, on how many objects (before `scaled`), and who does it.
    units
        How many of the work's units one call does.
    memory
        What the work goes over: it is merely read before each round, so that the two are timed in
        turn and meet the same noise.
    rounds, warmup_rounds
        Calls that count; before them, calls that do not (by default one, where it is ours).
    """
    benchmark.group = f"{work}, {size:,} objects" if size else work
    info = benchmark.extra_info
    info.update(work=work, size=size, tool=tool, units=units, smoke=SMOKE)
    best = float("inf")

    def read_first() -> None:
        nonlocal best
        if memory is not None:
            best = min(best, seconds_to_read(memory))

    if warmup_rounds is None:
        warmup_rounds = int(tool == OURS)
    result: Result = benchmark.pedantic(
        call,
        setup=read_first,
        rounds=1 if SMOKE else rounds,
        warmup_rounds=0 if SMOKE else warmup_rounds,
    )
    if memory is not None:
        info.update(bytes=memory.nbytes, bandwidth=memory.nbytes / best)
    return result
