"""Replay of allocation logs: the fast ways against the plain one, and what a Replay tells."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmemleak_core import _replay, _replay_places
from kmemleak_core.errors import UsageError
from kmemleak_core.event_log import EventKind, EventLog
from kmemleak_core.replay import Anomaly, AnomalyKind, live_set, replay

from .replay_oracle import Model

ALLOC, FREE, FREE_PART, RESIZE = EventKind
A = 0x5555_0000_1000


def make_log(events, **columns):
    kind, address, size = zip(*events, strict=True) if events else ((), (), ())
    return EventLog.from_arrays(
        np.array(kind, dtype=np.uint8),
        np.array(address, dtype=np.uint64),
        np.array(size, dtype=np.uint64),
        **columns,
    )


def compare(found, model, count):
    """Hold a replay against the model."""
    live = sorted((o.birth, start, o.size) for start, o in model.live.items())
    assert list(zip(found.birth, found.address, found.size, strict=True)) == live
    assert sorted(found.anomalies) == sorted(model.anomalies)
    assert sum(found.totals.values()) == len(model.anomalies)
    assert tuple(found.peak_objects) == model.peak(0)
    assert tuple(found.peak_bytes) == model.peak(1)
    assert found.nulls == model.nulls
    assert found.timeline.event.size == min(count, 256)
    sampled = [model.timeline[event] for event in found.timeline.event.tolist()]
    assert list(zip(found.timeline.objects, found.timeline.nbytes, strict=True)) == sampled


#: Where objects are: beside one another; on both sides of a region's border; all over the
#: address space; at any byte.
BASES = {
    "dense": [A + 16 * i for i in range(24)],
    "border": [A - A % (1 << 22) + (1 << 22) + 16 * i for i in range(-80, 80, 8)],
    "sparse": [(i << 42) + 16 * k for i in range(1, 30) for k in range(3)],
    "kernel": [0xFFFF_8880_0000_0000 + (i << 20) + 8 * k for i in range(9) for k in range(3)],
    "unaligned": [0x1000 + i for i in range(40)],
    "everywhere": [1, 2, (1 << 63) - 1, 1 << 63, (1 << 64) - 200, (1 << 64) - 100],
}
SIZES = st.sampled_from([0, 1, 8, 15, 16, 17, 32, 64, 90]) | st.integers(0, 2000)


@st.composite
def logs(draw, kinds=tuple(EventKind)):
    bases = BASES[draw(st.sampled_from(sorted(BASES)))]
    event = st.tuples(st.sampled_from(kinds), st.sampled_from([*bases, 0]), SIZES)
    events = draw(st.lists(event, max_size=60))
    # An object that leaves the address space is refused before.
    return [(k, a, min(s, 90) if a > (1 << 64) - 3000 else s) for k, a, s in events]


@settings(max_examples=400, deadline=None)
@given(logs())
def test_any_events_are_replayed_as_the_plain_way_replays_them(events):
    compare(replay(make_log(events)), Model().run(events), len(events))


@st.composite
def orderly_logs(draw):
    """Draw a log without overlaps, with a few frees that are wrong."""
    bases = sorted(BASES[draw(st.sampled_from(sorted(BASES)))])
    gaps = [*(b - a for a, b in pairwise(bases)), 32]
    events, live = [], set()
    for _ in range(draw(st.integers(0, 120))):
        place = draw(st.integers(0, len(bases) - 1))
        wrong = draw(st.integers(0, 19)) == 0
        if (place in live) != wrong:
            events.append((FREE, bases[place], 0))
            live.discard(place)
        elif not wrong or place not in live:
            events.append((ALLOC, bases[place], draw(st.integers(0, min(gaps[place], 9000)))))
            live.add(place)
    return events


@settings(max_examples=300, deadline=None)
@given(orderly_logs())
def test_orderly_logs_need_no_sorting_and_give_the_same(events):
    log, model = make_log(events), Model().run(events)
    assert not any(a[0] == AnomalyKind.OVERLAP for a in model.anomalies)
    compare(replay(log), model, len(events))
    assert live_set(log).tolist() == sorted(o.birth for o in model.live.values())


@settings(max_examples=100, deadline=None)
@given(logs((ALLOC, FREE)))
def test_both_forward_ways_agree_where_both_can(events):
    log = make_log(events)
    fast = _replay.replay_granules(log.kind, log.address, log.size, 7, 50)
    places = np.unique(log.address)
    if fast is None or not events:
        return
    slow = _replay_places.replay_places(
        log.kind, log.address, log.size, places,
        np.searchsorted(places, log.address).astype(np.uint32), np.empty(0, np.uint32), 7, 50,
    )  # fmt: skip
    for name in ("count", "nbytes", "nulls", "peak_count", "peak_bytes", "totals"):
        assert getattr(fast, name) == getattr(slow, name)


class TestForms:
    """Which way is taken."""

    def granules(self, events):
        log = make_log(events)
        return _replay.replay_granules(log.kind, log.address, log.size, 1, 10)

    @pytest.mark.parametrize("name", ["dense", "border", "kernel", "unaligned"])
    def test_a_table_is_enough(self, name):
        assert self.granules([(ALLOC, a, 1) for a in BASES[name]]).count == len(BASES[name])

    @pytest.mark.parametrize("name", ["everywhere"])
    def test_addresses_are_too_sparse_for_a_table(self, name):
        assert self.granules([(ALLOC, a, 1) for a in BASES[name]]) is None
        assert len(replay(make_log([(ALLOC, a, 1) for a in BASES[name]]))) == len(BASES[name])

    def test_a_span_of_47_bits_is_not_too_sparse(self):
        events = [(ALLOC, 0x1000, 64), (ALLOC, 0x7FFF_FFFF_0000, 64), (FREE, 0x1000, 0)]
        assert self.granules(events).count == 1
        assert live_set(make_log(events)).tolist() == [1]

    def test_objects_of_terabytes_take_no_time(self):
        events = [(ALLOC, 0x1000, 1 << 45), (FREE, 0x1000, 0)] * 1000
        found = replay(make_log(events))
        assert found.peak_bytes == (1 << 45, 0)
        assert found.clean

    def test_large_objects_keep_their_size(self):
        # The table has 32 bits for it.
        page, size = 4096, (1 << 32) + 5
        events = [(ALLOC, page, size), (ALLOC, page + (1 << 33), (1 << 32) - 2), (FREE, page, 0)]
        events += [(ALLOC, 1 << 34, 1), (FREE, 1 << 34, 0)] * 1000
        assert self.granules(events).nbytes == (1 << 32) - 2

    def test_an_object_over_many_regions_is_claimed_whole(self):
        events = [(ALLOC, A, 16 << 20), (FREE, A, 0)]
        events += [(ALLOC, A, 16 << 20)] + [(FREE, 0x1000, 0)] * 50_000
        assert self.granules(events).count == 1
        inside = [*events, (FREE, A + (15 << 20), 0)]
        assert self.granules(inside) is None
        assert replay(make_log(inside)).totals[AnomalyKind.INTERIOR_FREE] == 1
        over = [*events, (ALLOC, A + (16 << 20) - 16, 16)]
        assert self.granules(over) is None
        assert replay(make_log(over)).totals[AnomalyKind.OVERLAP] == 1


class TestWhatIsWrong:
    def test_a_double_free_names_the_first_free(self):
        found = replay(make_log([(ALLOC, A, 8), (FREE, A, 0), (FREE, A, 0)]))
        assert found.anomalies == (Anomaly(AnomalyKind.DOUBLE_FREE, 2, 1, A),)

    def test_a_free_of_what_was_never_seen_is_another_thing(self):
        found = replay(make_log([(ALLOC, A, 8), (FREE, A + 64, 0)]))
        assert found.anomalies == (Anomaly(AnomalyKind.UNKNOWN_FREE, 1, -1, A + 64),)

    def test_a_free_inside_an_object_names_it_and_changes_nothing(self):
        found = replay(make_log([(ALLOC, A, 64), (FREE, A + 16, 0)]))
        assert found.anomalies == (Anomaly(AnomalyKind.INTERIOR_FREE, 1, 0, A + 16),)
        assert found.birth.tolist() == [0]

    def test_of_two_objects_at_one_place_the_newer_is_live(self):
        found = replay(make_log([(ALLOC, A, 64), (ALLOC, A + 32, 64)]))
        assert found.anomalies == (Anomaly(AnomalyKind.OVERLAP, 1, 0, A + 32),)
        assert found.birth.tolist() == [1]

    def test_what_an_overlap_ended_is_no_double_free(self):
        found = replay(make_log([(ALLOC, A, 64), (ALLOC, A + 32, 64), (FREE, A, 0)]))
        assert found.anomalies[-1] == Anomaly(AnomalyKind.UNKNOWN_FREE, 2, 1, A)

    def test_all_are_counted_and_some_are_kept(self):
        found = replay(make_log([(FREE, A, 0)] * 100), max_anomalies=3)
        assert found.totals[AnomalyKind.UNKNOWN_FREE] == 100
        assert [a.event for a in found.anomalies] == [0, 1, 2]

    def test_null_pointers_are_passed_over(self):
        found = replay(make_log([(ALLOC, 0, 8), (FREE, 0, 0), (FREE_PART, 0, 4)]))
        assert found.clean
        assert found.nulls == 3


class TestWhatAReplayTells:
    log = make_log(
        [(ALLOC, A, 100), (ALLOC, A + 128, 28), (FREE, A, 0), (ALLOC, A, 28), (ALLOC, A + 256, 9)],
        time=[0.0, 1.0, 2.0, 3.0, 10.0],
        trace=[0, 1, -1, 1, 0],
        trace_names=["main", "<work>"],
    )

    def test_the_live_objects_are_a_table_in_allocation_order(self):
        table = replay(self.log).objects
        assert table.address.tolist() == [A, A + 128, A + 256]
        assert table.trace.tolist() == [1, 1, 0]
        assert table.allocation_order().tolist() == [1, 0, 2]

    def test_peaks_come_with_their_events(self):
        found = replay(self.log)
        assert found.peak_bytes == (128, 1)
        assert found.peak_objects == (3, 4)

    def test_a_log_can_be_replayed_up_to_an_event(self):
        assert replay(self.log, at=2).nbytes == 128
        assert len(replay(self.log, at=0)) == 0

    def test_ages_are_in_the_time_of_the_log(self):
        found = replay(self.log)
        assert found.ages().tolist() == [9.0, 7.0, 0.0]
        table = found.by_age(3)
        assert table["objects"].tolist() == [1, 0, 2]
        assert table["nbytes"].tolist() == [9, 0, 56]

    def test_ages_are_in_events_where_there_is_no_time(self):
        found = replay(make_log([(ALLOC, A, 1), (ALLOC, A + 16, 1)]))
        assert found.ages().tolist() == [1.0, 0.0]

    def test_ages_of_nothing(self):
        assert replay(make_log([])).by_age(2)["objects"].tolist() == [0, 0]

    def test_traces_with_what_they_allocated_and_what_of_it_is_live(self):
        table = replay(self.log).by_trace()
        assert table[["trace", "allocs", "alloc_bytes", "live", "live_bytes"]].tolist() == [
            (1, 2, 56, 2, 56),
            (0, 2, 109, 1, 9),
        ]

    def test_leftovers_of_one_object_are_one_allocation(self):
        found = replay(make_log([(ALLOC, A, 100), (FREE_PART, A + 10, 10)]))
        (row,) = found.by_trace()
        assert (row["allocs"], row["live"], row["live_bytes"]) == (1, 1, 90)
        assert found.size.tolist() == [10, 80]

    def test_groups_by_trace_and_size(self):
        first, second = replay(self.log).groups()
        assert first == (1, 28, 2, 56, 1, 3)
        assert second == (0, 9, 1, 9, 4, 4)

    def test_it_shows_itself(self):
        found = replay(self.log)
        assert repr(found) == (
            "<Replay of 5 events: 3 objects live, 65 bytes; peak 128 bytes; 0 anomalies>"
        )
        assert "&lt;work&gt;" in found._repr_html_()
        assert found.to_pandas()["birth"].tolist() == [1, 3, 4]

    @pytest.mark.parametrize("options", [{"samples": 0}, {"max_anomalies": -1}, {"at": -1}])
    def test_wrong_options_are_refused(self, options):
        with pytest.raises(UsageError):
            replay(self.log, **options)


class TestLogs:
    def test_it_shows_itself(self):
        assert repr(make_log([(ALLOC, A, 1), (FREE, A, 0)])) == (
            "<EventLog 2 events: 1 alloc, 1 free>"
        )
        assert repr(make_log([])) == "<EventLog 0 events>"

    def test_right_arrays_are_not_copied(self):
        address = np.array([A], dtype=np.uint64)
        assert EventLog.from_arrays([0], address, [1]).address is address

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (([0], [1, 2], [1]), "address of shape"),
            (([0], [1.5], [1]), "integers are wanted"),
            (([0], [-1], [1]), "beyond"),
            (([7], [1], [1]), "kind 7"),
            (([0], [1 << 63], [1 << 63]), "event 0: .* leaves the address space"),
            (([3], [(1 << 64) - 2], [0]), "leaves the address space"),
        ],
    )
    def test_wrong_columns_are_refused(self, columns, message):
        kind, address, size = (
            np.array(c, dtype=None if isinstance(c[0], float) or min(c) < 0 else np.uint64)
            for c in columns
        )
        with pytest.raises(ValueError, match=message):
            EventLog.from_arrays(kind, address, size)

    def test_a_time_that_is_no_number_is_refused(self):
        with pytest.raises(ValueError, match="time"):
            make_log([(ALLOC, A, 1)], time=[float("nan")])

    @pytest.mark.parametrize("way", ["live_set", "replay_granules", "replay_places"])
    def test_the_engine_checks_for_itself(self, way):
        kind, address = np.array([9], np.uint8), np.array([1], np.uint64)
        place = np.zeros(1, np.uint32)
        more = {
            "live_set": (),
            "replay_granules": (address, 1, 1),
            "replay_places": (address, address, place, place[:0], 1, 1),
        }[way]
        call = getattr(_replay_places if way == "replay_places" else _replay, way)
        with pytest.raises(ValueError, match="kind"):
            call(kind, address, *more)
        with pytest.raises(ValueError, match="1 kinds, 0 addresses"):
            call(kind, address[:0], *more)
