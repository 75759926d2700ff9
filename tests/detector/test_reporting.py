"""When an unreferenced object is reported: age, checksums, second looks, and what clear hides."""

from __future__ import annotations

import pytest

from kmemleak_core import detector as detector_module
from kmemleak_core import lifecycle
from kmemleak_core.errors import DetectorDisabledError

from .rig import BASE, ROOT, A, After, B, C, Clock, Live, strict


@pytest.fixture
def live():
    return Live()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    for module in (lifecycle, detector_module):
        monkeypatch.setattr(module, "time", clock)
    return clock


class TestAge:
    @pytest.mark.parametrize(("options", "seconds"), [({}, 1), ({"strict_kernel": True}, 5)])
    def test_an_object_must_be_so_old(self, clock, options, seconds):
        live = Live(min_age=None, **options)
        live.alloc(A)
        clock.now += seconds - 0.1
        assert live.leaks() == []
        clock.now += 0.2
        assert live.leaks() == [A]

    def test_it_counts_up_to_the_scans_start(self, clock):
        live = Live(min_age=1)
        live.alloc(A)

        def slow():
            clock.now += 100
            return (), ()

        live.detector.add_roots_callback(slow)
        assert live.leaks() == []

    def test_a_young_object_counts_as_unreferenced(self, clock):
        live = Live(min_age=1)
        live.alloc(A)
        counters = live.detector.scan()
        assert (counters.unreferenced, counters.new_leaks) == (1, 0)


class TestChecksums:
    """An object is reported once it looks as it did when it was last seen unreferenced."""

    def test_a_leak_takes_two_sightings(self):
        live = Live(checksums=True)
        live.alloc(A)
        live.put(A, 1)
        assert live.leaks() == []
        assert live.leaks() == [A]

    def test_an_all_zero_leak_takes_two_sightings_too(self):
        live = Live(checksums=True)
        live.alloc(A)
        assert live.leaks() == []
        assert live.leaks() == [A]

    def test_strict_kernel_reports_an_all_zero_leak_on_its_first_scan(self):
        live = strict(checksums=True)
        live.alloc(A)
        assert live.leaks() == [A]

    def test_strict_kernel_takes_two_sightings_for_others(self):
        live = strict(checksums=True)
        live.alloc(A)
        live.put(A, 1)
        assert live.leaks() == []
        assert live.leaks() == [A]

    def test_an_object_that_keeps_changing_is_not_reported(self):
        live = Live(checksums=True)
        live.alloc(A)
        for i in range(4):
            assert live.put(A, i).leaks() == []
        assert live.leaks() == [A]

    def test_a_sighting_counts_from_the_last_one_without_references(self):
        live = Live(checksums=True)
        live.alloc(A)
        assert live.leaks() == []
        assert live.put(ROOT, A).leaks() == []
        assert live.put(ROOT, 0).leaks() == [A]

    def test_the_whole_object_counts_in_spite_of_scan_areas(self):
        live = Live(checksums=True)
        live.alloc(A)
        live.detector.scan_area(A, 8)
        assert live.leaks() == []
        assert live.put(A + 24, 1).leaks() == []
        assert live.leaks() == [A]

    def test_an_object_taken_as_held_shields_what_it_refers_to(self):
        live = Live(checksums=True)
        live.alloc(A)
        live.alloc(B)
        live.put(A, B)
        assert live.leaks() == []
        assert live.leaks() == [A, B]
        # B is unchanged, but A on its way somewhere would hold it.
        assert live.put(A + 8, 1).leaks() == []

    def test_all_are_compared_before_any_is_followed(self):
        live = Live(checksums=True)
        live.alloc(A)
        live.alloc(B)
        live.put(A, B).detector.scan()
        live.put(A + 8, 1).put(B, 1).detector.scan()
        assert live.leaks() == [A, B]

    def test_transient_leak_makes_the_next_sighting_the_first(self):
        live = Live(checksums=True)
        live.alloc(A)
        live.put(A, 1).detector.scan()
        live.detector.transient_leak(A)
        assert live.leaks() == []
        assert live.leaks() == [A]

    def test_the_checksum_is_the_kernels(self):
        live = Live(checksums=True)
        live.alloc(A, 9)
        live.fill(A, b"123456789")
        live.detector.scan()
        # CRC-32 with neither its usual first value nor its final inversion.
        assert live.detector.find(A).checksum == 0x2DFD2D88


class TestSticky:
    def test_a_reported_object_is_new_only_once(self, live):
        live.alloc(A)
        assert [live.detector.scan().new_leaks for _ in range(3)] == [1, 0, 0]

    def test_it_vanishes_when_it_is_referenced_and_reappears_when_not(self, live):
        live.alloc(A)
        assert live.leaks() == [A]
        assert live.put(ROOT, A).leaks() == []
        assert live.put(ROOT, 0).leaks() == [A]

    def test_it_is_not_new_when_it_reappears(self, live):
        live.alloc(A)
        live.detector.scan()
        live.put(ROOT, A).detector.scan()
        assert live.put(ROOT, 0).detector.scan().new_leaks == 0

    def test_listeners_hear_of_new_leaks_in_allocation_order(self, live):
        heard = []
        live.detector.on_new_leaks(lambda leaks: heard.append([o.address for o in leaks]))
        for block in (C, A, B):
            live.alloc(block)
        live.detector.scan()
        live.detector.scan()
        assert heard == [[C, A, B]]

    def test_reading_does_not_scan(self, live):
        live.alloc(A)
        assert live.detector.read() == ""
        live.detector.scan()
        assert live.detector.read().startswith(f"unreferenced object 0x{A:08x} (size 32):\n")


class TestClear:
    @pytest.mark.parametrize("make", [Live, strict])
    def test_what_it_painted_is_not_reported_again(self, make):
        live = make()
        live.alloc(A)
        live.detector.scan()
        assert live.detector.clear() == 1
        assert live.leaks() == []

    @pytest.mark.parametrize("make", [Live, strict])
    def test_what_the_painted_object_refers_to_is_hidden(self, make):
        live = make()
        live.alloc(A)
        live.detector.scan()
        live.detector.clear()
        live.alloc(B)
        assert live.put(A, B).leaks() == []

    def test_new_leaks_still_come(self, live):
        live.alloc(A)
        live.detector.scan()
        live.detector.clear()
        live.alloc(B)
        assert live.leaks() == [B]

    def test_a_reported_object_that_is_referenced_now_is_left_alone(self, live):
        live.alloc(A)
        live.detector.scan()
        live.put(ROOT, A).detector.scan()
        assert live.detector.clear() == 0
        assert live.put(ROOT, 0).leaks() == [A]

    def test_it_covers_only_reported_objects(self, clock):
        live = Live(min_age=1)
        live.alloc(A)
        live.detector.scan()
        assert live.detector.clear() == 0
        clock.now += 2
        assert live.leaks() == [A]

    def test_clear_all_covers_every_unreferenced_object(self, clock):
        live = Live(min_age=1)
        live.alloc(A)
        live.detector.scan()
        assert live.detector.clear_all() == 1
        clock.now += 2
        assert live.leaks() == []

    def test_clear_all_leaves_objects_alone_that_no_scan_has_looked_at(self, live):
        live.alloc(A)
        assert live.detector.clear_all() == 0
        live.detector.scan()
        live.alloc(B)
        assert live.detector.clear_all() == 1
        assert live.leaks() == [B]

    def test_after_disable_it_forgets_what_was_kept_for_reading(self, live):
        live.alloc(A)
        live.detector.scan()
        live.detector.disable()
        assert f"{A:08x}" in live.detector.read()
        live.detector.clear()
        assert len(live.detector) == 0
        assert live.detector.read() == ""


class TestDisable:
    def test_is_for_good(self, live):
        live.detector.disable("enough")
        with pytest.raises(DetectorDisabledError, match="enough"):
            live.detector.scan()

    def test_nothing_is_tracked_any_more(self, live):
        live.detector.disable()
        live.alloc(A)
        assert len(live.detector) == 0

    def test_all_is_forgotten_at_once_if_nothing_was_found_since_clear(self, live):
        live.alloc(A)
        live.detector.scan()
        live.detector.clear()
        live.detector.disable()
        assert len(live.detector) == 0


class TestInterruption:
    def test_an_interrupted_scan_says_so_and_reports_nothing_new(self, live):
        live.alloc(A)
        counters = live.detector.scan(After(0))
        assert (counters.interrupted, counters.new_leaks) == (True, 0)
        assert live.detector.unreferenced() == []

    def test_the_next_scan_reports_it(self, live):
        live.alloc(A)
        live.detector.scan(After(0))
        assert live.leaks() == [A]

    def test_what_was_reported_before_stays(self, live):
        live.alloc(A)
        live.detector.scan()
        live.put(ROOT, A).detector.scan(After(0))
        assert [leak.address for leak in live.detector.unreferenced()] == [A]

    @pytest.mark.parametrize("questions", range(1, 6))
    def test_at_any_moment(self, questions):
        live = Live(checksums=True, confirm=True)
        live.alloc(A)
        live.detector.scan()
        counters = live.detector.scan(After(questions))
        assert counters.new_leaks == (0 if counters.interrupted else 1)
        assert live.leaks() == [A]


class TestSecondLooks:
    """What the kernel of 2026 does against reports of pointers that are on the move."""

    def test_an_object_is_reported_after_so_many_consecutive_scans(self):
        live = Live(min_unref_scans=3)
        live.alloc(A)
        assert [live.leaks() for _ in range(3)] == [[], [], [A]]

    def test_a_reference_in_between_begins_the_count_anew(self):
        live = Live(min_unref_scans=2)
        live.alloc(A)
        assert live.leaks() == []
        assert live.put(ROOT, A).leaks() == []
        assert live.put(ROOT, 0).leaks() == []
        assert live.leaks() == [A]

    def moving(self, live):
        """Have a reference to A appear between the two readings of one scan."""
        calls = []

        def move():
            calls.append(None)
            if len(calls) == 2:
                live.put(ROOT, A)
            return (), ()

        live.detector.add_roots_callback(move)
        return live

    def test_only_what_is_unreferenced_in_both_readings_is_reported(self):
        live = self.moving(Live(confirm=True))
        live.alloc(A)
        live.alloc(B)
        assert live.leaks() == [B]

    def test_strict_kernel_reads_once(self):
        live = strict(confirm=None)
        live.alloc(A)
        assert live.detector.scan().rounds == 1

    def test_without_suspects_memory_is_read_once(self):
        live = Live(confirm=True)
        live.alloc(A)
        assert live.put(ROOT, A).detector.scan().rounds == 1

    def test_what_is_allocated_while_it_scans_is_not_reported_by_it(self, live):
        def allocate():
            if live.detector.find(BASE + 0x900) is None:
                live.alloc(BASE + 0x900)
            return (), ()

        live.detector.add_roots_callback(allocate)
        assert live.leaks() == []
        assert live.leaks() == [BASE + 0x900]

    def test_what_is_freed_while_it_scans_is_not_reported_by_it(self, live):
        def free():
            if live.detector.find(A) is not None:
                live.detector.free(A)
            return (), ()

        live.detector.add_roots_callback(free)
        live.alloc(A)
        assert live.detector.scan().new_leaks == 0
        assert live.detector.unreferenced() == []
