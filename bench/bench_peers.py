"""Other tools' search for leaks in an equal heap, and ours in a dump of it.

One program (`programs/heap.c`) builds the same heap, link by link, under each. Each times its own
search, from within; ours is the index, the lists and the walk, by one thread. All must find the
same leaks. What is not installed here is skipped.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

import kmemleak_core as km

from .building import build
from .cores import kmemleak, make_core, run
from .measuring import measure, scaled

OBJECTS = 1_000_000
MEAN, SHARE = 195, 23
WORK, WHOLE = "search an equal heap", "kmemleak scan of an equal heap"

#: Of each: the compiler, its options, what runs before the program, its environment, how its
#: output tells the leaks, and the package that it comes from.
PEERS = {
    "Memcheck": (
        ("cc", "-DWITH_VALGRIND", "-lm"),
        ["valgrind", "--leak-check=no"],
        {},
        r"^leaks (\d+)",
        "valgrind",
    ),
    "LeakSanitizer": (
        ("cc", "-DWITH_LSAN", "-fsanitize=leak", "-lm"),
        [],
        {"LSAN_OPTIONS": "exitcode=0:symbolize=0"},
        r"leaked in (\d+) allocation",
        "gcc",
    ),
    "Boehm GC": (
        ("cc", "-DWITH_BOEHM", "-lgc", "-lm"),
        [],
        {"GC_MARKERS": "1"},
        None,  # what it finds, it frees
        "libgc-dev",
    ),
    "gperftools": (
        ("c++", "-xc++", "-DWITH_GPERFTOOLS", "-ltcmalloc", "-lm"),
        [],
        {"HEAPCHECK": "as-is"},
        r"detected leaks of \d+ bytes in (\d+) objects",
        "libgoogle-perftools-dev",
    ),
}


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    core = tmp_path_factory.mktemp("core") / "core"
    make_core(core, scaled(OBJECTS), MEAN, SHARE)
    return core


@pytest.fixture(scope="module")
def leaks(core):
    return km.scan(core).summary.leaked_objects


def bench_ours(benchmark, core):
    report = km.scan(core)
    result = report.result
    assert result is not None
    arguments = result.image, result.objects, result.roots
    again = measure(
        benchmark,
        lambda: km.scan_image(*arguments, options=result.options, threads=1),
        work=WORK,
        size=OBJECTS,
        units=scaled(OBJECTS),
    )
    assert int(again.white.sum()) == report.summary.leaked_objects


def bench_ours_whole(benchmark, core):
    measure(
        benchmark,
        lambda: run(kmemleak("scan", core)),
        work=WHOLE,
        size=OBJECTS,
        units=scaled(OBJECTS),
    )


@pytest.mark.parametrize("peer", PEERS)
def bench_peer(benchmark, peer, leaks, tmp_path):
    (compiler, *options), before, environment, tells, package = PEERS[peer]
    if before and shutil.which(before[0]) is None:
        pytest.skip(f"no {before[0]}: apt-get install {package}")
    program = build(
        "heap.c", *options, compiler=compiler, name=peer.replace(" ", ""), package=package
    )
    command = [*before, str(program), str(scaled(OBJECTS)), str(MEAN), str(SHARE)]
    surroundings = {**os.environ, **environment, "HEAP_CHECK_DUMP_DIRECTORY": str(tmp_path)}
    outputs = []

    def search():
        done = subprocess.run(
            command, env=surroundings, capture_output=True, text=True, check=False
        )
        outputs.append(done.stdout + done.stderr)

    measure(
        benchmark,
        search,
        work=WORK,
        size=OBJECTS,
        units=scaled(OBJECTS),
        tool=peer,
        rounds=1 if peer == "Memcheck" else 5,
    )
    output = outputs[0]
    seconds = [re.search(r"^seconds (\S+)$", told, re.MULTILINE) for told in outputs]
    if not all(seconds):
        pytest.skip(f"{peer} does not run here: {output.strip().splitlines()[-1:]}")
    if tells:
        found = re.search(tells, output, re.MULTILINE)
        assert found is not None, output
        # Stale words in registers and on the stack hold a handful here and there.
        assert abs(int(found[1]) - leaks) <= 5
    # What was timed is the whole program; what counts is what it says of its search.
    benchmark.extra_info["seconds"] = min(float(found[1]) for found in seconds)
