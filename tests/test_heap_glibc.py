"""glibc's heap in a real core: every allocated block, nothing else, and its own sums agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import zstandard
from numpy.typing import NDArray

from kmemleak_core.dump import Dump
from kmemleak_core.dumps import open_dump
from kmemleak_core.heaps import Heap, finders
from kmemleak_core.heaps.glibc import GlibcHeap

TRUTH = np.dtype([("address", "<u8"), ("size", "<u4"), ("kind", "<u4")])
FREED = 9
BIG_REACHABLE, BIG_LEAK = 12, 13


def unpack(source: Path, target: Path) -> Path:
    with source.open("rb") as packed, target.open("wb") as out:
        zstandard.ZstdDecompressor(max_window_size=1 << 27).copy_stream(packed, out)
    return target


@pytest.fixture(scope="module")
def core(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dump]:
    folder = shared_data / "usercore"
    if not (folder / "core.zst").is_file():
        pytest.skip(f"no core with known answers in {folder}")
    path = unpack(folder / "core.zst", tmp_path_factory.mktemp("usercore") / "core")
    yield open_dump(str(path))
    path.unlink()


@pytest.fixture(scope="module")
def heap(core: Dump) -> Heap:
    found = GlibcHeap().find(core)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def truth(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.void]:
    target = tmp_path_factory.mktemp("truth") / "all.bin"
    return np.fromfile(unpack(shared_data / "usercore" / "all.bin.zst", target), dtype=TRUTH)


def rows_of(heap: Heap, addresses: NDArray[np.uint64]) -> NDArray[np.intp]:
    rows = np.searchsorted(heap.objects.address, addresses)
    return np.minimum(rows, len(heap.objects) - 1)


def test_every_live_block_is_an_object(heap: Heap, truth: NDArray[np.void]) -> None:
    live = truth[truth["kind"] != FREED]
    rows = rows_of(heap, live["address"])
    assert np.array_equal(heap.objects.address[rows], live["address"])


def test_objects_are_at_least_as_long_as_requested(heap: Heap, truth: NDArray[np.void]) -> None:
    live = truth[truth["kind"] != FREED]
    sizes = heap.objects.size[rows_of(heap, live["address"])].astype(np.int64)
    assert np.all(sizes >= live["size"])
    small = ~np.isin(live["kind"], (BIG_REACHABLE, BIG_LEAK))
    # A remainder smaller than the smallest chunk stays with the block.
    assert np.all(sizes[small] - live["size"][small] < 48)


def test_no_freed_block_is_an_object(heap: Heap, truth: NDArray[np.void]) -> None:
    freed = truth[truth["kind"] == FREED]
    assert not np.isin(freed["address"], heap.objects.address).any()


def test_nothing_else_is_an_object_but_the_librarys_own_blocks(
    heap: Heap, truth: NDArray[np.void]
) -> None:
    live = truth[truth["kind"] != FREED]
    others = ~np.isin(heap.objects.address, live["address"])
    # The thread vectors that the dynamic loader allocated for two threads.
    assert heap.objects.size[others].tolist() == [296, 296]


def test_the_walk_agrees_with_the_allocators_own_sums(heap: Heap) -> None:
    assert [c for c in heap.checks if not c.passed] == []
    names = {c.name for c in heap.checks}
    assert {"number of mmapped chunks", "bytes of mmapped chunks"} <= names
    assert sum("system_mem" in name for name in names) == 3


def test_nothing_is_left_unparsed(heap: Heap) -> None:
    assert heap.counters["unparsed_bytes"] == 0
    assert list(heap.coverage) == []


def test_counters_tell_what_was_met(heap: Heap) -> None:
    assert heap.counters["arenas"] == 3
    assert heap.counters["mmapped_chunks"] == 40
    assert heap.counters["tcaches"] == 3
    assert heap.counters["tcache_chunks"] > 0
    assert heap.counters["fastbin_chunks"] > 0
    assert heap.counters["allocated"] == len(heap.objects)


def test_layout_family_is_named(heap: Heap) -> None:
    assert heap.allocator == "glibc 2.30-2.41"


def test_objects_lie_in_excluded_memory(heap: Heap) -> None:
    begins = np.array(sorted(e.begin for e in heap.excluded), dtype=np.uint64)
    ends = np.maximum.accumulate(
        np.array([e.end for e in sorted(heap.excluded, key=lambda e: e.begin)], dtype=np.uint64)
    )
    i = np.searchsorted(begins, heap.objects.address, side="right") - 1
    assert np.all(i >= 0)
    assert np.all(heap.objects.address + heap.objects.size <= ends[i] + np.uint64(8))


def test_the_arenas_own_structure_is_excluded(core: Dump, heap: Heap) -> None:
    arenas = [e for e in heap.excluded if e.reason == "arena"]
    assert len(arenas) == 1
    segment = core.image.find(arenas[0].begin)
    assert segment is not None
    assert "libc" in segment.name
    assert arenas[0].end - arenas[0].begin < 3000


def test_each_thread_has_the_stack_that_its_stack_pointer_is_in(core: Dump, heap: Heap) -> None:
    stacks = {s.tid: s for s in heap.stacks}
    for thread in core.threads:
        assert stacks[thread.tid].low < thread.stack_pointer < stacks[thread.tid].high


def test_a_stack_ends_before_the_threads_control_block(core: Dump, heap: Heap) -> None:
    stacks = {s.tid: s for s in heap.stacks}
    for thread in core.threads[1:]:
        assert stacks[thread.tid].high <= thread.tls_base


def test_glibc_is_among_the_finders() -> None:
    assert "glibc" in [finder.name for finder in finders()]


def test_an_image_without_glibc_has_no_such_heap() -> None:
    from kmemleak_core.image import MemoryImage

    image = MemoryImage.from_segments([(0x10000, bytes(0x4000))])
    assert GlibcHeap().find(Dump(image)) is None
