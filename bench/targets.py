"""The targets: what is to be reached, and how a run tells the figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from .measuring import OURS
from .run import Measurement, Run

#: What a run tells: the figure, and the measurement whose alternatives and share of the read
#: bandwidth belong beside it, if any do.
Told = tuple[float, Measurement | None]
Figure = Callable[[Run], Told | None]
Verdict = Literal["pass", "floor", "miss"]


@dataclass(frozen=True, slots=True)
class Target:
    """One line of the table.

    Attributes
    ----------
    what
        The work.
    unit
        Of the three figures.
    target, floor
        What is aimed at, and what still will do.
    figure
        Takes the figure out of a run; None if the run did not do the work.
    higher
        Whether more is better.
    """

    what: str
    unit: str
    target: float
    floor: float
    figure: Figure
    higher: bool = False

    def judge(self, value: float) -> Verdict:
        """Tell whether a figure reaches the target, the floor, or neither."""
        sign = 1 if self.higher else -1
        if sign * value >= sign * self.target:
            return "pass"
        return "floor" if sign * value >= sign * self.floor else "miss"


def _nanoseconds(work: str, size: int, unit: str, run: Run) -> Told | None:
    """Nanoseconds a unit, of which the benchmark noted by that name how many there were."""
    one = run.find(work, size)
    return one and (one.seconds / one.extra[unit] * 1e9, one)


def _share_of_reading(work: str, size: int, run: Run) -> Told | None:
    one = run.find(work, size)
    if one is None or one.bytes_a_second is None:
        return None
    return 100 * one.bytes_a_second / one.bandwidth, one


def _gigabytes(work: str, size: int, run: Run) -> Told | None:
    one = run.find(work, size)
    if one is None or one.bytes_a_second is None:
        return None
    return one.bytes_a_second / 1e9, one


def _slower(work: str, size: int, tool: str, run: Run) -> Told | None:
    """How many times as long another tool takes for a unit of the same work."""
    for theirs, ours in run.alternatives(work, size):
        if theirs.tool == tool:
            return theirs.nanoseconds / ours.nanoseconds, None
    return None


def _faster(slow: str, fast: str, size: int, run: Run) -> Told | None:
    one, other = run.find(slow, size), run.find(fast, size)
    return one and other and (one.seconds / other.seconds, None)


def _longer(slow: str, fast: str, size: int, run: Run) -> Told | None:
    """By how many seconds one work takes longer than another."""
    one, other = run.find(slow, size), run.find(fast, size)
    return one and other and (one.seconds - other.seconds, None)


def _rate(work: str, size: int, run: Run) -> Told | None:
    """Millions of units a second."""
    one = run.find(work, size)
    return one and (one.units / one.seconds / 1e6, one)


def _seconds(work: str, size: int, run: Run) -> Told | None:
    one = run.find(work, size)
    return one and (one.seconds, one)


def _milliseconds(name: str, run: Run) -> Told | None:
    one = run.named(name)
    return one and (one.seconds * 1e3, None)


def _noted(work: str, size: int, key: str, run: Run, tool: str = OURS) -> Told | None:
    one = run.find(work, size, tool)
    return (one.extra[key], None) if one and key in one.extra else None


def _beyond_unpacking(packing: str, tool: str, size: int, run: Run) -> Told | None:
    """What packing a core adds to its scan, in times of what its own tool takes to unpack it."""
    packed = run.find(f"from a core packed with {packing} to a report", size)
    plain = run.find("from a plain core to a report", size)
    alone = run.find(f"unpack a core packed with {packing} to a file", size, tool)
    if packed is None or plain is None or alone is None:
        return None
    return (packed.seconds - plain.seconds) / alone.seconds, None


def _targets() -> list[Target]:
    sparse, some, half = (f"scan, {share} % pointers" for share in ("0.1", "5", "50"))
    e6, l_core, e7, e8 = 10**6, 5 * 10**6, 10**7, 10**8
    whole = "kmemleak scan of a core"
    rows = [
        Target(f"{sparse}, {size:,} objects", "% of reading", 85, 75,
               partial(_share_of_reading, sparse, size), higher=True)
        for size in (e6, e7)
    ]  # fmt: skip
    rows += [
        Target(f"{some}, {e7:,} objects", "GB/s", 12, 10, partial(_gigabytes, some, e7),
               higher=True),
        Target(f"{some}, {e7:,} objects", "% of reading", 30, 25,
               partial(_share_of_reading, some, e7), higher=True),
    ]  # fmt: skip
    rows += [
        Target(f"{half}, {size:,} objects", "ns a pointer", target, 1.3 * target,
               partial(_nanoseconds, half, size, "pointers"))
        for size, target in ((e6, 5), (e7, 7), (e8, 9))
    ]  # fmt: skip
    for shape, limits in (("random graph", (75, 100)), ("linked list", (60, 330))):
        rows += [
            Target(f"lists and walk, {shape}, {size:,} objects", "ns an object", limit, 1.3 * limit,
                   partial(_nanoseconds, f"lists and walk, {shape}", size, "units"))
            for size, limit in zip((e6, e7), limits, strict=True)
        ]  # fmt: skip
    rows += [
        Target(f"retained sizes, {shape}, {size:,} objects", "ns an object", limit, limit,
               partial(_nanoseconds, f"retained sizes, {shape}", size, "units"))
        for shape in ("random graph", "linked list")
        for size, limit in ((e6, 1000), (e7, 2000))
    ]  # fmt: skip
    rows += [
        Target(f"dominators by {tool}, random graph, {size:,} objects", "times as slow", 10, 10,
               partial(_slower, "dominators, random graph", size, tool), higher=True)
        for tool, size in (("networkx", 20_000), ("rustworkx", 200_000))
    ]  # fmt: skip
    rows += [
        Target(f"heads and kinds, {size:,} objects, beyond the scan", "s", limit, limit,
               partial(_longer, "scan for colours, heads and kinds", "scan for colours", size))
        for size, limit in ((e6, 0.1), (e7, 1))
    ]  # fmt: skip
    rows += [
        Target("lists by two threads, beside one", "times as fast", 1.6, 1.6,
               partial(_faster, "lists, random graph, threads: 1",
                       "lists, random graph, threads: 2", e6), higher=True),
        Target(f"{whole}, {l_core:,} objects, two threads", "s", 0.8, 1.3,
               partial(_seconds, whole, l_core)),
        *(
            Target(f"… of it: {what}", "s", limit, 1.6 * limit,
                   partial(_noted, whole, l_core, key))
            for what, limit, key in (
                ("the heap", 0.1, "heap_seconds"),
                ("the index", 0.1, "index_seconds"),
                ("the lists", 0.25, "extract_seconds"),
                ("the walk", 0.2, "mark_seconds"),
            )
        ),
        Target("… beyond the mapped file, at its peak", "MB", 400, 600,
               partial(_noted, whole, l_core, "peak MB")),
        *(
            Target(f"a core packed with {packing}, beyond a plain one", "times unpacking it",
                   1.2, 1.2, partial(_beyond_unpacking, packing, tool, e6))
            for packing, tool in (("zstd, one frame", "zstd -q -dc"), ("lz4", "lz4 -q -dc"))
        ),
    ]  # fmt: skip
    rows += [
        Target(f"numpy, {work}", "times as slow", times, times,
               partial(_slower, work, e7, "numpy"), higher=True)
        for work, times in ((sparse, 4), (some, 15), (half, 29))
    ]  # fmt: skip
    rows += [
        Target("Boehm GC's mark of an equal heap", "times as slow", 4.5, 4.5,
               partial(_slower, "search an equal heap", e6, "Boehm GC"), higher=True),
        Target(f"walk the heap, {l_core:,} objects, warm", "M chunks/s", 30, 20,
               partial(_rate, "walk the heap of a core", l_core), higher=True),
        *(
            Target(f"{what}, {e7:,} events", "M events/s", rate, rate, partial(_rate, what, e7),
                   higher=True)
            for what, rate in (("live set of a log", 400), ("replay a log forwards", 60))
        ),
        *(
            Target(f"instructions to {what}, at AVX2", "", limit, limit,
                   partial(_noted, "count instructions", 0, what, tool="callgrind"))
            for what, limit in (("filter a word", 3.5), ("resolve a candidate", 50))
        ),
        *(
            Target(f"kmemleak scan of a vmcore of {size:,} MB, by {records}", "s", limit, limit,
                   partial(_seconds, f"kmemleak scan of a vmcore of {size:,} MB, by {records}", 0))
            for records in ("kmemleak", "slub")
            for size, limit in ((160, 1), (1024, 3))
        ),
        Target("drgn's list of a kernel's slab objects", "times as slow", 10, 10,
               partial(_slower, "list a kernel's slab objects", 0, "drgn"), higher=True),
        Target("import kmemleak_core", "ms", 150, 150,
               partial(_milliseconds, "bench_python[import kmemleak_core]")),
        Target("kmemleak --help", "ms", 250, 250, partial(_milliseconds, "bench_help[--help]")),
    ]  # fmt: skip
    return rows


TARGETS = _targets()
