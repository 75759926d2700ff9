"""What counts as a reference and what does not, one behaviour a test."""

from __future__ import annotations

import struct

import numpy as np
import pytest

import kmemleak_core as km
from kmemleak_core.graph import referrers

BASE = 0x10000


class Heap:
    """A page of memory, objects in it, and words written where a test wants them."""

    def __init__(self, size=4096):
        self.data = bytearray(size)
        self.columns = {"address": [], "size": [], "min_count": [], "flags": [], "excess_ref": []}
        self.areas = []

    def alloc(self, address, size=32, *, min_count=1, flags=0, excess_ref=0):
        row = (address, size, min_count, flags, excess_ref)
        for column, value in zip(self.columns.values(), row, strict=True):
            column.append(value)
        return address

    def put(self, place, value, form="<Q"):
        struct.pack_into(form, self.data, place - BASE, value)

    def scan(self, *, ranges=(), words=(), **options):
        image = km.MemoryImage.from_segments([(BASE, bytes(self.data))])
        objects = km.ObjectTable.from_arrays(**self.columns, scan_areas=self.areas)
        return km.scan_image(image, objects, km.Roots.from_ranges(ranges, words), **options)

    def leaks(self, **arguments):
        result = self.scan(**arguments)
        return result.objects.address[result.white].tolist()


@pytest.fixture
def heap():
    return Heap()


A, B, C, D = (BASE + offset for offset in (0x100, 0x200, 0x300, 0x400))


def test_an_object_that_nobody_refers_to_is_white(heap):
    heap.alloc(A)
    assert heap.leaks() == [A]


def test_a_root_word_holds_an_object(heap):
    heap.alloc(A)
    assert heap.leaks(words=[A]) == []


def test_a_word_in_a_root_range_holds_an_object(heap):
    heap.alloc(A)
    heap.put(BASE, A)
    assert heap.leaks(ranges=[(BASE, 8)]) == []


def test_objects_held_by_gray_objects_are_gray(heap):
    heap.put(heap.alloc(A), heap.alloc(B))
    heap.put(B, heap.alloc(C))
    assert heap.leaks(words=[A]) == []


def test_what_only_a_white_object_holds_is_white(heap):
    heap.put(heap.alloc(A), heap.alloc(B))
    assert heap.leaks() == [A, B]


def test_a_cycle_does_not_hold_itself(heap):
    heap.put(heap.alloc(A), heap.alloc(B))
    heap.put(B, A)
    assert heap.leaks() == [A, B]


def test_a_reference_of_an_object_to_itself_does_not_count(heap):
    heap.put(heap.alloc(A, min_count=2), A)
    result = heap.scan(words=[A])
    assert (result.count.tolist(), result.white.tolist()) == ([1], [True])


def test_an_interior_pointer_holds_an_object(heap):
    heap.alloc(A, 32)
    result = heap.scan(words=[A + 31])
    assert (result.white.tolist(), result.held.tolist()) == ([False], [2])


def test_interior_pointers_can_be_told_not_to_count(heap):
    heap.alloc(A, 32)
    assert heap.leaks(words=[A + 8], interior=False) == [A]


def test_one_past_the_end_is_outside(heap):
    heap.alloc(A, 32)
    assert heap.leaks(words=[A + 32]) == [A]


def test_one_past_the_end_counts_where_it_is_told_to(heap):
    heap.alloc(A, 32)
    result = heap.scan(words=[A + 32], end_pointers=True)
    assert (result.white.tolist(), result.held.tolist()) == ([False], [4])


def test_one_past_an_exact_end_is_somebody_elses(heap):
    heap.alloc(A, 32, flags=km.ObjectFlags.EXACT_END)
    assert heap.leaks(words=[A + 32], end_pointers=True) == [A]


def test_a_neighbours_start_is_not_ones_end(heap):
    heap.alloc(A, 32)
    heap.alloc(A + 32, 32)
    assert heap.leaks(words=[A + 32], end_pointers=True) == [A]


def test_two_words_in_one_object_satisfy_min_count_two(heap):
    heap.alloc(B, min_count=2)
    heap.put(heap.alloc(A), B)
    heap.put(A + 8, B)
    assert heap.leaks(words=[A]) == []


def test_one_reference_does_not_satisfy_min_count_two(heap):
    heap.alloc(A, min_count=2)
    result = heap.scan(words=[A])
    assert (result.count.tolist(), result.white.tolist()) == ([1], [True])


def test_counting_stops_at_min_count(heap):
    heap.alloc(A)
    assert heap.scan(words=[A, A, A]).count.tolist() == [1]


def test_a_grey_object_is_a_root(heap):
    heap.put(heap.alloc(A, min_count=km.GREY), heap.alloc(B))
    assert heap.leaks() == []


def test_a_black_object_is_neither_reported_nor_scanned(heap):
    heap.put(heap.alloc(A, min_count=km.BLACK), heap.alloc(B))
    result = heap.scan()
    assert result.colour.tolist() == [km.Colour.BLACK, km.Colour.WHITE]


def test_no_scan_leaves_out_the_contents_but_not_the_object(heap):
    heap.put(heap.alloc(A, flags=km.ObjectFlags.NO_SCAN), heap.alloc(B))
    assert heap.leaks(words=[A]) == [B]
    assert heap.leaks() == [A, B]


def test_an_object_with_scan_areas_is_scanned_only_there(heap):
    heap.alloc(A, 32)
    heap.alloc(B)
    heap.alloc(C)
    heap.put(A, B)
    heap.put(A + 16, C)
    heap.areas = [(A, A + 16, 8)]
    assert heap.leaks(words=[A]) == [B]


def test_full_scan_overrides_scan_areas(heap):
    heap.alloc(A, 32, flags=km.ObjectFlags.FULL_SCAN)
    heap.put(A, heap.alloc(B))
    heap.areas = [(A, A + 16, 8)]
    assert heap.leaks(words=[A]) == []


def test_overlapping_scan_areas_count_twice(heap):
    heap.alloc(A, 32)
    heap.put(A, heap.alloc(B, min_count=2))
    heap.areas = [(A, A, 8), (A, A, 16)]
    assert heap.leaks(words=[A]) == []


def test_a_scan_area_that_leaves_its_object_is_dropped_and_told(heap):
    heap.alloc(A, 32)
    heap.areas = [(A, A + 16, 32)]
    result = heap.scan()
    assert "leaves its object" in result.objects.anomalies.notes[0].message


def test_surplus_references_count_for_another_object(heap):
    heap.alloc(A, excess_ref=B)
    heap.alloc(B, min_count=2)
    assert heap.leaks(words=[A, A, A]) == []


def test_the_reference_that_grays_the_carrier_is_not_surplus(heap):
    heap.alloc(A, excess_ref=B)
    heap.alloc(B, min_count=2)
    assert heap.leaks(words=[A, A]) == [B]


def test_surplus_counts_only_for_an_exact_start(heap):
    heap.alloc(A, excess_ref=B + 8)
    heap.alloc(B)
    assert heap.leaks(words=[A, A]) == [B]


def test_an_object_does_not_count_its_own_surplus(heap):
    heap.alloc(A, excess_ref=B)
    heap.put(heap.alloc(B, min_count=2), A)
    assert heap.scan(words=[A, B, A]).count.tolist() == [1, 2]
    assert heap.leaks(words=[A, B]) == [B]


def test_a_modified_object_is_taken_as_gray_and_followed(heap):
    heap.put(heap.alloc(A), heap.alloc(B))
    assert heap.leaks(modified=[True, False]) == []


def test_unaligned_pointers_are_not_seen(heap):
    heap.alloc(A)
    heap.put(BASE + 4, A)
    assert heap.leaks(ranges=[(BASE, 16)]) == [A]


def test_unaligned_pointers_are_seen_with_a_smaller_alignment(heap):
    heap.alloc(A)
    heap.put(BASE + 4, A)
    assert heap.leaks(ranges=[(BASE, 16)], alignment=4) == []


def test_a_tagged_pointer_is_seen_through_a_mask(heap):
    heap.alloc(A)
    tagged = A | 0xA5 << 56
    assert heap.leaks(words=[tagged]) == [A]
    assert heap.leaks(words=[tagged], pointer_mask=0x0000FFFFFFFFFFFF) == []


def test_a_word_must_lie_wholly_inside_the_range(heap):
    heap.alloc(A)
    heap.put(BASE + 8, A)
    assert heap.leaks(ranges=[(BASE, 15)]) == [A]


def test_an_unaligned_object_loses_no_word_at_a_page_boundary():
    heap = Heap(3 * 4096)
    start = BASE + 8 + 4
    heap.alloc(start, 8192)
    heap.alloc(BASE + 2 * 4096 + 64)
    heap.put(BASE + 4096 + 8, BASE + 2 * 4096 + 64)
    assert heap.leaks(words=[start]) == []


def test_a_size_0_object_is_held_by_its_start_address(heap):
    heap.alloc(A, 0)
    assert heap.leaks(words=[A]) == []
    assert heap.leaks(words=[A + 1], end_pointers=True) == [A]


def test_a_word_that_two_segments_share_is_seen():
    pointer = struct.pack("<Q", A)
    image = km.MemoryImage.from_segments([(BASE, pointer[:3]), (BASE + 3, pointer[3:])])
    objects = km.ObjectTable.from_arrays([A], [8])
    result = km.scan_image(image, objects, km.Roots.from_ranges([(BASE, 8)]))
    assert not result.white.any()


def test_missing_memory_is_counted(heap):
    heap.alloc(A)
    beyond = BASE + 4096
    result = heap.scan(ranges=[(beyond - 8, 24)])
    assert result.counters["missing_bytes"] == 16


def test_32_bit_big_endian_words_are_read():
    data = struct.pack(">II", 0, BASE + 4)
    image = km.MemoryImage.from_segments([(BASE, data)], word_size=4, byteorder="big")
    objects = km.ObjectTable.from_arrays([BASE + 4], [4])
    result = km.scan_image(image, objects, km.Roots.from_ranges([(BASE, 8)]))
    # The word lies in the object itself, and in a root range: a root's words always count.
    assert not result.white.any()


def test_an_unknown_alignment_is_refused(heap):
    with pytest.raises(km.UsageError, match="alignment"):
        heap.scan(alignment=3)


def test_a_result_is_the_same_whatever_the_input_order(heap):
    heap.put(heap.alloc(C), heap.alloc(A))
    heap.alloc(B)
    result = heap.scan(words=[C])
    assert result.leaks["address"].tolist() == [B]
    assert result.objects.address.tolist() == sorted(result.objects.address.tolist())


def test_a_referrer_is_named(heap):
    heap.put(heap.alloc(A), heap.alloc(B) + 8)
    result = heap.scan(
        ranges=[(BASE, 8, "data", ".data of libfoo.so")], words=[(A, "registers", "rbx")]
    )
    (register,) = referrers(result, A)
    assert (register.name, register.pointer, register.live) == ("rbx", "start", True)
    (inner,) = referrers(result, B)
    assert (inner.place, inner.name, inner.pointer) == (A, f"object {A:#x}+0x0", "interior")


def test_no_objects_at_all_is_a_result(heap):
    result = heap.scan(words=[A])
    assert (len(result.objects), np.count_nonzero(result.white)) == (0, 0)
