"""What is left of an object of which a part is freed."""

from __future__ import annotations

import pytest

from kmemleak_core import detector as detector_module
from kmemleak_core import lifecycle
from kmemleak_core.errors import UnknownObjectError

from .rig import ROOT, A, B, C, Clock, Live, strict


@pytest.fixture
def live():
    return Live()


def objects(live, low=A, high=A + 64):
    """List the objects of a range as (start, size)."""
    found = (live.detector.find(address) for address in range(low, high))
    return sorted({(o.address, o.size) for o in found if o is not None})


@pytest.mark.parametrize(
    ("ptr", "size", "left"),
    [
        (A, 16, [(A + 16, 48)]),
        (A + 48, 16, [(A, 48)]),
        (A + 16, 16, [(A, 16), (A + 32, 32)]),
        (A, 64, []),
        (A + 32, 1000, [(A, 32)]),
        (A, 0, [(A, 64)]),
        (A + 16, 0, [(A, 16), (A + 16, 48)]),
    ],
    ids=["head", "tail", "middle", "all", "beyond the end", "nothing", "nothing in the middle"],
)
@pytest.mark.parametrize("make", [Live, strict], ids=["default", "strict"])
def test_what_is_left_are_objects(make, ptr, size, left):
    live = make()
    live.alloc(A, 64)
    live.detector.free_part(ptr, size)
    assert objects(live) == left
    assert len(live.detector) == len(left)


def test_an_empty_object_survives_the_release_of_nothing(live):
    live.alloc(A, 0)
    live.detector.free_part(A, 0)
    assert objects(live) == [(A, 0)]


def test_leftovers_are_leaks_each_by_itself(live):
    live.alloc(A, 64)
    live.detector.free_part(A + 16, 16)
    assert live.put(ROOT, A).leaks() == [A + 32]


def test_leftovers_want_as_many_references(live):
    live.alloc(A, 64, min_count=2)
    live.detector.free_part(A, 16)
    assert live.put(ROOT, A + 16).leaks() == [A + 16]


def test_the_freed_part_can_be_allocated_anew(live):
    live.alloc(A, 64)
    live.detector.free_part(A + 16, 16)
    live.alloc(A + 16, 16)
    assert len(live.detector) == 3


def test_of_an_unknown_address_is_an_error(live):
    with pytest.raises(UnknownObjectError):
        live.detector.free_part(A, 8)


class TestWhatLeftoversKeep:
    def test_their_backtrace_and_task(self, live):
        live.alloc(A, 64, backtrace=("maker",), pid=7, comm="cc1")
        live.detector.free_part(A, 16)
        left = live.detector.find(A + 16)
        assert (left.backtrace, left.pid, left.comm) == (("maker",), 7, "cc1")

    def test_not_so_with_strict_kernel(self):
        live = strict()
        live.alloc(A, 64, backtrace=("maker",))
        live.detector.free_part(A, 16)
        assert live.detector.find(A + 16).backtrace == ()

    @pytest.mark.parametrize(("make", "age"), [(Live, 10), (strict, 0)])
    def test_their_age_but_not_with_strict_kernel(self, monkeypatch, make, age):
        clock = Clock()
        for module in (lifecycle, detector_module):
            monkeypatch.setattr(module, "time", clock)
        live = make()
        live.alloc(A, 64)
        clock.now += 10
        live.detector.free_part(A, 16)
        assert live.detector.find(A + 16).age == pytest.approx(age)

    @pytest.mark.parametrize(("make", "leaks"), [(Live, [C]), (strict, [])])
    def test_their_scan_areas_but_not_with_strict_kernel(self, make, leaks):
        live = make()
        live.alloc(A, 64, min_count=0)
        live.alloc(B)
        live.alloc(C)
        live.detector.scan_area(A + 32, 8)
        live.detector.free_part(A, 16)
        assert live.put(A + 32, B).put(A + 40, C).leaks() == leaks

    def test_the_part_of_a_scan_area_that_is_left(self, live):
        live.alloc(A, 64, min_count=0)
        live.alloc(B)
        live.alloc(C)
        live.detector.scan_area(A + 8, 24)
        live.detector.free_part(A, 16)
        assert live.put(A + 16, B).put(A + 32, C).leaks() == [C]

    def test_a_leftover_without_any_scan_area_is_not_scanned(self, live):
        live.alloc(A, 64, min_count=0)
        live.alloc(B)
        live.detector.scan_area(A, 8)
        live.detector.free_part(A + 8, 8)
        assert live.put(A + 16, B).leaks() == [B]

    @pytest.mark.parametrize(("make", "leaks"), [(Live, [B]), (strict, [])])
    def test_that_they_are_not_scanned_but_not_with_strict_kernel(self, make, leaks):
        live = make()
        live.alloc(A, 64, min_count=0)
        live.alloc(B)
        live.detector.no_scan(A)
        live.detector.free_part(A, 16)
        assert live.put(A + 32, B).leaks() == leaks

    def test_that_they_are_no_leaks(self, live):
        live.alloc(A, 64)
        live.detector.not_leak(A)
        live.detector.free_part(A, 16)
        assert live.leaks() == []
