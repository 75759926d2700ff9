"""Programs that nobody here wrote: what the walk finds is what glibc and they themselves say."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import live
import numpy as np
import others
import pytest
import rig
from numpy.typing import NDArray

import kmemleak_core
from kmemleak_core import dumps

#: Exact bytes in use need the caches of freed chunks off: glibc counts those as in use.
WITHOUT_TCACHE = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
#: In the layout of this machine's glibc (2.27–2.41): chunk of a tcache's own structure, and
#: what a secondary arena needs for itself at the start of its only heap.
TCACHE_CHUNK = 0x290
ARENA_OVERHEAD = range(0x8B0, 0x8E0, 0x10)


class Taken:
    """A dump of a program, what was asked just before, and what the walk found."""

    def __init__(self, asked: live.Live, tcache: bool) -> None:
        self.asked = asked
        self.tcache = tcache
        self.heap: Any = rig.walk(asked.core)

    @cached_property
    def headers(self) -> NDArray[np.uint64]:
        """The size word in front of every object, read from the core."""
        image = dumps.open_dump(str(self.asked.core)).image
        words = [image.word(int(address) - 8) for address in self.heap.objects.address]
        return np.array(words, dtype=np.uint64)

    @property
    def mapped(self) -> NDArray[np.bool_]:
        """Which objects have a mapping of their own (IS_MMAPPED)."""
        return (self.headers & np.uint64(2)).astype(np.bool_)

    @property
    def chunk_sizes(self) -> NDArray[np.uint64]:
        """The size of every object's chunk."""
        return self.headers & ~np.uint64(7)


@pytest.fixture(
    scope="module",
    params=[(name, tcache) for name in others.ON_GLIBC for tcache in (True, False)],
    ids=lambda p: p[0] if p[1] else f"{p[0]}-no-tcache",
)
def taken(request: pytest.FixtureRequest, big_folder: Path) -> Iterator[Taken]:
    name, tcache = request.param
    folder = big_folder / f"program-{name}-{tcache}"
    folder.mkdir()
    environment = live.preload(folder) | ({} if tcache else WITHOUT_TCACHE)
    with others.ON_GLIBC[name](folder, environment) as pid:
        asked = live.dump(pid, folder)
    yield Taken(asked, tcache)
    asked.core.unlink()


def test_no_byte_of_the_heap_is_unparsed(taken: Taken) -> None:
    assert taken.heap.counters["unparsed_bytes"] == 0
    assert [note for note in taken.heap.coverage if note.code.startswith("heap.")] == []


def test_the_walk_agrees_with_the_allocators_records_in_the_core(taken: Taken) -> None:
    assert taken.heap.checks
    assert [check for check in taken.heap.checks if not check.passed] == []


def test_the_objects_are_exactly_the_blocks_that_the_program_has(taken: Taken) -> None:
    """Each malloc and free of the program and its libraries was counted in the process."""
    expected = set(taken.asked.blocks["address"].tolist())
    walked = set(taken.heap.objects.address.tolist())
    assert len(expected) > 100
    assert walked - expected == set()
    assert expected - walked == set()


def test_each_object_has_room_for_what_was_asked(taken: Taken) -> None:
    spare = taken.heap.objects.size.astype(np.int64) - taken.asked.blocks["size"].astype(np.int64)
    small = ~taken.mapped
    assert (spare >= 0).all()
    # A remainder too small for a chunk of its own (32 bytes) stays with the block.
    assert (spare[small] < 24 + 32).all()


def test_mmapped_chunks_agree_with_mallinfo(taken: Taken) -> None:
    sums = taken.asked.sums
    assert int(taken.mapped.sum()) == sums["hblks"] == taken.heap.counters["mmapped_chunks"]
    starts = taken.heap.objects.address[taken.mapped]
    assert len(starts) == sums["hblks"]
    # The mapping: the chunk, and what memalign left unused before it.
    length = sum(e.end - e.begin for e in taken.heap.excluded if e.reason == "heap-mapped")
    assert length == sums["hblkhd"]


def test_arenas_and_free_chunks_agree_with_malloc_info(taken: Taken) -> None:
    counters, arenas = taken.heap.counters, taken.asked.arenas
    assert counters["arenas"] == len(arenas)
    assert (
        counters["fastbin_chunks"] == sum(a["fast"] for a in arenas) == taken.asked.sums["smblks"]
    )
    # malloc_info counts the top chunk of each arena as one more.
    assert counters["free_chunks"] == sum(a["rest"] - 1 for a in arenas)


def test_bytes_in_use_agree_with_mallinfo(taken: Taken) -> None:
    in_use = taken.asked.sums["uordblks"]
    objects = int(taken.chunk_sizes[~taken.mapped].sum())
    counters = taken.heap.counters
    rest = in_use - objects - counters["tcaches"] * TCACHE_CHUNK
    secondary = counters["arenas"] - 1
    if taken.tcache:
        # Chunks in tcaches count as in use; each has 32 to 1,040 bytes.
        cached = counters["tcache_chunks"]
        assert rest >= cached * 32 + secondary * ARENA_OVERHEAD.start
        assert rest <= cached * 1040 + secondary * ARENA_OVERHEAD.stop
    else:
        assert counters["tcache_chunks"] == 0
        assert rest in {secondary * overhead for overhead in ARENA_OVERHEAD}


def test_a_scan_reports_only_blocks_that_the_program_has(taken: Taken) -> None:
    found = rig.leak_set(rig.scan(taken.asked.core))
    assert found <= set(taken.asked.blocks["address"].tolist())
    # Sound programs at rest: what they lose is a small part of what they have.
    assert len(found) < len(taken.asked.blocks) // 4


@pytest.fixture(scope="module")
def redis_core(big_folder: Path) -> Path:
    """A core of Debian's redis-server, which is linked with jemalloc."""
    folder = big_folder / "redis"
    folder.mkdir()
    plain = {k: v for k, v in live.preload(folder).items() if k != "LD_PRELOAD"}
    with others.redis(folder, plain) as pid:
        return rig.gcore(pid, folder)


def test_a_program_on_another_allocator_is_told_by_name(redis_core: Path) -> None:
    with pytest.raises(kmemleak_core.KmemleakError, match="jemalloc") as raised:
        rig.scan(redis_core)
    assert "not read yet" in str(raised.value)


def test_the_command_names_the_allocator_that_it_cannot_read(
    redis_core: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kmemleak_core.cli import main

    assert main(["scan", str(redis_core)]) not in (0, 1)
    said = capsys.readouterr()
    assert "jemalloc" in said.err
    assert "Traceback" not in said.err
    assert said.out == ""
