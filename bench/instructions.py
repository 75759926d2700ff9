"""Counts the instructions that a unit of work takes, and holds them against `instructions.json`.

Instructions do not depend on the clock, nor on who else is busy: what a noisy machine can still
check. Each work is run under callgrind on n and on 2 n units, and the difference divided by n: all
that does not grow with the work drops out. Counted are the instructions of whatever runs, be it
ours, numpy's or the allocator's; or, for a part of a work, those of one function alone. Valgrind
has no AVX-512, so that the level is AVX2.

``python -m bench.instructions`` exits with 1 if a limit is passed; with ``--update`` it sets the
limits anew, so much above what it counts as another compiler may cost.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .building import CannotBuildError, build_library

LIMITS = Path(__file__).with_suffix(".json")
MARGIN = 1.15
#: Words, objects, chunks or references that are the n of each work.
UNITS = 1 << 15
#: Parts: the work, and how the names of the C functions begin that do it.
PARTS = {"resolve a candidate": ("list a reference", "kml_resolve")}


def works() -> Iterator[tuple[str, Callable[[int], tuple[Callable[[], object], int]]]]:
    """Yield each work: its name, and what prepares it for a size and tells its units."""
    import kmemleak_core as km
    from kmemleak_core._heap import ChunkWalk
    from kmemleak_core._index import AddressIndex
    from kmemleak_core._mark import mark
    from kmemleak_core._replay import ALLOC, FREE, live_set, replay_granules
    from kmemleak_core._scan import extract_references

    from .synthetic import BASE, fill_words, lay_out, make_heap

    layout = lay_out(UNITS)
    index = AddressIndex(layout.address, layout.size)

    def words(count: int, share: float) -> np.ndarray:
        made = np.empty(count, dtype=np.uint64)
        fill_words(made, layout, share)
        return made

    def scan(share: float, count: int) -> tuple[Callable[[], object], int]:
        made = words(count, share)
        view = km.MemoryImage.from_segments([(0x1000_0000, made)]).engine
        start, size = np.array([[0x1000_0000], [made.nbytes]], dtype=np.uint64)
        nobody = np.array([-1], dtype=np.int64)
        return lambda: extract_references(view, index, start, size, nobody, step=8), count

    def resolve(count: int) -> tuple[Callable[[], object], int]:
        made = words(count, 1.0)
        return lambda: index.lookup(made), count

    def build(count: int) -> tuple[Callable[[], object], int]:
        objects = lay_out(count)
        return lambda: AddressIndex(objects.address, objects.size), count

    def walk(count: int) -> tuple[Callable[[], object], int]:
        heap = make_heap(count // 4)
        at = heap.objects.address, heap.objects.size
        offsets, targets, _ = extract_references(heap.image.engine, AddressIndex(*at), *at, step=8)
        roots = np.arange(64, dtype=np.uint32)
        return lambda: mark(offsets, targets, heap.objects.min_count, roots), targets.size

    def chunks(count: int) -> tuple[Callable[[], object], int]:
        heap = lay_out(count)
        memory = np.zeros((heap.end - BASE) // 8, dtype=np.uint64)
        headers = (heap.address - np.uint64(BASE + 8)) // np.uint64(8)
        memory[headers] = heap.size + np.uint64(8 + 1)
        view = km.MemoryImage.from_segments([(BASE, memory)]).engine
        address, usable = np.empty((2, count), dtype=np.uint64)

        def run() -> int:
            walk = ChunkWalk(view, BASE, int(heap.end) - 16, 0, 16)
            return walk.run(address, usable, 0)

        assert run() >= count - 1
        return run, count

    def events(live: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Make a log: each event frees the oldest object, or allocates where it was."""
        at = np.arange(live, dtype=np.uint64) * np.uint64(64) + np.uint64(BASE)
        address = np.resize(np.repeat(at, 2), count)
        kind = np.resize(np.array([ALLOC, FREE], dtype=np.uint8), count)
        return kind, address, np.full(count, 48, dtype=np.uint64)

    def replay_backwards(count: int) -> tuple[Callable[[], object], int]:
        kind, address, _ = events(1000, count)
        return lambda: live_set(kind, address), count

    def replay_forwards(count: int) -> tuple[Callable[[], object], int]:
        log = events(1000, count)
        assert replay_granules(*log, 64, 16) is not None
        return lambda: replay_granules(*log, 64, 16), count

    yield "filter a word", lambda count: scan(0.0, count)
    yield "look an address up", resolve
    yield "list a reference", lambda count: scan(1.0, count)
    yield "follow a reference", walk
    yield "index an object", build
    yield "walk over a chunk", chunks
    yield "find what is live", replay_backwards
    yield "replay an event", replay_forwards


def count_inside() -> None:
    """Run the works, under callgrind; print the units of each."""
    requests = ctypes.CDLL(os.environ["KMEMLEAK_BENCH_REQUESTS"])
    for name, prepare in works():
        for times in (1, 2):
            call, units = prepare(times * UNITS)
            call()
            requests.begin()
            call()
            requests.end(f"{name}/{units}".encode())


def count() -> dict[str, float]:
    """Return the instructions a unit of each work.

    Raises
    ------
    CannotBuildError
        There is no Valgrind here, or no compiler.
    """
    if shutil.which("valgrind") is None:
        raise CannotBuildError("no valgrind: apt-get install valgrind")
    library = build_library("requests.c", package="valgrind")
    totals: dict[str, list[tuple[int, int]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        tool = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no"]
        tool.append(f"--callgrind-out-file={folder}/out")
        subprocess.run(
            [*tool, sys.executable, "-m", "bench.instructions", "-i"],
            env={**os.environ, "KMEMLEAK_SIMD": "avx2", "KMEMLEAK_BENCH_REQUESTS": str(library)},
            check=True,
        )
        for dump in Path(folder).iterdir():
            text = dump.read_text(encoding="utf-8", errors="replace")
            told = re.search(r"^desc: Trigger: Client Request: (.*)/(\d+)$", text, re.MULTILINE)
            total = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
            if not told or not total:
                continue
            totals.setdefault(told[1], []).append((int(told[2]), int(total[1])))
            for part, (work, function) in PARTS.items():
                if work == told[1]:
                    own = own_instructions(text, function)
                    totals.setdefault(part, []).append((int(told[2]), own))
    return {
        name: (more - less) / (larger - smaller)
        for name, ((smaller, less), (larger, more)) in (
            (name, sorted(pair)) for name, pair in totals.items()
        )
    }


def own_instructions(dump: str, function: str) -> int:
    """Add up what callgrind's file says of functions themselves, without those they call."""
    names: dict[str, str] = {}
    own, inside, called = 0, False, False
    for line in dump.splitlines():
        if found := re.match(r"c?fn=\((\d+)\)(?: (.*))?$", line):
            number, name = found.groups()
            names.setdefault(number, name)
            if line.startswith("fn="):
                inside = names[number].startswith(function)
        elif line.startswith("calls="):
            called = True  # the next line counts the callee's instructions
        elif re.match(r"[0-9+*-]", line):
            if inside and not called:
                own += int(line.split()[1])
            called = False
    if not own:
        raise SystemExit(f"no function's name begins with {function}: see PARTS")
    return own


def main() -> int:
    """Run from the command line."""
    if sys.argv[1:] == ["-i"]:
        count_inside()
        return 0
    try:
        found = count()
    except CannotBuildError as error:
        print(f"SKIPPED: instructions were not counted: {error}")
        return 0
    limits = json.loads(LIMITS.read_text(encoding="utf-8"))
    if limits.keys() != found.keys():
        raise SystemExit(f"{LIMITS.name} and the works differ: {set(limits) ^ set(found)}")
    if sys.argv[1:] == ["--update"]:
        for name, entry in limits.items():
            entry["limit"] = round(MARGIN * found[name], 1)
        LIMITS.write_text(json.dumps(limits, indent=2) + "\n", encoding="utf-8")
    print(f"{'instructions to':22}{'counted':>10}{'limit':>10}{'target':>10}")
    too_many = False
    for name, entry in limits.items():
        passed = found[name] <= entry["limit"]
        too_many |= not passed
        print(
            f"{name:22}{found[name]:10.2f}{entry['limit']:10.1f}{entry['target'] or '–':>10}"
            + ("" if passed else "   TOO MANY")
        )
    return int(too_many)


if __name__ == "__main__":
    sys.exit(main())
