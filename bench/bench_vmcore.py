"""From a kernel's dump to a report, as a user runs it: nothing but the dump is given.

The dumps are those with known answers that the tests use. What a user would do instead for the
objects of a kernel without kmemleak is to have drgn list each cache; it is skipped where drgn is
not installed. drgn's list knows no leaks: only the objects are compared.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zstandard

from kmemleak_core.dumps import open_dump
from kmemleak_core.kernel_pipeline import find_kernel_objects
from kmemleak_core.options import KernelOptions

from .cores import kmemleak
from .measuring import SMOKE, measure

#: Name of the dump → bytes of the guest's memory.
GUESTS = {"snap1": 160 << 20, "big": 1 << 30}
SCAN, OBJECTS = "kmemleak scan of a vmcore", "list a kernel's slab objects"


@pytest.fixture(scope="module")
def data():
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("KMEMLEAK_TEST_DATA", default)) / "vmcore"
    if not folder.is_dir():
        pytest.skip(f"no vmcores at {folder}: set KMEMLEAK_TEST_DATA")
    return folder


@pytest.fixture(scope="module", params=GUESTS)
def vmcore(request, data, tmp_path_factory):
    """Return a dump's size in memory and its path, unpacked."""
    if SMOKE and request.param != "snap1":
        pytest.skip("a smoke test unpacks the small dump only")
    path = tmp_path_factory.mktemp("vmcore") / request.param
    unpack(data / request.param / "vmcore.elf.zst", path)
    yield GUESTS[request.param], path
    path.unlink()


def unpack(packed: Path, path: Path) -> None:
    with packed.open("rb") as source, path.open("wb") as out:
        zstandard.ZstdDecompressor(max_window_size=1 << 27).copy_stream(source, out)


@pytest.mark.parametrize("records", ["kmemleak", "slub"])
def bench_kmemleak_scan(benchmark, vmcore, records):
    size, path = vmcore
    command = kmemleak("scan", "--quiet", "--records", records, path)
    done = measure(
        benchmark,
        lambda: subprocess.run(command, check=False),
        work=f"{SCAN} of {size >> 20:,} MB, by {records}",
        size=0,
        units=size // 8,
        memory=np.memmap(path, dtype=np.uint8, mode="r"),
    )
    assert done.returncode == 1


@pytest.fixture(scope="module")
def snap1(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("snap1")
    unpack(data / "snap1" / "vmcore.elf.zst", folder / "vmcore")
    return folder / "vmcore"


def bench_list_objects(benchmark, snap1):
    heap = measure(
        benchmark,
        lambda: find_kernel_objects(open_dump(snap1), KernelOptions(records="slub")),
        work=OBJECTS,
        size=0,
        units=1,
    )
    assert heap.counters["slab_objects"] > 80_000


def bench_drgns_list_of_objects(benchmark, snap1, data, tmp_path):
    drgn = pytest.importorskip("drgn", reason="drgn is not installed: pip install drgn")
    from drgn.helpers.linux.slab import (
        for_each_slab_cache,
        slab_cache_for_each_allocated_object,
    )

    unpack(data / "vmlinux.debug.zst", tmp_path / "vmlinux")

    def list_objects():
        program = drgn.Program()
        program.set_core_dump(snap1)
        program.load_debug_info([tmp_path / "vmlinux"])
        return sum(
            1
            for cache in for_each_slab_cache(program)
            for _ in slab_cache_for_each_allocated_object(cache, "char")
        )

    found = measure(benchmark, list_objects, work=OBJECTS, size=0, units=1, tool="drgn", rounds=1)
    assert found > 80_000
