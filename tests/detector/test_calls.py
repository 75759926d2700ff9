"""What each call of the API does to the objects: creation, release, colours."""

from __future__ import annotations

import time

import pytest

import kmemleak_core as km
from kmemleak_core.errors import AliasError, DetectorDisabledError, UnknownObjectError
from kmemleak_core.lifecycle import LAST_ADDRESS
from kmemleak_core.scan import Colour

from .rig import BASE, ROOT, A, B, C, D, Live, strict


@pytest.fixture
def live():
    return Live()


class TestAlloc:
    @pytest.mark.parametrize("ptr", [0, LAST_ADDRESS, (1 << 64) - 1])
    def test_null_and_error_pointers_are_ignored(self, live, ptr):
        live.alloc(ptr)
        assert len(live.detector) == 0

    @pytest.mark.parametrize("ptr", [0, LAST_ADDRESS, (1 << 64) - 1])
    @pytest.mark.parametrize(
        "call", ["free", "not_leak", "ignore", "unignore", "no_scan", "scan_area", "free_percpu"]
    )
    def test_null_and_error_pointers_are_ignored_by_all_other_calls(self, live, call, ptr):
        getattr(live.detector, call)(ptr)
        assert live.anomalies() == set()

    def test_a_null_per_cpu_pointer_is_ignored(self, live):
        live.detector.alloc_percpu(0, 16, (BASE,))
        assert len(live.detector) == 0

    def test_an_object_is_white_at_once(self, live):
        live.alloc(A)
        assert live.detector.find(A).colour is Colour.WHITE

    def test_the_cache_that_is_not_tracked_is_not_tracked(self, live):
        live.detector.alloc_recursive(A, 32, 1, flags=0x800000)
        assert len(live.detector) == 0
        live.detector.free_recursive(A, flags=0x800000)

    def test_an_ordinary_cache_is_tracked(self, live):
        live.detector.alloc_recursive(A, 32)
        assert live.leaks() == [A]
        live.detector.free_recursive(A)
        assert len(live.detector) == 0

    @pytest.mark.parametrize("call", ["alloc", "alloc_recursive", "vmalloc", "alloc_percpu"])
    def test_the_backtrace_begins_with_the_caller(self, call):
        live = Live(backtraces=True)
        live.alloc(B, backtrace=("other",))
        arguments = {"vmalloc": (B, A, 32), "alloc_percpu": (A, 32, (0,))}.get(call, (A, 32))
        getattr(live.detector, call)(*arguments)
        code, _ = live.detector.find(A).backtrace[0]
        assert code.co_name == "test_the_backtrace_begins_with_the_caller"

    def test_it_keeps_sixteen_frames(self, live):
        live.alloc(A, backtrace=tuple(range(1, 40)))
        assert live.detector.find(A).backtrace == tuple(range(1, 17))

    def test_update_trace_replaces_the_trace_of_the_object_around(self, live):
        live.alloc(A, backtrace=("first",))
        live.detector.update_trace(A + 8, ("second",))
        assert live.detector.find(A).backtrace == ("second",)


class TestOverlap:
    @pytest.mark.parametrize(
        ("ptr", "size"), [(A, 32), (A - 8, 16), (A + 8, 8), (A + 31, 32), (A - 8, 64)]
    )
    def test_it_is_an_error_that_names_both_objects(self, live, ptr, size):
        live.alloc(A)
        with pytest.raises(km.OverlapError, match=f"{A:#x}.*") as caught:
            live.alloc(ptr, size)
        assert f"{ptr:#x}" in str(caught.value)

    def test_tracking_goes_on_after_it(self, live):
        live.alloc(A)
        with pytest.raises(km.OverlapError):
            live.alloc(A + 8)
        live.alloc(B)
        assert live.detector.enabled
        assert live.leaks() == [A, B]

    def test_it_can_be_counted_instead(self):
        live = Live(on_misuse="count")
        live.alloc(A)
        live.alloc(A + 8)
        assert live.anomalies() == {"objects.overlap"}
        assert live.detector.enabled

    def test_strict_kernel_disables_the_detector_for_good(self):
        live = strict()
        live.alloc(A)
        live.alloc(A + 8)
        assert not live.detector.enabled
        assert f"{A:#x}" in live.detector.disable_reason
        with pytest.raises(DetectorDisabledError):
            live.detector.scan()

    def test_neighbours_do_not_overlap(self, live):
        live.alloc(A, 32)
        live.alloc(A + 32, 32)
        live.alloc(A - 32, 32)
        assert len(live.detector) == 3

    def test_objects_of_different_spaces_do_not_overlap(self, live):
        live.alloc(A)
        live.detector.alloc_phys(A, 32)
        live.detector.alloc_percpu(A, 32, (0,))
        assert len(live.detector) == 3


class TestEmptyObjects:
    def test_they_can_be_found_and_freed(self, live):
        live.alloc(A, 0)
        assert live.detector.find(A).size == 0
        live.detector.free(A)
        assert len(live.detector) == 0

    def test_strict_kernel_never_finds_them_again(self):
        live = strict()
        live.alloc(A, 0)
        live.detector.free(A)
        assert len(live.detector) == 1
        assert live.anomalies() == {"free.unknown"}

    def test_strict_kernel_still_sees_that_others_overlap_them(self):
        live = strict()
        live.alloc(A, 0)
        live.alloc(A, 8)
        assert not live.detector.enabled


class TestFree:
    def test_a_freed_object_is_no_leak(self, live):
        live.alloc(A)
        assert live.leaks() == [A]
        live.detector.free(A)
        assert live.leaks() == []

    def test_by_alias_is_an_error_and_keeps_the_object(self, live):
        live.alloc(A)
        with pytest.raises(AliasError, match=f"{A:#x}"):
            live.detector.free(A + 8)
        assert live.leaks() == [A]

    def test_of_an_unknown_address_is_an_error(self, live):
        with pytest.raises(UnknownObjectError):
            live.detector.free(A)

    def test_twice_is_an_error(self, live):
        live.alloc(A)
        live.detector.free(A)
        with pytest.raises(UnknownObjectError):
            live.detector.free(A)

    @pytest.mark.parametrize("make", [strict, lambda: Live(on_misuse="count")])
    def test_misuse_can_be_counted_and_tracking_goes_on(self, make):
        live = make()
        live.alloc(A)
        live.detector.free(A + 8)
        live.detector.free(B)
        assert live.anomalies() == {"free.alias", "free.unknown"}
        assert live.leaks() == [A]

    def test_a_disabled_detector_says_nothing_about_objects_that_it_forgot(self, live):
        live.alloc(A)
        live.detector.alloc_percpu(A, 16, (0,))
        live.detector.disable()
        live.detector.free(A)
        live.detector.free_part(A, 8)
        live.detector.free_percpu(A)
        live.detector.update_trace(A)
        live.detector.not_leak(A)
        assert live.anomalies() == set()


class TestColours:
    def test_not_leak_is_not_reported_and_scanned(self, live):
        live.alloc(A)
        live.alloc(B)
        live.put(A, B).detector.not_leak(A)
        assert live.leaks() == []

    def test_ignore_is_neither_reported_nor_scanned(self, live):
        live.alloc(A)
        live.alloc(B)
        live.put(A, B).detector.ignore(A)
        assert live.leaks() == [B]

    def test_not_leak_after_ignore_scans_again(self, live):
        live.alloc(A)
        live.alloc(B)
        live.put(A, B).detector.ignore(A)
        live.detector.not_leak(A)
        assert live.leaks() == []

    def test_strict_kernel_does_not_scan_after_ignore_and_not_leak(self):
        live = strict()
        live.alloc(A)
        live.alloc(B)
        live.put(A, B).detector.ignore(A)
        live.detector.not_leak(A)
        assert live.leaks() == [B]

    def test_unignore_makes_it_a_leak_again(self, live):
        live.alloc(A)
        live.detector.ignore(A)
        assert live.leaks() == []
        live.detector.unignore(A)
        assert live.leaks() == [A]

    def test_unignore_makes_it_scanned_again(self, live):
        live.alloc(A)
        live.alloc(B)
        live.detector.ignore(A)
        live.detector.unignore(A)
        assert live.put(ROOT, A).put(A, B).leaks() == []

    def test_unignore_says_how_many_references_are_wanted(self, live):
        live.alloc(A)
        live.detector.ignore(A)
        live.detector.unignore(A, 2)
        assert live.put(ROOT, A).leaks() == [A]

    def test_no_scan_hides_what_the_content_refers_to(self, live):
        live.alloc(A)
        live.alloc(B)
        live.detector.no_scan(A)
        assert live.put(ROOT, A).put(A, B).leaks() == [B]

    def test_no_scan_needs_references_all_the_same(self, live):
        live.alloc(A)
        live.detector.no_scan(A)
        assert live.leaks() == [A]

    def test_no_scan_outlasts_not_leak(self, live):
        live.alloc(A)
        live.alloc(B)
        live.detector.no_scan(A)
        live.put(A, B).detector.not_leak(A)
        assert live.leaks() == [B]

    @pytest.mark.parametrize("call", ["not_leak", "ignore", "no_scan", "unignore"])
    def test_only_the_exact_start_names_an_object(self, live, call):
        live.alloc(A)
        with pytest.raises(AliasError):
            getattr(live.detector, call)(A + 8)
        with pytest.raises(UnknownObjectError):
            getattr(live.detector, call)(D)

    def test_a_block_allocated_black_can_be_painted_grey_and_is_scanned(self):
        live = strict()
        live.alloc(A, min_count=-1)
        live.alloc(B)
        live.put(A, B).detector.not_leak(A)
        assert live.leaks() == []

    def test_erase_clears_a_variable_that_held_an_object(self, live):
        live.alloc(A)
        assert live.put(ROOT, A).leaks() == []
        live.detector.erase(ROOT)
        assert live.leaks() == [A]


class TestEarlyLog:
    def test_calls_before_the_start_are_replayed(self):
        live = Live(early_log=10)
        live.alloc(A)
        live.alloc(B)
        live.alloc(C)
        live.detector.free(A)
        live.detector.not_leak(B)
        assert len(live.detector) == 0
        live.detector.start()
        assert live.leaks() == [C]

    def test_early_objects_have_no_trace_but_the_task_that_was_told(self):
        live = Live(early_log=10, backtraces=True)
        live.alloc(A, pid=7, comm="early")
        live.detector.start()
        found = live.detector.find(A)
        assert (found.pid, found.comm, found.backtrace) == (7, "early", ())

    def test_an_early_update_of_a_trace_is_no_error(self):
        live = Live(early_log=10)
        live.alloc(A)
        live.detector.update_trace(A, ("better",))
        live.detector.start()
        assert live.detector.find(A).backtrace == ("better",)

    def test_an_overflow_disables_for_good_and_tells_the_needed_count(self):
        live = Live(early_log=2)
        for i in range(5):
            live.alloc(A + 64 * i)
        with pytest.raises(DetectorDisabledError, match="5"):
            live.detector.start()
        assert not live.detector.enabled
        live.detector.free(A)


def test_tracking_goes_on_after_198_days(monkeypatch):
    detector = km.Kmemleak(km.MemoryImage.from_segments([(0x1000, bytearray(4096))]), min_age=0)
    later = time.monotonic() + 400 * 86400
    monkeypatch.setattr("kmemleak_core.lifecycle.time.monotonic", lambda: later)
    detector.alloc(0x1000, 64)
    assert detector.find(0x1000).jiffies == 2**32 - 1


def test_an_absurd_size_is_scanned_in_bounded_memory():
    image = km.MemoryImage.from_segments([(0x1000, bytearray(4096))])
    detector = km.Kmemleak(image, min_age=0, checksums=False)
    detector.alloc(0x1000, 1 << 60)
    assert detector.scan().new_leaks == 1


def test_notes_of_misuse_stay_bounded(monkeypatch):
    monkeypatch.setattr("kmemleak_core.coverage.MOST_NOTES", 3)
    detector = km.Kmemleak(km.MemoryImage([]), on_misuse="count")
    for ptr in range(0x1000, 0x1010):
        detector.free(ptr)
    assert len(detector.anomalies) == 3
    assert sum(note.count for note in detector.anomalies) == 16


def test_a_scan_tells_how_far_it_is():
    image = km.MemoryImage.from_segments([(0x1000, bytearray(3 << 20))])
    detector = km.Kmemleak(image, confirm=False, checksums=False)
    for at in range(3):
        detector.alloc(0x1000 + (at << 20), 1 << 20)
    told = []
    detector.scan(progress=told.append)
    assert told == sorted(told)
    assert len(told) > 1
    assert told[-1] == 1
