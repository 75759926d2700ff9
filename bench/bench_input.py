"""From a compressed core to a report, beside what its own decompressor takes alone.

The decompressor writes a file, as it would have to for any other tool, and nothing: the one tells
what a user waits for, the other what no disk slows down. Ours unpacks, writes a file and scans.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kmemleak_core.dumps.compressed import open_source

from .bench_whole import MEAN, SHARE
from .cores import kmemleak, make_core, run
from .measuring import measure, scaled

OBJECTS = 1_000_000
#: What packs a core, and what unpacks it.
PACKERS = {
    "zstd, one frame": ("zstd -q --single-thread -c", "zstd -q -dc"),
    "zstd, many frames": ("pzstd -q -p 2 -c", "pzstd -q -p 2 -dc"),
    "gzip": ("gzip -1 -c", "gzip -dc"),
    "xz, many blocks": ("xz -T2 -0 -c", "xz -T0 -dc"),
    "lz4": ("lz4 -q -c", "lz4 -q -dc"),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    core = tmp_path_factory.mktemp("packed") / "core"
    make_core(core, scaled(OBJECTS), MEAN, SHARE)
    yield core
    core.unlink()


@pytest.fixture(scope="module", params=PACKERS)
def packing(request):
    return request.param


@pytest.fixture(scope="module")
def packed(plain, packing):
    pack, _ = PACKERS[packing]
    if shutil.which(pack.split()[0]) is None:
        pytest.skip(f"{pack.split()[0]} is not installed")
    path: Path = plain.with_suffix(".packed")
    with path.open("wb") as out:
        subprocess.run([*pack.split(), str(plain)], stdout=out, check=True)
    yield path
    path.unlink()


def unpack(packing: str, packed: Path, target: Path) -> None:
    with target.open("wb") as out:
        subprocess.run([*PACKERS[packing][1].split(), str(packed)], stdout=out, check=True)


@pytest.mark.parametrize("target", ["file", "nothing"])
def bench_decompressor(benchmark, plain, packing, packed, target):
    path = plain.with_suffix(".unpacked") if target == "file" else Path("/dev/null")
    where = "to a file" if target == "file" else "to nothing"
    measure(
        benchmark,
        lambda: unpack(packing, packed, path),
        work=f"unpack a core packed with {packing} {where}",
        size=OBJECTS,
        units=plain.stat().st_size,
        tool=PACKERS[packing][1],
        rounds=3,
    )


def bench_by_hand(benchmark, plain, packing, packed):
    """What a user would do instead: unpack into a file, scan that, remove it."""
    path = plain.with_suffix(".unpacked")

    def by_hand() -> None:
        unpack(packing, packed, path)
        run(kmemleak("scan", path))
        path.unlink()

    measure(
        benchmark,
        by_hand,
        work=f"from a core packed with {packing} to a report",
        size=OBJECTS,
        units=plain.stat().st_size,
        tool=f"{PACKERS[packing][1]}, then a scan",
        rounds=3,
    )


def bench_unpack(benchmark, plain, packing, packed):
    source = measure(
        benchmark,
        lambda: open_source(packed),
        work=f"from a core packed with {packing} to its memory",
        size=OBJECTS,
        units=plain.stat().st_size,
        rounds=3,
    )
    assert source.data.size == plain.stat().st_size


def bench_scan_packed(benchmark, plain, packing, packed):
    measure(
        benchmark,
        lambda: run(kmemleak("scan", packed)),
        work=f"from a core packed with {packing} to a report",
        size=OBJECTS,
        units=plain.stat().st_size,
        rounds=3,
    )


def bench_scan_plain(benchmark, plain):
    measure(
        benchmark,
        lambda: run(kmemleak("scan", plain)),
        work="from a plain core to a report",
        size=OBJECTS,
        units=plain.stat().st_size,
        rounds=3,
    )
