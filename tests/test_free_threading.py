"""Threads of the caller's own: what they share, and that none sees another's work half done.

Whether the interpreter has a lock of its own is all the same to these tests; only one without it
runs the threads truly at once.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar
from unittest.mock import patch

import numpy as np
import pytest
from numpy.typing import NDArray

import kmemleak_core as km
from kmemleak_core import _index, _scan, image
from kmemleak_core._index import AddressIndex
from kmemleak_core._scan import ImageView
from kmemleak_core._tracker import ObjectStore
from kmemleak_core.event_log import EventKind, EventLog
from kmemleak_core.traces import TraceStore

from .detector.rig import BASE as LIVE_BASE
from .detector.rig import Live
from .test_heap_parallel import walked
from .test_heap_walk import build

T = TypeVar("T")

BASE = 0x7F00_0000_0000
MANY = 4
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def together(*calls: Callable[[], T]) -> list[T]:
    """Make calls at once, each in a thread of its own; return their results, or raise an error."""
    barrier = threading.Barrier(len(calls))
    results: list[T | None] = [None] * len(calls)
    errors: list[BaseException] = []

    def run(place: int, call: Callable[[], T]) -> None:
        try:
            barrier.wait(60)
            results[place] = call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    for error in errors:
        raise error
    return results  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def _small_turns() -> Iterator[None]:
    """Have threads change places often, and the engine cut small images into parts."""
    before = _index._choose_part(16), _scan._choose_part(512), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    _index._choose_part(before[0])
    _scan._choose_part(before[1])
    sys.setswitchinterval(before[2])


class Heap:
    """Some thousand objects whose words mostly point at one another, and a few roots."""

    def __init__(self, seed: int, count: int = 3000) -> None:
        random = np.random.default_rng(seed)
        size = random.integers(1, 20, count).astype(np.uint64) * np.uint64(8)
        ends = np.cumsum(size + random.integers(0, 3, count).astype(np.uint64) * np.uint64(8))
        self.address = np.uint64(BASE) + ends - size
        words = random.integers(0, 1 << 20, int(ends[-1]) // 8 + 8).astype(np.uint64)
        pointers = np.flatnonzero(random.random(words.size) < 0.1)
        aims = self.address[random.integers(0, count, pointers.size)]
        words[pointers] = aims + random.integers(0, 3, pointers.size).astype(np.uint64)
        self.words, self.size = words, size
        self.objects = km.ObjectTable.from_arrays(self.address, size)
        self.roots = km.Roots([], [km.RootWord(int(a), "test") for a in self.address[:3]])

    def image(self) -> km.MemoryImage:
        """Make a new image of it, of which nothing is known yet."""
        return km.MemoryImage.from_segments([(BASE, self.words)])

    def scan(
        self, image: km.MemoryImage, threads: int, *, low_memory: bool = False
    ) -> list[list[int]]:
        found = km.scan_image(
            image, self.objects, self.roots, threads=threads, low_memory=low_memory
        )
        if low_memory:
            return [found.count.tolist(), found.held.tolist()]
        assert found.references is not None
        columns = found.count, found.held, found.references.offsets, found.references.targets
        return [column.tolist() for column in columns]


class TestTheEngine:
    @pytest.mark.parametrize("low_memory", [False, True])
    @pytest.mark.parametrize("threads", [1, 2])
    def test_one_image_is_scanned_by_several_at_once(self, threads: int, low_memory: bool) -> None:
        heap = Heap(1)
        alone = heap.scan(heap.image(), 1, low_memory=low_memory)
        shared = heap.image()
        scan = partial(heap.scan, shared, threads, low_memory=low_memory)
        assert together(*[scan] * MANY) == [alone] * MANY

    def test_several_images_are_scanned_at_once(self) -> None:
        heaps = [Heap(seed) for seed in range(MANY)]
        alone = [heap.scan(heap.image(), 1) for heap in heaps]
        assert together(*[lambda h=h: h.scan(h.image(), 2) for h in heaps]) == alone

    def test_one_index_is_asked_by_several_at_once(self) -> None:
        heap = Heap(2)
        for form in ("ranks", "directory", "search"):
            index = AddressIndex(heap.address, heap.size, threads=2, form=form)
            alone = index.lookup(heap.words).tolist()
            answers = together(*[partial(index.lookup, heap.words)] * MANY)
            assert [answer.tolist() for answer in answers] == [alone] * MANY

    def test_indexes_of_the_same_columns_are_built_at_once(self) -> None:
        heap = Heap(3)
        alone = AddressIndex(heap.address, heap.size).lookup(heap.words).tolist()

        def make() -> list[int]:
            made = AddressIndex(heap.address, heap.size, threads=3)
            return made.lookup(heap.words).tolist()

        assert together(*[make] * MANY) == [alone] * MANY

    def test_the_leaks_of_a_result_are_asked_for_by_several_at_once(self) -> None:
        heap = Heap(4)
        found = km.scan_image(heap.image(), heap.objects, heap.roots)
        tables = together(*[lambda: found.leaks] * MANY)
        assert len({id(table) for table in tables}) == 1
        assert len(tables[0]) == np.count_nonzero(found.white) > 0

    def test_all_threads_see_an_image_through_one_view(self) -> None:
        # Walks over parts of a heap are joined only if they saw the same one.
        fresh = Heap(5, 10).image()
        both_at_work = threading.Barrier(2)

        def slow(*arguments: object) -> ImageView:
            both_at_work.wait(60)
            return ImageView(*arguments)  # type: ignore[arg-type]

        with patch.object(image, "ImageView", slow):
            one, other = together(lambda: fresh.engine, lambda: fresh.engine)
        assert one is other is fresh.engine

    def test_one_heap_is_walked_by_several_at_once(self) -> None:
        built = build([(4, False), (6, True), (2, False)] * 300)
        with patch("kmemleak_core.heaps.glibc.walk.PART", 4096):
            alone = walked(built.image, built, 1, 4096)
            shared = built.image
            walks = together(*[lambda: walked(shared, built, 2, 4096)] * MANY)
        assert walks == [alone] * MANY

    def test_one_log_is_replayed_by_several_at_once(self) -> None:
        random = np.random.default_rng(6)
        count = 20_000
        kind = random.choice([EventKind.ALLOC, EventKind.FREE], count).astype(np.uint8)
        address = random.integers(1, 500, count).astype(np.uint64) * np.uint64(16)
        log = EventLog(kind, address, random.integers(0, 64, count).astype(np.uint64))

        def play() -> list[object]:
            played = km.replay(log)
            objects = played.objects
            return [objects.address.tolist(), objects.size.tolist(), played.totals]

        alone = play()
        assert together(*[play] * MANY) == [alone] * MANY


class TestTheTable:
    def test_a_record_is_copied_whole(self) -> None:
        # The size says which address: a copy of half an old and half a new one would not.
        store = ObjectStore()
        store.insert(0x1000, 0x1000)
        done = threading.Event()

        def change() -> None:
            try:
                for turn in range(20_000):
                    address = 0x1000 + turn % 7
                    store.discard(0x1000 + (turn - 1) % 7) or store.discard(0x1000)
                    store.insert(address, address)
            finally:
                done.set()

        def look() -> None:
            while not done.is_set():
                if (found := store.at(0x1800)) is not None:
                    assert found[1]["address"] == found[1]["size"]
                for record in store.records_of(np.zeros(3, dtype=np.uint32)):
                    assert record["sequence"] == 0 or record["address"] == record["size"]

        together(change, look)

    def test_what_was_found_is_not_mistaken_for_what_came_after_it(self) -> None:
        store = ObjectStore()
        slot = store.insert(0x1000, 16)
        sequence = store.sequence_of(slot)
        store.discard(0x1000)
        assert store.insert(0x2000, 16) == slot
        for change in (
            lambda: store.set_min_count(slot, -1, sequence),
            lambda: store.change_flags(slot, 1, 0, sequence),
        ):
            with pytest.raises(LookupError, match="does not hold that object"):
                change()
        found = store.at(0x2000, True)
        assert found is not None
        assert (found[1]["min_count"], found[1]["flags"]) == (1, 0)


class TestTheDetector:
    def test_every_number_of_a_trace_leads_to_it_at_once(self) -> None:
        store = TraceStore()

        def add() -> list[tuple[int, ...]]:
            return [store[store.add([frame])].frames for frame in range(5000)]

        assert together(*[add] * MANY) == [[(frame,) for frame in range(5000)]] * MANY
        assert len(store) == 5001

    def test_calls_around_the_start_are_all_made_and_in_order(self) -> None:
        for _ in range(20):
            live = Live(early_log=100_000)
            begun = threading.Barrier(MANY)

            def work(space: int, live: Live = live, begun: threading.Barrier = begun) -> None:
                address = LIVE_BASE + 0x400 + space * 0x100
                for turn in range(300):
                    if turn == 100:
                        begun.wait(60)
                    live.detector.alloc(address, 16)
                    live.detector.free(address)
                live.detector.alloc(address, 16)

            def start(live: Live = live, begun: threading.Barrier = begun) -> None:
                begun.wait(60)
                live.detector.start()

            together(start, *[lambda i=i, work=work: work(i) for i in range(MANY - 1)])
            assert len(live.detector) == MANY - 1
            assert not live.anomalies()

    def test_a_detector_is_disabled_for_one_reason(self, caplog: pytest.LogCaptureFixture) -> None:
        from kmemleak_core._capi import attach

        for _ in range(50):
            caplog.clear()
            detector = Live().detector
            reasons = [f"reason {i}" for i in range(MANY)]
            attached = together(
                lambda d=detector: [attach(d) for _ in range(20)],
                *[lambda d=detector, r=r: d.disable(r) for r in reasons],
            )
            assert detector.disable_reason in reasons
            assert [r.getMessage() for r in caplog.records] == [
                f"kmemleak: disabled: {detector.disable_reason}"
            ]
            assert len(attached[0]) == 20

    def test_painting_and_scanning_go_on_beside_allocation(self) -> None:
        live = Live(size=0x20000)
        done = threading.Event()

        def work(space: int) -> None:
            for turn in range(400):
                address = LIVE_BASE + 0x1000 + space * 0x4000 + turn % 9 * 0x100
                live.detector.alloc(address, 64)
                live.detector.scan_area(address, 32)
                live.detector.not_leak(address)
                live.detector.update_trace(address, ["here"])
                found = live.detector.find(address + 5)
                assert found is not None
                assert (found.address, found.min_count, found.backtrace) == (address, 0, ("here",))
                live.detector.free(address)

        def scan() -> None:
            while not done.is_set():
                live.detector.scan()

        def all_work() -> None:
            try:
                together(*[lambda i=i: work(i) for i in range(3)])
            finally:
                done.set()

        together(scan, all_work)
        assert len(live.detector) == 0
        assert not live.anomalies()
        live.detector.scan()
        assert not live.detector._areas

    def test_the_thread_that_scans_may_free_amid_a_piece(self) -> None:
        # As a finaliser does that the garbage collector happens to run there.
        data = bytes(0x1000)
        detector: km.Kmemleak

        def read(address: int, size: int) -> bytes:
            if detector.find(LIVE_BASE) is not None:
                detector.free(LIVE_BASE)
            return data[address - LIVE_BASE :][:size]

        detector = km.Kmemleak(km.CallbackMemory(read), min_age=0, backtraces=False)
        detector.alloc(LIVE_BASE, 64)
        detector.alloc(LIVE_BASE + 64, 64)
        together(detector.scan)
        assert detector.find(LIVE_BASE) is None
        assert len(detector) == 1


#: Each public name is first asked for by a thread of its own: the modules import one another.
IMPORTS = """
import sys, threading
import kmemleak_core as km
names = km.__all__[::{step}]
barrier, found = threading.Barrier(len(names)), {{}}
def want(name):
    barrier.wait(60)
    found[name] = getattr(km, name)
threads = [threading.Thread(target=want, args=(name,)) for name in names]
for thread in threads: thread.start()
for thread in threads: thread.join()
missing = [name for name in names if found.get(name) is not getattr(km, name)]
assert not missing, missing
"""

#: All extensions, and with them what they need.
EVERYTHING = """
import importlib, pathlib, sys
import kmemleak_core
folder = pathlib.Path(kmemleak_core.__file__).parent
for file in sorted(folder.glob("_*.pyx")):
    importlib.import_module(f"kmemleak_core.{file.stem}")
for name in kmemleak_core.__all__:
    getattr(kmemleak_core, name)
print(sys._is_gil_enabled())
"""


def python(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestImports:
    @pytest.mark.parametrize("step", [1, -1])
    def test_names_are_first_asked_for_by_several_threads_at_once(self, step: int) -> None:
        python(IMPORTS.format(step=step))

    @pytest.mark.skipif(not FREE_THREADED, reason="this interpreter has a lock that stays")
    def test_the_lock_of_the_interpreter_stays_off(self) -> None:
        assert python(EVERYTHING) == "False"


def test_the_rig_raises_what_a_thread_raises() -> None:
    def fail() -> NDArray[np.uint8]:
        raise LookupError("here")

    with pytest.raises(LookupError, match="here"):
        together(fail, lambda: np.zeros(1, dtype=np.uint8))
