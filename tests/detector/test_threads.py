"""Threads allocate and free while scans run: nothing crashes, and no report is ever wrong."""

from __future__ import annotations

import ctypes
import logging
import mmap
import random
import sys
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress

import numpy as np
import pytest

import kmemleak_core as km
from kmemleak_core.errors import ControlError, DetectorDisabledError
from kmemleak_core.live_scan import PIECE
from kmemleak_core.piece_lock import PieceLock

WORKERS = 8
#: Blocks of one worker, and where they lie: a block and the gap behind it take one stride.
PLACES, STRIDE = 96, 256
LEAKS = 40
PAGE = mmap.PAGESIZE


class Arena:
    """Real memory: words that are roots, then blocks; `process` tells how the detector reads it."""

    def __init__(self, process: bool) -> None:
        self.process = process
        self.roots = WORKERS * PLACES
        self.first = -(-self.roots * 8 // PAGE) * PAGE
        self.leaks = self.first + WORKERS * PLACES * STRIDE
        size = self.leaks + WORKERS * LEAKS * STRIDE
        self.map = mmap.mmap(-1, size)
        anchor = ctypes.c_char.from_buffer(self.map)
        self.base = ctypes.addressof(anchor)
        del anchor
        self.view = memoryview(self.map)
        self.words = self.view.cast("Q")
        if process:
            self.memory: km.ProcessMemory | km.MemoryImage = km.ProcessMemory()
        else:
            self.memory = km.MemoryImage.from_segments([(self.base, self.map)])

    def place(self, worker: int, number: int) -> int:
        return self.base + self.first + (worker * PLACES + number) * STRIDE

    def leak(self, worker: int, number: int) -> int:
        return self.base + self.leaks + (worker * LEAKS + number) * STRIDE

    def root(self, worker: int, number: int) -> int:
        return self.base + (worker * PLACES + number) * 8

    def put(self, address: int, value: int) -> None:
        self.words[(address - self.base) // 8] = value


class Stress:
    """Eight workers on one detector, and what they know of its leaks."""

    def __init__(self, arena: Arena, detector: km.Kmemleak, seed: int) -> None:
        self.arena, self.detector, self.seed = arena, detector, seed
        detector.add_root(arena.base, arena.roots * 8)
        self.stop = threading.Event()
        self.leaked: dict[int, int] = {}
        self.reported: set[int] = set()
        self.failures: list[object] = []
        self.calls = 0
        #: Held blocks that any worker may free: (block, its root word, its owner's free places).
        self.shared: deque[tuple[int, int, deque[int], int]] = deque()
        detector.on_new_leaks(self.check)

    def check(self, leaks: list[km.ObjectView]) -> None:
        """Every report must be of a block that was leaked on purpose, and of that alone."""
        for leak in leaks:
            if self.leaked.get(leak.address) != leak.size:
                self.failures.append(leak)
        self.reported.update(leak.address for leak in leaks)

    def run(self, function, *arguments) -> threading.Thread:
        def guarded() -> None:
            try:
                function(*arguments)
            except BaseException as error:
                self.failures.append(error)
                self.stop.set()

        thread = threading.Thread(target=guarded)
        thread.start()
        return thread

    def work(self, worker: int) -> None:
        chance = random.Random(self.seed + worker)
        free: deque[int] = deque(range(PLACES))
        leaks = 0
        calls = 0
        while not self.stop.is_set():
            calls += 1
            what = chance.random()
            if what < 0.35 and free:
                self.one(worker, free, chance)
            elif what < 0.6 and self.shared:
                self.give_back()
            elif what < 0.7 and len(free) > 1:
                self.pair(worker, free, chance)
            elif what < 0.8 and len(free) >= 8:
                self.many(worker, free)
            elif what < 0.85 and free:
                self.in_part(worker, free)
            elif what < 0.87 and self.arena.process:
                self.fleeting(worker, free)
            elif what < 0.875 and leaks < LEAKS:
                self.lose(worker, leaks, chance, free)
                leaks += 1
        self.calls += calls

    def one(self, worker: int, free: deque[int], chance: random.Random) -> None:
        """Allocate a block that someone else may free."""
        number = free.popleft()
        block, root = self.arena.place(worker, number), self.arena.root(worker, number)
        self.arena.put(block, 0)
        size = chance.randrange(8, STRIDE)
        self.arena.put(root, block + chance.randrange(size))
        self.detector.alloc(block, size)
        self.shared.append((block, root, free, number))

    def give_back(self) -> None:
        try:
            block, root, free, number = self.shared.popleft()
        except IndexError:
            return
        self.detector.free(block)
        self.arena.put(root, 0)
        free.append(number)

    def pair(self, worker: int, free: deque[int], chance: random.Random) -> None:
        """Allocate a block that only another block refers to."""
        outer, inner = free.popleft(), free.popleft()
        parent, child = self.arena.place(worker, outer), self.arena.place(worker, inner)
        root = self.arena.root(worker, outer)
        self.arena.put(parent, 0)
        self.arena.put(child, 0)
        self.arena.put(root, parent)
        self.detector.alloc(parent, 64)
        self.arena.put(parent, child)
        self.detector.alloc(child, 32)
        if chance.random() < 0.5:
            time.sleep(0.0005)
        self.detector.free(child)
        self.arena.put(parent, 0)
        self.detector.free(parent)
        self.arena.put(root, 0)
        free.extend((outer, inner))

    def many(self, worker: int, free: deque[int]) -> None:
        numbers = [free.popleft() for _ in range(8)]
        blocks = np.array([self.arena.place(worker, n) for n in numbers], dtype=np.uint64)
        for number, block in zip(numbers, blocks.tolist(), strict=True):
            self.arena.put(block, 0)
            self.arena.put(self.arena.root(worker, number), block)
        assert self.detector.alloc_many(blocks, np.full(8, 48, dtype=np.uint64)).all()
        assert self.detector.free_many(blocks).all()
        for number in numbers:
            self.arena.put(self.arena.root(worker, number), 0)
        free.extend(numbers)

    def in_part(self, worker: int, free: deque[int]) -> None:
        """Free a block's end before the rest of it."""
        number = free.popleft()
        block, root = self.arena.place(worker, number), self.arena.root(worker, number)
        self.arena.put(block, 0)
        self.arena.put(root, block)
        self.detector.alloc(block, 128)
        self.detector.free_part(block + 64, 64)
        self.detector.free(block)
        self.arena.put(root, 0)
        free.append(number)

    def fleeting(self, worker: int, free: deque[int]) -> None:
        """Allocate on pages that are unmapped as soon as the block is freed."""
        if not free:
            return
        number = free.popleft()
        root = self.arena.root(worker, number)
        with mmap.mmap(-1, 4 * PAGE) as pages:
            anchor = ctypes.c_char.from_buffer(pages)
            block = ctypes.addressof(anchor)
            del anchor
            self.arena.put(root, block)
            self.detector.alloc(block, 4 * PAGE)
            self.detector.free(block)
            self.arena.put(root, 0)
        free.append(number)

    def lose(self, worker: int, leak: int, chance: random.Random, free: deque[int]) -> None:
        if not free:
            return
        number = free.popleft()
        block, root = self.arena.leak(worker, leak), self.arena.root(worker, number)
        size = chance.randrange(1, STRIDE)
        self.arena.put(root, block)
        self.detector.alloc(block, size)
        self.leaked[block] = size
        self.arena.put(root, 0)
        free.append(number)

    def scan(self) -> None:
        while not self.stop.is_set():
            self.detector.scan()

    def cancel(self) -> None:
        """Scan and change one's mind."""
        chance = random.Random(self.seed + 100)
        while not self.stop.is_set():
            change = threading.Event()
            timer = threading.Timer(chance.random() * 0.005, change.set)
            timer.start()
            counters = self.detector.scan(change)
            if counters.interrupted and counters.new_leaks:
                self.failures.append(counters)
            timer.join()

    def meddle(self) -> None:
        """Ask, and clear."""
        detector = self.detector
        while not self.stop.is_set():
            for leak in detector.unreferenced():
                if self.leaked.get(leak.address) != leak.size:
                    self.failures.append(leak)
            detector.read()
            detector.stats()
            for block in [self.arena.place(1, n) for n in range(8)]:
                with suppress(ControlError):  # freed by then
                    assert detector.describe(block).startswith(f"Object 0x{block:08x} ")
            detector.clear()
            time.sleep(0.002)

    def finish(self) -> None:
        """Free all that is held, then scan in peace."""
        while self.shared:
            self.give_back()
        for _ in range(2):
            self.detector.scan()


@contextmanager
def frequent_switches():
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


SECONDS = [3, pytest.param(60, marks=pytest.mark.slow)]


@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("memory", ["process", "buffer"])
def test_eight_threads_never_make_a_scan_report_what_is_held(memory, seconds):
    arena = Arena(memory == "process")
    detector = km.Kmemleak(arena.memory, min_age=0)
    stress = Stress(arena, detector, seed=seconds)
    with frequent_switches(), detector:
        detector.start_scanning(period=0.005, first=0.0)
        threads = [stress.run(stress.work, worker) for worker in range(WORKERS)]
        threads += [stress.run(f) for f in (stress.scan, stress.cancel, stress.meddle)]
        stress.stop.wait(seconds)
        stress.stop.set()
        for thread in threads:
            thread.join()
    assert stress.failures == []
    stress.finish()
    assert stress.calls > WORKERS
    assert stress.failures == []
    assert stress.leaked
    assert stress.reported == set(stress.leaked)
    assert len(detector) == len(stress.leaked)
    assert len(detector.anomalies) == 0


@pytest.mark.parametrize("leak", [False, True])
def test_disabling_amid_everything_lets_the_threads_go_on(leak):
    arena = Arena(process=True)
    detector = km.Kmemleak(arena.memory, min_age=0, checksums=False)
    stress = Stress(arena, detector, seed=4)
    if leak:
        kept = arena.leak(0, LEAKS - 1)
        stress.leaked[kept] = 16
        detector.alloc(kept, 16)
        assert detector.scan().new_leaks == 1

    def scan_until_disabled() -> None:
        with pytest.raises(DetectorDisabledError):
            stress.scan()

    # alloc_many tells that it took nothing; the workers insist that it takes all.
    stress.many = lambda worker, free: None  # type: ignore[method-assign]
    with frequent_switches():
        threads = [stress.run(stress.work, worker) for worker in range(WORKERS)]
        threads += [stress.run(scan_until_disabled), stress.run(stress.meddle)]
        time.sleep(0.3)
        detector.disable("enough")
        time.sleep(0.2)
        stress.stop.set()
        for thread in threads:
            thread.join()
    assert stress.failures == []
    assert len(detector.anomalies) == 0


class SteppedMemory(km.BufferMemory):
    """Live memory that calls a function before each piece is read."""

    def __init__(self, image: km.MemoryImage, before) -> None:
        super().__init__(image)
        self.pieces = 0
        self.before = before

    def window(self, start, size):
        self.pieces += 1
        self.before(self.pieces)
        return super().window(start, size)


def three_pieces(before):
    """Return a detector whose scan reads three large objects, one piece each."""
    image = km.MemoryImage.from_segments([(0x100000, bytearray(3 * PIECE))])
    memory = SteppedMemory(image, before)
    detector = km.Kmemleak(memory, min_age=0, confirm=False, checksums=False)
    for i in range(3):
        detector.alloc(0x100000 + i * PIECE, PIECE, 0)
    return detector


def test_a_free_goes_before_the_next_piece():
    threads = []

    def before(piece):
        if piece == 1:
            thread = threading.Thread(target=detector.free, args=(0x100000,))
            thread.start()
            threads.append(thread)
            while not detector._piece._waiting:
                time.sleep(0.001)
        else:
            assert detector.find(0x100000) is None

    detector = three_pieces(before)
    detector.scan()
    threads[0].join()
    assert detector.memory.pieces > 1


def test_those_who_wait_to_free_all_go_before_the_next_piece():
    lock, order = PieceLock(), []

    def free():
        with lock:
            order.append("free")

    threads = [threading.Thread(target=free) for _ in range(4)]
    for piece in range(3):
        with lock.scanning:
            order.append(piece)
            if piece == 0:
                for thread in threads:
                    thread.start()
                while lock._waiting < len(threads):
                    time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == [0, "free", "free", "free", "free", 1, 2]


def test_a_scan_that_is_cancelled_midway_reads_no_further_and_reports_nothing():
    cancel = threading.Event()
    detector = three_pieces(lambda piece: cancel.set())
    detector.alloc(0x100000 + 3 * PIECE, 16)
    counters = detector.scan(cancel)
    assert counters.interrupted
    assert counters.new_leaks == 0
    assert detector.memory.pieces == 1
    assert detector.unreferenced() == []
    assert not (again := detector.scan()).interrupted
    assert again.new_leaks == 1


def test_clear_all_after_a_cancelled_scan_greys_nothing_that_no_scan_has_seen():
    cancel = threading.Event()
    detector = three_pieces(lambda piece: cancel.set())
    detector.alloc(0x100000 + 3 * PIECE, 16)
    detector.scan(cancel)
    assert detector.clear_all() == 0
    assert detector.scan().new_leaks == 1


def test_disabling_during_a_scan_ends_it():
    threads = []

    def before(piece):
        thread = threading.Thread(target=detector.disable)
        thread.start()
        threads.append(thread)
        while detector.enabled:
            time.sleep(0.001)

    detector = three_pieces(before)
    assert detector.scan().interrupted
    threads[0].join()
    assert len(detector) == 0
    with pytest.raises(DetectorDisabledError):
        detector.scan()


def test_a_disabled_detector_takes_frees_of_what_it_no_longer_knows():
    detector = three_pieces(lambda piece: None)
    detector.disable()
    detector.free(0x100000)
    assert not detector.free_many(np.array([0x100000], dtype=np.uint64)).any()
    assert len(detector.anomalies) == 0


def test_an_object_freed_while_it_is_found_is_not_reported():
    def before(piece):
        if piece == 2:  # everything was read: it has no reference
            detector.free(leak)
            detector.alloc(leak, 8, 0)

    # No lock around this: the free comes from the scanning thread, between two of its steps.
    image = km.MemoryImage.from_segments([(0x1000, bytearray(4096))])
    leak = 0x1100
    detector = km.Kmemleak(image, min_age=0, checksums=False)
    roots = []

    def callback():
        roots.append(1)
        before(len(roots))
        return (), ()

    detector.add_roots_callback(callback)
    detector.alloc(leak, 64)
    assert detector.scan().new_leaks == 0
    assert detector.unreferenced() == []


def test_a_held_object_does_not_vouch_for_a_percpu_one():
    # Both are the first of their tables.
    image = km.MemoryImage.from_segments([(0x1000, bytearray(4096))])
    detector = km.Kmemleak(image, min_age=0, checksums=False, confirm=True)
    detector.alloc(0x1100, 64, 0)
    detector.alloc_percpu(0x100, 64, [0x1200])
    assert detector.scan().new_leaks == 1
    assert [leak.space for leak in detector.unreferenced()] == ["percpu"]


# The automatic thread.


def kmemleak_threads():
    return [t for t in threading.enumerate() if t.name == "kmemleak"]


@pytest.fixture
def leaky():
    image = km.MemoryImage.from_segments([(0x1000, bytearray(4096))])
    detector = km.Kmemleak(image, min_age=0, checksums=False)
    detector.alloc(0x1100, 64)
    with detector:
        yield detector


def test_automatic_scans_log_new_leaks_and_call_back(leaky, caplog):
    found = threading.Event()
    told = []
    leaky.on_new_leaks(lambda leaks: (told.extend(leaks), found.set()))
    with caplog.at_level(logging.INFO, logger="kmemleak_core"):
        leaky.start_scanning(period=1000, first=0)
        assert found.wait(60)
        leaky.stop_scanning()
    assert [leak.address for leak in told] == [0x1100]
    assert [r.getMessage() for r in caplog.records] == [
        "kmemleak: Automatic memory scanning thread started",
        "kmemleak: 1 new suspected memory leaks",
        "kmemleak: Automatic memory scanning thread ended",
    ]


def test_stopping_leaves_no_thread_however_long_the_period(leaky):
    leaky.start_scanning(period=1000)
    assert len(kmemleak_threads()) == 1
    leaky.start_scanning()
    assert len(kmemleak_threads()) == 1
    leaky.stop_scanning()
    assert kmemleak_threads() == []
    leaky.stop_scanning()
    assert leaky.stats()["scans"] == 0


def test_leaving_the_context_ends_the_thread():
    image = km.MemoryImage.from_segments([(0x1000, bytearray(4096))])
    with km.Kmemleak(image) as detector:
        detector.start_scanning()
        assert kmemleak_threads()
    assert kmemleak_threads() == []


def test_disabling_ends_the_thread(leaky):
    leaky.start_scanning(period=1000)
    (thread,) = kmemleak_threads()
    leaky.disable()
    thread.join(60)
    assert not thread.is_alive()


def test_many_starts_at_once_make_one_thread(leaky):
    together = threading.Barrier(8)

    def start():
        together.wait()
        leaky.start_scanning(period=1000)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kmemleak_threads()) == 1


def test_a_callback_that_stops_and_starts_scanning_goes_on_with_it(leaky):
    found = threading.Event()

    def restart(leaks):
        leaky.stop_scanning()
        leaky.start_scanning(period=1000)
        found.set()

    leaky.on_new_leaks(restart)
    leaky.start_scanning(period=0.001, first=0)
    (old,) = kmemleak_threads()
    assert found.wait(60)
    old.join(60)
    assert len(kmemleak_threads()) == 1


def test_a_callback_that_fails_does_not_end_automatic_scanning(leaky, caplog):
    done = threading.Event()

    def fail(leaks):
        if len(told) == 0:
            told.append(1)
            leaky.alloc(0x1200, 8)
            raise ValueError("no")
        done.set()

    told = []
    leaky.on_new_leaks(fail)
    leaky.start_scanning(period=0.001, first=0)
    assert done.wait(60)
    assert "an automatic scan failed" in caplog.text


# Backtraces.


def test_each_line_that_allocates_has_its_own_backtrace_and_keeps_it():
    detector = km.Kmemleak(km.MemoryImage.from_segments([(0x1000, bytearray(4096))]))
    for round_ in range(2):
        for i in range(3):
            detector.alloc(0x1000 + round_ * 0x100 + i * 16, 8)
    detector.alloc(0x1800, 8)
    traces = [detector.find(a).backtrace for a in (0x1000, 0x1010, 0x1120, 0x1800)]
    assert traces[0] == traces[1] == traces[2] != traces[3]
    assert traces[3][0][1] == traces[0][0][1] + 1


def test_code_that_is_gone_does_not_lend_its_backtrace_to_other_code():
    detector = km.Kmemleak(km.MemoryImage.from_segments([(0x1000, bytearray(4096))]))
    for i in range(50):
        scope = {"detector": detector, "i": i}
        exec(f"def allocate_{i}():\n    detector.alloc(0x1000 + i * 16, 8)\nallocate_{i}()", scope)
        del scope
    for i in range(50):
        assert detector.find(0x1000 + i * 16).backtrace[0][0].co_name == f"allocate_{i}"
