"""Which words of live memory hold which objects: the scan's part of the contract."""

from __future__ import annotations

import pytest

from .rig import BASE, ROOT, A, B, C, D, Live, registers, stack, strict


@pytest.fixture
def live():
    return Live()


def test_an_object_that_no_word_refers_to_is_a_leak(live):
    live.alloc(A)
    assert live.leaks() == [A]


@pytest.mark.parametrize("offset", [0, 1, 16, 31])
def test_a_word_that_points_anywhere_inside_holds_the_object(live, offset):
    live.alloc(A)
    assert live.put(ROOT, A + offset).leaks() == []


@pytest.mark.parametrize("offset", [-1, 32])
def test_a_word_just_outside_does_not_hold_the_object(live, offset):
    live.alloc(A)
    assert live.put(ROOT, A + offset).leaks() == [A]


def test_one_past_the_end_belongs_to_the_neighbour(live):
    live.alloc(A)
    live.alloc(A + 32)
    assert live.put(ROOT, A + 32).leaks() == [A]


def test_a_word_at_no_multiple_of_the_word_size_is_not_seen(live):
    live.alloc(A)
    assert live.put(ROOT + 4, A).leaks() == [A]


def test_a_word_that_leaves_the_root_is_not_seen(live):
    live.alloc(A)
    assert live.put(ROOT + 0x100, A).leaks() == [A]


def test_an_object_does_not_hold_itself(live):
    live.alloc(A)
    assert live.put(A + 8, A).leaks() == [A]


def test_two_objects_that_refer_to_each_other_are_both_leaks(live):
    live.alloc(A)
    live.alloc(B)
    assert live.put(A, B).put(B, A).leaks() == [A, B]


def test_what_a_held_object_refers_to_is_held(live):
    for block in (A, B, C):
        live.alloc(block)
    assert live.put(ROOT, A).put(A, B).put(B, C).leaks() == []


def test_what_only_a_leak_refers_to_is_a_leak_too(live):
    live.alloc(A)
    live.alloc(B)
    assert live.put(A, B).leaks() == [A, B]


def test_leaks_come_in_the_order_of_allocation(live):
    for block in (C, A, D, B):
        live.alloc(block)
    assert live.leaks() == [C, A, D, B]


class TestMinCount:
    def test_one_word_does_not_satisfy_two(self, live):
        live.alloc(A, min_count=2)
        assert live.put(ROOT, A).leaks() == [A]

    def test_two_words_of_one_root_satisfy_two(self, live):
        live.alloc(A, min_count=2)
        assert live.put(ROOT, A).put(ROOT + 8, A + 8).leaks() == []

    def test_two_words_of_one_object_satisfy_two(self, live):
        live.alloc(A, min_count=2)
        live.alloc(B, min_count=0)
        assert live.put(B, A).put(B + 8, A).leaks() == []

    def test_an_object_short_of_references_is_not_scanned(self, live):
        live.alloc(A, min_count=2)
        live.alloc(B)
        assert live.put(ROOT, A).put(A, B).leaks() == [A, B]

    def test_the_count_stops_at_what_is_wanted(self, live):
        live.alloc(A)
        for i in range(5):
            live.put(ROOT + 8 * i, A)
        live.detector.scan()
        assert live.detector.find(A).count == 1

    def test_a_grey_object_is_a_root(self, live):
        live.alloc(A, min_count=0)
        live.alloc(B)
        assert live.put(A, B).leaks() == []

    def test_a_black_object_holds_nothing(self, live):
        live.alloc(A, min_count=-1)
        live.alloc(B)
        assert live.put(ROOT, A).put(A, B).leaks() == [B]


class TestSurplusReferences:
    """Of a block that two words must hold, one of them by way of the object describing it."""

    BLOCK, AREA = C, A

    @pytest.fixture
    def vmalloc(self, live):
        live.alloc(self.AREA)
        live.detector.vmalloc(self.AREA, self.BLOCK, 64)
        return live.put(self.AREA, self.BLOCK)

    def test_the_describing_objects_own_word_is_not_enough(self, vmalloc):
        assert vmalloc.put(ROOT, self.AREA).leaks() == [self.BLOCK]

    def test_a_word_to_the_block_itself_completes_it(self, vmalloc):
        assert vmalloc.put(ROOT, self.AREA).put(ROOT + 8, self.BLOCK).leaks() == []

    def test_a_second_word_to_the_describing_object_completes_it(self, vmalloc):
        assert vmalloc.put(ROOT, self.AREA).put(ROOT + 8, self.AREA + 8).leaks() == []

    def test_the_word_that_greys_the_describing_object_is_not_passed_on(self, live):
        live.alloc(self.AREA)
        live.detector.vmalloc(self.AREA, self.BLOCK, 64)
        assert live.put(ROOT, self.AREA).put(ROOT + 8, self.AREA).leaks() == [self.BLOCK]

    def test_words_inside_the_block_do_not_pass_references_to_it(self, vmalloc):
        vmalloc.alloc(B)
        vmalloc.put(ROOT, self.AREA).put(self.BLOCK, self.AREA)
        assert self.BLOCK in vmalloc.leaks()

    def test_they_end_with_the_describing_object(self, vmalloc):
        vmalloc.put(ROOT, self.AREA).put(ROOT + 8, self.AREA)
        vmalloc.detector.free(self.AREA)
        vmalloc.alloc(self.AREA)
        assert vmalloc.leaks() == [self.BLOCK]


class TestUnalignedObjects:
    """The kernel scans an object in blocks of 4096 bytes that begin at its start."""

    START = BASE + 0x404
    #: The only aligned word of which a part lies behind the object's 4096th byte.
    STRADDLING = START + 4096 - 4

    def scanned(self, live):
        live.alloc(self.START, 0x1100, min_count=0)
        live.alloc(BASE + 0x1800)
        return live.put(self.STRADDLING, BASE + 0x1800).leaks()

    def test_no_word_is_lost(self, live):
        assert self.scanned(live) == []

    def test_strict_kernel_loses_the_word_across_two_blocks(self):
        assert self.scanned(strict()) == [BASE + 0x1800]

    def test_strict_kernel_does_not_lose_it_in_a_scan_area(self):
        live = strict()
        live.alloc(BASE + 0x400, 0x1200, min_count=0)
        live.detector.scan_area(self.START, 0x1100)
        live.alloc(BASE + 0x1800)
        assert live.put(self.STRADDLING, BASE + 0x1800).leaks() == []

    def test_strict_kernel_loses_nothing_of_an_aligned_object(self):
        live = strict()
        live.alloc(BASE + 0x400, 0x1200, min_count=0)
        targets = [BASE + 0x1800 + 16 * i for i in range(3)]
        for i, target in enumerate(targets):
            live.alloc(target, 16)
            live.put(BASE + 0x1400 - 8 + 8 * i, target)
        assert live.leaks() == []


class TestScanAreas:
    @pytest.fixture
    def areas(self, live):
        live.alloc(A, 64, min_count=0)
        live.alloc(B)
        return live

    def test_only_they_are_scanned(self, areas):
        areas.detector.scan_area(A + 32, 16)
        assert areas.put(A, B).leaks() == [B]

    def test_they_are_scanned(self, areas):
        areas.detector.scan_area(A + 32, 16)
        assert areas.put(A + 40, B).leaks() == []

    def test_there_may_be_several(self, areas):
        areas.alloc(C)
        areas.detector.scan_area(A + 32, 8)
        areas.detector.scan_area(A, 8)
        assert areas.put(A, B).put(A + 32, C).leaks() == []

    def test_a_word_where_two_overlap_counts_twice(self, live):
        live.alloc(A, 64, min_count=0)
        live.alloc(B, min_count=2)
        live.put(A + 8, B)
        assert live.leaks() == [B]
        live.detector.scan_area(A, 16)
        live.detector.scan_area(A + 8, 16)
        assert live.leaks() == []

    def test_without_a_size_they_reach_the_objects_end(self, areas):
        areas.detector.scan_area(A + 8)
        assert areas.put(A + 56, B).leaks() == []

    def test_one_of_size_zero_is_ignored(self, areas):
        areas.detector.scan_area(A, 0)
        assert areas.put(A + 8, B).leaks() == []

    def test_one_beyond_the_end_is_dropped_and_told(self, areas):
        areas.detector.scan_area(A + 56, 16)
        assert areas.put(A, B).leaks() == []
        assert areas.anomalies() == {"objects.scan-area"}
        assert areas.detector.enabled

    def test_one_of_no_object_is_an_error(self, areas):
        with pytest.raises(Exception, match="scan_area"):
            areas.detector.scan_area(D, 8)

    def test_the_object_needs_references_all_the_same(self, live):
        live.alloc(A, 64)
        live.detector.scan_area(A, 8)
        assert live.leaks() == [A]

    def test_they_end_with_the_object(self, areas):
        areas.detector.scan_area(A + 32, 16)
        areas.detector.free(A)
        areas.alloc(A, 64, min_count=0)
        assert areas.put(A, B).leaks() == []

    def test_they_survive_the_end_of_a_physical_object(self, areas):
        areas.detector.scan_area(A + 32, 16)
        for phys in range(0x1000, 0x4000, 0x1000):
            areas.detector.alloc_phys(phys, 16)
            areas.detector.free_part_phys(phys, 16)
        assert areas.put(A, B).leaks() == [B]

    def test_they_survive_the_end_of_a_per_cpu_object(self, areas):
        areas.detector.scan_area(A + 32, 16)
        for ptr in range(0x1000, 0x4000, 0x1000):
            areas.detector.alloc_percpu(ptr, 16, (BASE,))
            areas.detector.free_percpu(ptr)
        assert areas.put(A, B).leaks() == [B]


class TestStacksAndRegisters:
    def test_a_stack_holds_what_it_refers_to(self, live):
        live.alloc(A)
        live.detector.add_stack(B, 64)
        assert live.put(B, A).leaks() == []

    def test_stacks_are_not_scanned_when_switched_off(self, live):
        live.alloc(A)
        live.detector.add_stack(B, 64)
        live.put(B, A).detector.stack_scan = False
        assert live.leaks() == [A]

    def test_a_stack_that_a_callback_names_counts_as_a_stack(self, live):
        live.alloc(A)
        live.detector.add_roots_callback(stack(B, 64))
        assert live.put(B, A).leaks() == []
        live.detector.stack_scan = False
        assert live.leaks() == [A]

    def test_a_register_holds_what_it_points_at(self, live):
        live.alloc(A)
        live.detector.add_roots_callback(registers(A + 3))
        assert live.leaks() == []


class TestMissingMemory:
    def test_an_object_outside_memory_is_a_leak_like_any_other(self, live):
        live.alloc(0x900000)
        assert live.leaks() == [0x900000]

    def test_an_object_outside_memory_can_be_held(self, live):
        live.alloc(0x900000)
        assert live.put(ROOT, 0x900000).leaks() == []

    def test_what_could_not_be_read_is_counted(self, live):
        live.alloc(0x900000, 64, min_count=0)
        assert live.detector.scan().missing_bytes == 64
