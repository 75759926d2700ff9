"""How many instructions a unit of work takes, for the table: see `instructions`."""

from __future__ import annotations

from .instructions import count
from .measuring import measure


def bench_instructions(benchmark):
    counted = measure(
        benchmark,
        count,
        work="count instructions",
        size=0,
        units=1,
        tool="callgrind",
        rounds=1,
    )
    benchmark.extra_info.update(counted)
