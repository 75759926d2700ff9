"""From a core of two gigabytes to a report, as a user runs it: process start to process end."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import kmemleak_core as km
from kmemleak_core import workers
from kmemleak_core.dumps import open_dump
from kmemleak_core.heaps.glibc import GlibcHeap

from .cores import kmemleak, make_core, peak_bytes, run
from .measuring import SMOKE, measure, scaled

OBJECTS = 5_000_000
#: Bytes an object, and the per cent of pointer words, of a program that holds text and numbers.
MEAN, SHARE = 410, 7.5


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    """Return a core: the one that KMEMLEAK_BENCH_CORE names, or a new one of 2.1 GB."""
    given = os.environ.get("KMEMLEAK_BENCH_CORE")
    if given and not SMOKE:
        yield Path(given)
        return
    core = tmp_path_factory.mktemp("core") / "core"
    make_core(core, scaled(OBJECTS), MEAN, SHARE)
    yield core
    core.unlink()


@pytest.fixture(scope="module")
def core_bytes(core):
    """Map the core: what is read has to be read by a scan too, and is warm afterwards."""
    return np.memmap(core, dtype=np.uint8, mode="r")


def bench_kmemleak_scan(benchmark, core, core_bytes, tmp_path):
    measure(
        benchmark,
        lambda: run(kmemleak("scan", core)),
        work="kmemleak scan of a core",
        size=OBJECTS,
        units=OBJECTS,
        memory=core_bytes,
        rounds=5,
    )
    benchmark.extra_info["peak MB"] = peak_bytes(kmemleak("scan", core)) / 1e6
    benchmark.extra_info.update(parts_of_a_scan(core, tmp_path))


def parts_of_a_scan(core, folder, rounds=3):
    """Return the seconds that a scan says its parts took, of each the fewest."""
    best = {}
    for number in range(rounds):
        told = folder / f"report{number}.json"
        run(kmemleak("scan", "--json", "--limit", "1", "-o", told, core))
        for name, value in json.loads(told.read_text())["counters"].items():
            if name.endswith("_seconds"):
                best[name] = min(value, best.get(name, value))
    return best


def bench_walk_the_heap(benchmark, core, core_bytes):
    dump = open_dump(core)
    heap = GlibcHeap().find(dump)
    assert heap is not None
    assert all(check.passed for check in heap.checks)
    measure(
        benchmark,
        lambda: GlibcHeap().find(dump, workers.available()),
        work="walk the heap of a core",
        size=OBJECTS,
        units=heap.counters["chunks"],
        memory=core_bytes,
        rounds=9,
    )


def bench_scan_in_process(benchmark, core, core_bytes):
    report = measure(
        benchmark,
        lambda: km.scan(core),
        work="km.scan of a core",
        size=OBJECTS,
        units=OBJECTS,
        memory=core_bytes,
        rounds=3,
    )
    assert report.summary.leaked_objects
