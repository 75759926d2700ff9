"""Objects that words do not name by their virtual address: per-CPU and physical ones."""

from __future__ import annotations

import pytest

import kmemleak_core as km
from kmemleak_core import detector as detector_module
from kmemleak_core import lifecycle
from kmemleak_core.errors import AliasError

from .rig import BASE, ROOT, A, B, C, Clock, Live, strict

PTR = 0x500
#: Copies of the per-CPU block at PTR lie at B and C.
OFFSETS = (B - PTR, C - PTR)


class TestPerCpu:
    @pytest.fixture
    def live(self):
        live = Live()
        live.detector.alloc_percpu(PTR, 32, OFFSETS)
        return live

    def test_a_block_without_references_is_a_leak(self, live):
        assert live.leaks() == [PTR]
        assert live.detector.unreferenced()[0].space == "percpu"

    @pytest.mark.parametrize("offset", [0, 8, 31])
    def test_a_word_that_equals_a_per_cpu_pointer_holds_it(self, live, offset):
        assert live.put(ROOT, PTR + offset).leaks() == []

    def test_the_address_of_a_copy_does_not_hold_it(self, live):
        assert live.put(ROOT, B).leaks() == [PTR]

    @pytest.mark.parametrize("copy", [B, C])
    def test_the_content_of_every_copy_is_scanned(self, live, copy):
        live.alloc(A)
        assert live.put(ROOT, PTR).put(copy + 8, A).leaks() == []

    def test_words_of_all_copies_count(self, live):
        live.alloc(A, min_count=2)
        assert live.put(ROOT, PTR).put(B, A).put(C, A).leaks() == []

    def test_its_own_pointer_in_its_content_does_not_hold_it(self, live):
        assert live.put(B, PTR).leaks() == [PTR]

    def test_a_leaked_block_holds_nothing(self, live):
        live.alloc(A)
        assert sorted(live.put(B, A).leaks()) == [PTR, A]

    def test_it_is_listed_in_the_order_of_allocation(self, monkeypatch):
        clock = Clock()
        for module in (lifecycle, detector_module):
            monkeypatch.setattr(module, "time", clock)
        live = Live()
        live.alloc(B)
        clock.now += 1
        live.detector.alloc_percpu(PTR, 32, OFFSETS)
        clock.now += 1
        live.alloc(A)
        assert live.leaks() == [B, PTR, A]

    def test_ignore_percpu_neither_reports_nor_scans(self, live):
        live.alloc(A)
        live.detector.ignore_percpu(PTR)
        assert live.put(ROOT, PTR).put(B, A).leaks() == [A]

    def test_a_freed_block_is_forgotten(self, live):
        live.detector.free_percpu(PTR)
        assert live.leaks() == []

    def test_freeing_its_inside_is_an_error(self, live):
        with pytest.raises(AliasError):
            live.detector.free_percpu(PTR + 8)

    def test_an_overlapping_block_is_an_error(self, live):
        with pytest.raises(km.OverlapError):
            live.detector.alloc_percpu(PTR + 8, 32, OFFSETS)

    def test_its_copies_outlast_the_release_of_virtual_objects(self, live):
        live.alloc(BASE + 0x900)
        live.detector.free(BASE + 0x900)
        live.alloc(A)
        assert live.put(ROOT, PTR).put(B, A).leaks() == []

    def test_a_held_block_does_not_hide_a_leaked_object_in_the_second_pass(self):
        live = Live(confirm=True)
        live.alloc(A)
        live.detector.alloc_percpu(PTR, 32, OFFSETS)
        assert live.put(ROOT, PTR).leaks() == [A]

    def test_a_held_object_does_not_hide_a_leaked_block_in_the_second_pass(self):
        live = Live(confirm=True)
        live.alloc(A)
        live.detector.alloc_percpu(PTR, 32, OFFSETS)
        assert live.put(ROOT, A).leaks() == [PTR]

    def test_clear_covers_it(self, live):
        assert live.leaks() == [PTR]
        assert live.detector.clear() == 1
        assert live.leaks() == []

    @pytest.mark.parametrize("make", [Live, strict])
    def test_a_change_in_any_copy_puts_the_report_off(self, make):
        live = make(checksums=True)
        live.detector.alloc_percpu(PTR, 32, OFFSETS)
        for copy in (B, C):
            live.put(copy, 1 + copy)
            assert live.leaks() == []
        assert live.leaks() == [PTR]

    def test_equal_copies_are_no_empty_checksum(self):
        live = Live(checksums=True)
        live.detector.alloc_percpu(PTR, 32, OFFSETS)
        live.put(B, 5).put(C, 5).detector.scan()
        assert live.detector.find(PTR).checksum != 0

    def test_strict_kernel_xors_the_checksums_of_the_copies(self):
        live = strict(checksums=True)
        live.detector.alloc_percpu(PTR, 32, OFFSETS)
        assert live.put(B, 5).put(C, 5).leaks() == [PTR]


class TestPhysical:
    @pytest.fixture
    def live(self):
        live = Live(physical_offset=BASE, physical_bounds=(0, 0x1000))
        live.detector.alloc_phys(A - BASE, 32)
        return live

    def test_it_is_never_a_leak(self, live):
        assert live.leaks() == []

    def test_its_content_is_scanned(self, live):
        live.alloc(B)
        assert live.put(A, B).leaks() == []

    def test_no_word_is_counted_for_it(self, live):
        live.put(ROOT, A).put(ROOT + 8, A - BASE).detector.scan()
        assert live.detector.find(A - BASE).count == 0

    def test_a_virtual_object_at_the_same_number_is_another_one(self, live):
        live.alloc(A - BASE)
        assert live.leaks() == [A - BASE]

    def test_ignore_phys_keeps_it_from_being_scanned(self, live):
        live.alloc(B)
        live.detector.ignore_phys(A - BASE)
        assert live.put(A, B).leaks() == [B]

    def test_outside_the_bounds_it_is_not_scanned(self):
        live = Live(physical_offset=BASE, physical_bounds=(0, 0x100))
        live.detector.alloc_phys(A - BASE, 32)
        live.alloc(B)
        assert live.put(A, B).leaks() == [B]

    def test_what_is_freed_of_it_is_not_scanned(self, live):
        live.alloc(B)
        live.alloc(C)
        live.detector.free_part_phys(A - BASE, 16)
        assert live.put(A, B).put(A + 16, C).leaks() == [B]
