"""What the kernel's documentation of kmemleak promises, sentence by sentence, of the detector."""

from __future__ import annotations

import pytest

from kmemleak_core.errors import ControlError
from kmemleak_core.scan import Colour

from .rig import ROOT, A, B, C, Live, registers


@pytest.fixture
def live():
    return Live()


class TestIntroduction:
    def test_orphan_objects_are_not_freed_but_only_reported(self, live):
        live.alloc(A)
        live.put(A, 0x1234)
        before = bytes(live.data)
        assert live.leaks() == [A]
        assert bytes(live.data) == before
        assert live.detector.find(A) is not None


class TestUsage:
    def test_a_scan_tells_the_number_of_new_unreferenced_objects(self, live):
        live.alloc(A)
        live.alloc(B)
        assert live.detector.scan().new_leaks == 2

    def test_the_automatic_scan_comes_every_ten_minutes_by_default(self, live):
        assert live.detector.scan_period == 600

    def test_reading_displays_the_details_of_all_leaks(self, live):
        live.alloc(A, backtrace=("inner", "outer"), pid=7, comm="cc1")
        live.fill(A, b"hello")
        live.detector.control("scan")
        text = live.detector.read()
        assert f"0x{A:08x} (size 32)" in text
        assert 'comm "cc1", pid 7' in text
        assert "68 65 6c 6c 6f" in text
        assert text.index("inner") < text.index("outer")

    def test_clear_clears_the_list_of_all_current_leaks(self, live):
        live.alloc(A)
        live.detector.control("scan")
        live.detector.control("clear")
        assert live.detector.read() == ""

    def test_new_leaks_come_up_upon_reading_after_clear(self, live):
        live.alloc(A)
        live.detector.control("scan")
        live.detector.control("clear")
        live.alloc(B)
        live.detector.control("scan")
        assert live.detector.read().count("unreferenced object") == 1

    def test_orphans_are_listed_in_the_order_they_were_allocated(self, live):
        for block in (B, C, A):
            live.alloc(block)
        assert live.leaks() == [B, C, A]

    def test_one_object_may_cause_others_to_be_reported(self, live):
        for block in (A, B, C):
            live.alloc(block)
        live.put(A, B).put(B, C)
        assert live.leaks() == [A, B, C]
        assert live.put(ROOT, A).leaks() == []

    def test_off_is_irreversible(self, live):
        live.detector.control("off")
        for command in ("scan", "scan=on", "stack=on"):
            with pytest.raises(ControlError):
                live.detector.control(command)
        assert not live.detector.enabled

    def test_stack_off_disables_the_scanning_of_stacks(self, live):
        live.alloc(A)
        live.detector.add_stack(B, 64)
        live.put(B, A)
        assert live.leaks() == []
        live.detector.control("stack=off")
        assert live.leaks() == [A]
        live.detector.control("stack=on")
        assert live.leaks() == []

    def test_dump_tells_about_the_object_found_at_an_address(self, live):
        live.alloc(A)
        assert f"0x{A:08x}" in live.detector.control(f"dump={A:#x}")

    def test_what_happens_before_the_start_is_kept_in_an_early_log(self):
        live = Live(early_log=4)
        live.alloc(A)
        live.alloc(B)
        live.detector.free(A)
        live.detector.start()
        assert live.leaks() == [B]


class TestBasicAlgorithm:
    def test_pointer_size_and_trace_of_an_allocation_are_stored(self, live):
        live.alloc(A, 48, backtrace=(0x1234,))
        found = live.detector.find(A)
        assert (found.address, found.size, found.backtrace) == (A, 48, (0x1234,))

    def test_a_freed_pointer_is_removed(self, live):
        live.alloc(A)
        live.detector.free(A)
        assert live.detector.find(A) is None

    @pytest.mark.parametrize("offset", [0, 31])
    def test_a_pointer_to_the_start_or_any_location_inside_keeps_a_block(self, live, offset):
        live.alloc(A)
        assert live.put(ROOT, A + offset).leaks() == []

    def test_saved_registers_are_scanned(self, live):
        live.alloc(A)
        live.detector.add_roots_callback(registers(A))
        assert live.leaks() == []

    def test_all_objects_are_white_at_first_and_gray_when_found(self, live):
        live.alloc(A)
        live.put(ROOT, A)
        assert live.detector.find(A).colour is Colour.WHITE
        live.detector.scan()
        assert live.detector.find(A).colour is Colour.GRAY

    def test_gray_objects_are_scanned_until_none_is_left(self, live):
        chain = [A + 32 * i for i in range(20)]
        for block, following in zip(chain, [*chain[1:], 0], strict=True):
            live.alloc(block)
            live.put(block, following)
        assert live.put(ROOT, A).leaks() == []

    def test_a_block_can_want_a_number_of_values_that_point_to_it(self, live):
        live.alloc(A, min_count=2)
        assert live.put(ROOT, A).leaks() == [A]
        assert live.put(ROOT + 8, A).leaks() == []


class TestSpecificSections:
    def test_clear_then_scan_finds_only_the_leaks_of_the_section(self, live):
        live.alloc(A)
        live.detector.control("scan")
        live.detector.control("clear")
        live.alloc(B)
        live.alloc(C)
        live.put(ROOT, C).detector.control("scan")
        assert [leak.address for leak in live.detector.unreferenced()] == [B]


class TestFalseNegatives:
    """Four calls take away values that point to leaks by chance."""

    @pytest.mark.parametrize(
        "hide",
        [
            lambda d: d.ignore(A),
            lambda d: d.scan_area(A + 16, 8),
            lambda d: d.no_scan(A),
            lambda d: d.erase(A),
        ],
        ids=["ignore", "scan_area", "no_scan", "erase"],
    )
    def test_they_are_fewer_with(self, live, hide):
        live.alloc(A)
        live.alloc(B)
        assert live.put(ROOT, A).put(A, B).leaks() == []
        hide(live.detector)
        assert live.leaks() == [B]


class TestFalsePositives:
    def test_not_leak_is_for_objects_known_not_to_be_leaks(self, live):
        live.alloc(A)
        live.detector.not_leak(A)
        assert live.leaks() == []

    def test_ignore_is_for_those_that_hold_no_pointers_either(self, live):
        live.alloc(A)
        live.alloc(B)
        live.put(A, B).detector.ignore(A)
        assert live.leaks() == [B]

    def test_the_minimum_age_is_a_second_by_default(self):
        assert Live(min_age=None).detector.min_age == 1

    def test_a_younger_object_is_not_reported(self):
        live = Live(min_age=3600)
        live.alloc(A)
        assert live.leaks() == []


class TestLimitations:
    def test_a_value_that_is_no_pointer_hides_a_leak(self, live):
        live.alloc(A)
        assert live.put(ROOT, A + 5).leaks() == []

    def test_a_pointer_in_memory_that_is_not_scanned_is_a_false_positive(self, live):
        live.alloc(A)
        assert live.put(B, A).leaks() == [A]

    def test_a_pointer_that_is_calculated_otherwise_is_a_false_positive(self, live):
        live.alloc(A)
        assert live.put(ROOT, A ^ 0xFFFF).leaks() == [A]
