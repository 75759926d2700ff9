"""From a core to a report: opening, walking the heap, the whole of it."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

import kmemleak_core as km
from kmemleak_core.dumps import open_dump
from kmemleak_core.dumps.capture import capture
from kmemleak_core.heaps.glibc import GlibcHeap

from .conftest import LARGE

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


@pytest.mark.benchmark(group="walk the heap")
def bench_heap_walk_engine(benchmark, core):
    dump = open_dump(core)
    heap = benchmark(GlibcHeap().find, dump)
    assert heap is not None
    assert all(check.passed for check in heap.checks)
    benchmark.extra_info["chunks"] = heap.counters["chunks"]


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
