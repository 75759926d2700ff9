"""Measures what threads gain: inside one scan, over several scans at once, around one detector.

``python -m bench.threads`` prints a table. Run by a free-threaded interpreter and by one that has a
lock, it tells what the lock costs.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import kmemleak_core as km

from .synthetic import make_heap

#: Objects of each heap that is scanned; calls of each thread that allocates.
OBJECTS = 1_000_000
CALLS = 100_000
ROUNDS = 7


def at_once(calls: list[Callable[[], object]]) -> float:
    """Return the seconds that calls take, each in a thread of its own."""
    barrier = threading.Barrier(len(calls) + 1)

    def run(call: Callable[[], object]) -> None:
        barrier.wait()
        call()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    barrier.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def best(measure: Callable[[], float]) -> float:
    """Return the shortest of some measurements."""
    return min(measure() for _ in range(ROUNDS))


def allocate(detector: km.Kmemleak, base: int) -> None:
    """Allocate and free blocks, a hundred at a time."""
    alloc, free = detector.alloc, detector.free
    for _ in range(CALLS // 200):
        for address in range(base, base + 6400, 64):
            alloc(address, 64)
        for address in range(base, base + 6400, 64):
            free(address)


def detector() -> km.Kmemleak:
    """Make a detector that keeps no backtraces."""
    return km.Kmemleak(km.MemoryImage([]), backtraces=False)


def main() -> None:
    """Measure, and print the table."""
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    print(f"Python {sys.version.split()[0]}, {'with a lock' if gil else 'free-threaded'}")
    heaps = [make_heap(OBJECTS) for _ in range(2)]

    def scan(heap: int, threads: int) -> Callable[[], object]:
        one = heaps[heap]
        return partial(km.scan_image, one.image, one.objects, one.roots, threads=threads)

    def tell(what: str, once: float, twice: float) -> None:
        print(f"{what:46} {once * 1e3:7.0f} ms {twice * 1e3:7.0f} ms {once / twice:6.2f}")

    alone = best(lambda: at_once([scan(0, 1)]))
    print(f"{'':46} {'one by one':>10} {'at once':>10} {'times':>6}")
    tell("one scan, by one thread and by two", alone, best(lambda: at_once([scan(0, 2)])))
    tell("two scans of two images, by one thread each", 2 * alone,
         best(lambda: at_once([scan(0, 1), scan(1, 1)])))  # fmt: skip
    tell("two scans of one image, by one thread each", 2 * alone,
         best(lambda: at_once([scan(0, 1), scan(0, 1)])))  # fmt: skip
    alone = best(lambda: at_once([partial(allocate, detector(), 1 << 32)]))
    own = [detector(), detector()]
    tell(f"two times {CALLS:,} calls, own detectors", 2 * alone,
         best(lambda: at_once([partial(allocate, each, 1 << 32) for each in own])))  # fmt: skip
    tell(f"two times {CALLS:,} calls, one detector", 2 * alone,
         best(lambda: at_once([partial(allocate, own[0], at << 32) for at in (1, 2)])))  # fmt: skip


if __name__ == "__main__":
    main()
