"""glibc's heap in the states that programs bring it into, under each C library."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from kmemleak_core.dump import Dump
from kmemleak_core.dumps import open_dump
from kmemleak_core.heaps import Heap
from kmemleak_core.heaps.glibc import GlibcHeap

sys.path.insert(0, str(Path(__file__).with_name("real")))
import rig

SOURCE = Path(__file__).with_name("heap_scenarios.c")
STATES = (
    "foreign-sbrk",
    "blocked-break",
    "aligned",
    "mapped",
    "threads",
    "heaps",
    "trimmed",
    "nothing-freed",
    "two-libraries",
)
VERSIONS = (None, "2.31", "2.36", "2.41", "2.43")


def find(
    folder: Path, state: str, version: str | None = None, flags: tuple[str, ...] = ()
) -> tuple[Dump, Heap, rig.Truth]:
    sample = rig.sample(
        SOURCE, folder, glibc=version, arguments=[state], flags=flags, libraries=("-ldl",)
    )
    dump = open_dump(str(sample.core))
    heap = GlibcHeap().find(dump)
    assert heap is not None
    return dump, heap, sample.truth


def assert_exact(heap: Heap, truth: rig.Truth) -> None:
    held = np.array(sorted(truth.all_of(truth.held)), dtype=np.uint64)
    freed = np.array(sorted(truth.all_of(truth.freed)), dtype=np.uint64)
    freed = freed[~np.isin(freed, held)]  # handed out again
    objects = heap.objects
    rows = np.minimum(np.searchsorted(objects.address, held), len(objects) - 1)
    missed = held[objects.address[rows] != held]
    assert missed.size == 0, [hex(a) for a in missed[:5].tolist()]
    wanted = np.array([truth.sizes[a] for a in held.tolist()], dtype=np.uint64)
    assert np.all(objects.size[rows] >= wanted)
    stale = freed[np.isin(freed, objects.address)]
    assert stale.size == 0, [hex(a) for a in stale[:5].tolist()]
    # The C library's own: thread vectors, mainly.
    assert len(objects) - held.size <= 64
    assert [c for c in heap.checks if not c.passed] == []
    assert heap.counters["unparsed_bytes"] == 0
    assert [n for n in heap.coverage if n.code != "heap.threads"] == []


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v or "host")
@pytest.mark.parametrize("state", STATES)
def test_every_block_is_found_and_no_freed_one(
    tmp_path: Path, state: str, version: str | None
) -> None:
    _, heap, truth = find(tmp_path, state, version)
    assert_exact(heap, truth)


@pytest.mark.parametrize("state", ["foreign-sbrk", "aligned", "nothing-freed"])
def test_a_static_program_is_no_different(tmp_path: Path, state: str) -> None:
    _, heap, truth = find(tmp_path, state, flags=("-static",))
    assert_exact(heap, truth)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda v: v or "host")
def test_stacks_of_ended_threads_are_told_apart(tmp_path: Path, version: str | None) -> None:
    dump, heap, _ = find(tmp_path, "threads", version)
    live = {s.tid: s for s in heap.stacks if s.tid is not None}
    assert set(live) == {t.tid for t in dump.threads}
    for thread in dump.threads:
        assert live[thread.tid].low < thread.stack_pointer < live[thread.tid].high
    ended = [e for e in heap.excluded if e.reason == "ended-thread-stack"]
    assert ended
    for thread in dump.threads:
        assert not any(e.begin <= thread.stack_pointer < e.end for e in ended)
        assert not any(e.begin <= thread.tls_base < e.end for e in ended)


def test_each_thread_that_freed_has_a_tcache(tmp_path: Path) -> None:
    _, heap, _ = find(tmp_path, "threads")
    assert heap.counters["tcaches"] == 33
