"""From a core to a report: opening, walking the heap, the whole of it."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

import kmemleak_core as km
from kmemleak_core import workers
from kmemleak_core._heap import STOP_TOP, ChunkWalk
from kmemleak_core.coverage import Coverage
from kmemleak_core.dumps import open_dump
from kmemleak_core.dumps.capture import capture
from kmemleak_core.heaps.glibc import GlibcHeap
from kmemleak_core.heaps.glibc.arenas import find_arenas
from kmemleak_core.heaps.glibc.regions import plan_main

from .conftest import LARGE
from .measuring import measure

PROGRAM = Path(__file__).with_name("programs") / "blocks.c"


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: nothing to dump")
    folder = tmp_path_factory.mktemp("core")
    program, core = folder / "blocks", folder / "core"
    subprocess.run([compiler, "-O2", PROGRAM, "-o", program], check=True)
    with subprocess.Popen([program, str(LARGE)], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            capture(process.pid, core)
        finally:
            process.kill()
    return core


def walk_in_python(dump: km.Dump, begin: int, end: int) -> int:
    """Count the chunks between two addresses as a script would: one header after another."""
    memory = memoryview(dump.image.view(begin, end - begin))
    at, chunks = 0, 0
    while at < len(memory):
        (size,) = struct.unpack_from("<Q", memory, at + 8)
        at += size & ~7
        chunks += 1
    return chunks


@pytest.mark.benchmark(group="open a core")
def bench_open(benchmark, core):
    assert benchmark(open_dump, core).threads


@pytest.mark.parametrize("threads", sorted({1, workers.available()}))
def bench_heap_walk_engine(benchmark, core, threads):
    dump = open_dump(core)
    heap = GlibcHeap().find(dump)
    assert heap is not None
    assert all(check.passed for check in heap.checks)
    measure(
        benchmark,
        lambda: GlibcHeap().find(dump, threads),
        work=f"find the heap, {threads} threads",
        size=LARGE,
        units=heap.counters["chunks"],
        memory=np.memmap(core, dtype=np.uint8, mode="r"),
    )


def bench_heap_walk_alone(benchmark, core):
    dump = open_dump(core)
    (arena,) = (a for a in find_arenas(dump.image, Coverage()) if a.main)
    (region,), _ = plan_main(dump.image, arena)
    address, usable = np.empty(2 * LARGE, np.uint64), np.empty(2 * LARGE, np.uint64)

    def walk() -> ChunkWalk:
        align = arena.layout.align
        walk = ChunkWalk(dump.image.engine, region.first, region.limit, region.top, align)
        walk.run(address, usable, 0)
        return walk

    measure(
        benchmark,
        walk,
        work="walk over adjoining chunks",
        size=LARGE,
        units=walk().chunks,
        memory=dump.image.view(region.begin, region.end - region.begin),
    )
    assert walk().stop == STOP_TOP


@pytest.mark.benchmark(group="walk the heap")
def bench_heap_walk_python(benchmark, core):
    dump = open_dump(core)
    heap = GlibcHeap().find(dump)
    assert heap is not None
    (region,) = [e for e in heap.excluded if e.reason == "heap"]
    chunks = benchmark.pedantic(walk_in_python, (dump, region.begin, region.end), rounds=2)
    mapped = heap.counters["mmapped_chunks"]
    # The walk counts the top as free memory, not as a chunk; the script cannot tell.
    assert chunks - 1 <= heap.counters["chunks"] - mapped <= chunks


@pytest.mark.benchmark(group="from a core to a report")
def bench_whole_scan(benchmark, core):
    report = benchmark(km.scan, core)
    assert report.summary.leaked_objects == LARGE // 100
    benchmark.extra_info["objects"] = report.summary.objects
