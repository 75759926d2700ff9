"""Replaying an allocation log, beside what a user would write: a dict, a sort, an interval tree.

The log fills a heap, and then frees and allocates all over it: nearly every event is at an
address that no cache holds.
"""

from __future__ import annotations

import numpy as np
import pytest
from intervaltree import IntervalTree

from kmemleak_core.event_log import EventKind, EventLog
from kmemleak_core.replay import live_set, replay

from .measuring import measure, scaled
from .synthetic import lay_out

EVENTS, LIVE = 10_000_000, 1_000_000
#: What a loop in Python, and one on a tree, can take.
FEW, FEWER = 1_000_000, 100_000
LIVE_SET, FORWARDS = "live set of a log", "replay a log forwards"
#: Events between an address's free and its next use.
DELAY = 500


def make_log(events: int, live: int, seed: int = 7) -> EventLog:
    """Make a log that fills a heap, and then frees each object a while before it comes anew."""
    heap = lay_out(live)
    random = np.random.default_rng(seed)
    pairs = (events - live) // 2
    delay = min(DELAY, pairs, live - 1)
    turns = np.resize(random.permutation(live), pairs)
    frees = np.concatenate((turns, np.full(delay, -1)))
    allocs = np.concatenate((np.full(delay, -1), turns))
    which = np.concatenate((np.arange(live), np.column_stack((frees, allocs)).ravel()))
    kind = np.full(which.size, EventKind.ALLOC, dtype=np.uint8)
    kind[live::2] = EventKind.FREE
    kind, which = kind[which >= 0], which[which >= 0]
    size = np.where(kind == EventKind.FREE, np.uint64(0), heap.size[which])
    return EventLog.from_arrays(kind, heap.address[which], size)


@pytest.fixture(scope="module")
def log():
    return make_log(scaled(EVENTS), scaled(LIVE))


def run(benchmark, call, work, units, **more):
    return measure(benchmark, call, work=work, size=EVENTS, units=units, **more)


def bench_live_set_engine(benchmark, log):
    found = run(benchmark, lambda: live_set(log), LIVE_SET, len(log), rounds=20)
    assert found.size == scaled(LIVE)


def bench_live_set_numpy(benchmark, log):
    def last_events():
        # Of equal addresses the first is found: in the reversed log, the last.
        _, first = np.unique(log.address[::-1], return_index=True)
        last = len(log) - 1 - first
        return np.sort(last[log.kind[last] == EventKind.ALLOC])

    found = run(benchmark, last_events, LIVE_SET, len(log), tool="numpy", rounds=3)
    assert np.array_equal(found, live_set(log))


def bench_live_set_dict(benchmark, log):
    part = log.head(scaled(FEW))
    kind, address = part.kind.tolist(), part.address.tolist()

    def loop():
        live = {}
        for event, (what, where) in enumerate(zip(kind, address, strict=True)):
            if what == EventKind.ALLOC:
                live[where] = event
            else:
                live.pop(where, None)
        return live

    found = run(benchmark, loop, LIVE_SET, len(part), tool="dict", rounds=3)
    assert sorted(found.values()) == live_set(part).tolist()


def bench_forwards_engine(benchmark, log):
    found = run(benchmark, lambda: replay(log), FORWARDS, len(log))
    assert len(found) == scaled(LIVE)
    assert not any(found.totals.values())


def bench_forwards_engine_with_overlaps(benchmark, log):
    # One object that comes over another: the whole log is replayed on sorted addresses.
    address, size = log.address.copy(), log.size.copy()
    size[0] += np.uint64(64)
    crossed = EventLog.from_arrays(log.kind, address, size)
    found = run(
        benchmark, lambda: replay(crossed), f"{FORWARDS}, with overlaps", len(log), rounds=2
    )
    assert any(found.totals.values())


def bench_forwards_dict(benchmark, log):
    part = log.head(scaled(FEW))
    kind, address, size = part.kind.tolist(), part.address.tolist(), part.size.tolist()

    def loop():
        live, double, nbytes, peak = {}, [], 0, 0
        for event, (what, where, length) in enumerate(zip(kind, address, size, strict=True)):
            if what == EventKind.ALLOC:
                live[where] = length
                nbytes += length
                peak = max(peak, nbytes)
            elif where in live:
                nbytes -= live.pop(where)
            else:
                double.append(event)
        return live, double, peak

    live, double, peak = run(benchmark, loop, FORWARDS, len(part), tool="dict", rounds=3)
    found = replay(part)
    assert (len(live), double, peak) == (len(found), [], found.peak_bytes.value)


def bench_forwards_intervaltree(benchmark):
    part = make_log(scaled(FEWER), scaled(FEWER) // 10)
    kind, address, size = part.kind.tolist(), part.address.tolist(), part.size.tolist()

    def loop():
        live, overlaps = IntervalTree(), 0
        for event, (what, where, length) in enumerate(zip(kind, address, size, strict=True)):
            if what == EventKind.ALLOC:
                overlaps += bool(live.overlap(where, where + length))
                live.addi(where, where + length, event)
            else:
                live.remove(next(iter(live.at(where))))
        return live, overlaps

    live, overlaps = run(benchmark, loop, FORWARDS, len(part), tool="intervaltree", rounds=1)
    assert (len(live), overlaps) == (len(replay(part)), 0)
