"""Images, object tables and roots: what they accept, refuse and tell."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from intervaltree import IntervalTree

import kmemleak_core as km
from kmemleak_core import _index
from kmemleak_core._index import NO_TARGET, ROWS, AddressIndex


def image_of(*segments, **options):
    return km.MemoryImage.from_segments(segments, **options)


class TestMemoryImage:
    def test_segments_are_sorted(self):
        assert [s.address for s in image_of((0x20, b"b"), (0x10, b"a")).segments] == [0x10, 0x20]

    def test_bytes_are_used_in_place(self):
        buffer = np.zeros(16, dtype=np.uint8)
        image = image_of((0x1000, buffer))
        buffer[3] = 7
        assert image.read(0x1003, 1) == b"\x07"

    def test_a_view_inside_a_segment_is_no_copy(self):
        buffer = np.arange(16, dtype=np.uint8)
        assert np.shares_memory(image_of((0x1000, buffer)).view(0x1004, 8), buffer)

    def test_a_read_goes_on_in_the_next_segment(self):
        assert image_of((0x10, b"ab"), (0x12, b"cd")).read(0x11, 2) == b"bc"

    def test_a_read_of_a_hole_names_the_missing_address(self):
        with pytest.raises(km.FaultError) as caught:
            image_of((0x10, b"ab"), (0x20, b"cd")).read(0x11, 4)
        assert caught.value.address == 0x12

    @pytest.mark.parametrize(
        ("word_size", "byteorder", "value"),
        [(8, "little", 0x0807060504030201), (8, "big", 0x0102030405060708), (4, "big", 0x01020304)],
    )
    def test_words_have_the_images_size_and_byte_order(self, word_size, byteorder, value):
        image = image_of((0, bytes(range(1, 9))), word_size=word_size, byteorder=byteorder)
        assert image.word(0) == value

    def test_overlapping_segments_are_refused(self):
        with pytest.raises(km.OverlapError, match=r"0x12.*0x10"):
            image_of((0x10, b"abcd"), (0x12, b"x"))

    def test_empty_segments_are_dropped(self):
        assert image_of((0x10, b"")).segments == ()

    @pytest.mark.parametrize("address", [-1, (1 << 64) - 2])
    def test_a_segment_beyond_the_address_space_is_refused(self, address):
        with pytest.raises(ValueError, match="address space"):
            image_of((address, b"abcd"))

    @pytest.mark.parametrize("options", [{"word_size": 2}, {"byteorder": "middle"}])
    def test_unknown_words_are_refused(self, options):
        with pytest.raises(ValueError, match="not"):
            image_of((0, b"a"), **options)

    def test_repr_tells_what_it_is(self):
        text = repr(image_of((0x10, b"abcd")))
        assert text == "<MemoryImage 64-bit little-endian, 1 segments, 4 bytes>"


class TestObjectTable:
    def test_rows_are_sorted_and_lead_back_to_the_order_of_allocation(self):
        table = km.ObjectTable.from_arrays([0x30, 0x10, 0x20], [1, 2, 3])
        assert table.address.tolist() == [0x10, 0x20, 0x30]
        assert table.size[table.allocation_order()].tolist() == [1, 2, 3]

    def test_every_column_follows_the_sort(self):
        table = km.ObjectTable.from_arrays(
            [0x30, 0x10], [8, 8], [2, 0], [4, 8], excess_ref=[7, 9], trace=[1, 2]
        )
        columns = (table.min_count, table.flags, table.excess_ref, table.trace)
        assert [c.tolist() for c in columns] == [[0, 2], [8, 4], [9, 7], [2, 1]]

    def test_an_overlap_names_both_objects(self):
        with pytest.raises(km.OverlapError) as caught:
            km.ObjectTable.from_arrays([0x10, 0x18], [16, 8])
        assert (caught.value.existing, caught.value.new) == ((0x10, 16), (0x18, 8))

    def test_of_two_overlapping_objects_the_first_stays_and_the_other_is_told(self):
        table = km.ObjectTable.from_arrays([0x18, 0x10], [8, 16], on_overlap="drop")
        assert table.address.tolist() == [0x18]
        assert [n.code for n in table.anomalies] == ["objects.overlap"]

    def test_objects_that_only_a_dropped_one_overlapped_stay(self):
        table = km.ObjectTable.from_arrays([0x10, 0x18, 0x28], [16, 24, 8], on_overlap="drop")
        assert table.address.tolist() == [0x10, 0x28]

    def test_a_size_0_object_occupies_its_start(self):
        table = km.ObjectTable.from_arrays([0x10], [0])
        assert (table.find(0x10), table.find(0x11)) == (0, None)

    def test_find_knows_interior_addresses_and_ends(self):
        table = km.ObjectTable.from_arrays([0x10], [8])
        assert [table.find(a) for a in (0xF, 0x10, 0x17, 0x18)] == [None, 0, 0, None]

    @pytest.mark.parametrize(
        ("address", "size", "words"),
        [
            ([1, 2], [1], "2 addresses but 1 sizes"),
            ([[1]], [1], "dimensions"),
            ([1.5], [1], "integers"),
            ([-1], [1], "negative"),
            ([1 << 63], [1 << 63], "address space"),
            ([1 << 64], [1], "beyond"),
        ],
    )
    def test_impossible_columns_are_refused(self, address, size, words):
        with pytest.raises(ValueError, match=words):
            km.ObjectTable.from_arrays(address, size)

    def test_repr_tells_what_it_is(self):
        table = km.ObjectTable.from_arrays([0x10], [1000])
        assert repr(table) == "<ObjectTable 1 objects, 1,000 bytes>"


class TestRoots:
    def test_tuples_and_integers_will_do(self):
        roots = km.Roots.from_ranges([(0x10, 8), (0x20, 8, "data", ".data")], [7, (8, "cpu", "r1")])
        assert roots.kinds == {"memory", "data", "registers", "cpu"}

    def test_classes_can_be_left_out(self):
        roots = km.Roots.from_ranges([(0x10, 8, "stacks"), (0x20, 8, "data")], [7])
        assert roots.without({"stacks", "registers"}).kinds == {"data"}

    def test_a_subtracted_range_leaves_what_lies_around_it(self):
        left = km.Roots.from_ranges([(0x10, 0x20)]).subtract(
            IntervalTree.from_tuples([(0x18, 0x1C)])
        )
        assert [(r.address, r.end) for r in left.ranges] == [(0x10, 0x18), (0x1C, 0x30)]

    @given(
        st.tuples(st.integers(0, 40), st.integers(1, 40)),
        st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=6),
    )
    def test_subtraction_leaves_exactly_the_other_addresses(self, root, holes):
        tree = IntervalTree.from_tuples((b, b + n) for b, n in holes)
        left = km.Roots.from_ranges([root]).subtract(tree)
        covered = {a for b, n in holes for a in range(b, b + n)}
        wanted = set(range(root[0], sum(root))) - covered
        ranges = [range(r.address, r.end) for r in left.ranges]
        assert sorted(a for r in ranges for a in r) == sorted(wanted)

    @pytest.mark.parametrize("bad", [{"ranges": [(-1, 8)]}, {"words": [1 << 64]}])
    def test_what_is_no_address_is_refused(self, bad):
        with pytest.raises(ValueError, match="no "):
            km.Roots.from_ranges(**bad)


@st.composite
def layouts(draw):
    """Draw sorted objects at scales that reach every form of the index."""
    gap = draw(st.sampled_from([4, 1 << 14, 1 << 23, 1 << 44]))
    size = draw(st.sampled_from([0, 8, 4096, 3 << 20]))
    at = draw(st.sampled_from([1, 0x7F0000000000]))
    address, sizes = [], []
    for _ in range(draw(st.integers(1, 30))):
        at += draw(st.integers(0, gap))
        address.append(at)
        sizes.append(draw(st.integers(0, size)))
        at += max(1, sizes[-1])
    return address, sizes


@pytest.fixture
def parts_of_one():
    """Let every object be worth a part of its own in a threaded build."""
    before = _index._choose_part(1)
    yield
    _index._choose_part(before)


class TestAddressIndex:
    @pytest.mark.parametrize("form", ["ranks", "directory", "search"])
    @given(layout=layouts(), inclusive=st.booleans(), interior=st.booleans(), data=st.data())
    def test_every_form_finds_what_a_search_finds(self, form, layout, inclusive, interior, data):
        address, size = (np.array(c, dtype=np.uint64) for c in layout)
        index = AddressIndex(
            address, size, inclusive_end=inclusive, interior=interior, threads=2, form=form
        )
        near = st.sampled_from(layout[0]).flatmap(
            lambda a: st.integers(max(0, a - 9), min(a + (4 << 20), (1 << 64) - 1))
        )
        ends = st.sampled_from([a + s for a, s in zip(*layout, strict=True)])
        values = data.draw(st.lists(near | ends, max_size=40))
        found = index.lookup(np.array(values, dtype=np.uint64))
        for value, target in zip(values, found.tolist(), strict=True):
            assert target == self.expected(*layout, value, inclusive, interior)

    @staticmethod
    def expected(address, size, value, inclusive, interior):
        for row in reversed(range(len(address))):
            start, end = address[row], address[row] + size[row]
            if start > value:
                continue
            if value == start:
                return row
            if value < end:
                return row | 1 << 30 if interior else NO_TARGET
            return row | 2 << 30 if inclusive and value == end and size[row] else NO_TARGET
        return NO_TARGET

    @pytest.mark.parametrize(
        ("form", "address"),
        [
            ("ranks", np.arange(1, 1 << 12) << 6),
            ("ranks", np.arange(1, 1 << 12) << 22),
            ("directory", (np.arange(1, 1 << 12) << 22) + 1),
            ("search", (np.arange(1, 1 << 16) << 22) + 1),
            ("search", np.arange(1, 1 << 12) << 44),
        ],
        ids=["dense", "scattered, aligned", "scattered, at odd places", "more of them", "too far"],
    )
    def test_the_form_suits_the_objects(self, form, address):
        address = address.astype(np.uint64)
        index = AddressIndex(address, np.full(address.size, 8, dtype=np.uint64))
        assert index.form == form
        assert (index.lookup(address + np.uint64(3)) & np.uint32(ROWS)).tolist() == list(
            range(address.size)
        )

    def test_a_form_that_there_is_not_is_refused(self):
        with pytest.raises(ValueError, match="form"):
            AddressIndex(np.empty(0, np.uint64), np.empty(0, np.uint64), form="tree")

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(layout=layouts(), data=st.data())
    def test_an_index_built_in_parts_is_the_same(self, parts_of_one, layout, data):
        address, size = (np.array(c, dtype=np.uint64) for c in layout)
        values = data.draw(st.lists(st.sampled_from(layout[0]), max_size=40))
        values = np.array(values, dtype=np.uint64) + np.uint64(1)
        whole, in_parts = (AddressIndex(address, size, threads=t) for t in (1, 7))
        assert whole.lookup(values).tolist() == in_parts.lookup(values).tolist()

    def test_objects_out_of_order_are_refused(self):
        with pytest.raises(ValueError, match="order"):
            AddressIndex(np.array([2, 1], dtype=np.uint64), np.array([1, 1], dtype=np.uint64))

    def test_an_index_of_nothing_finds_nothing(self):
        nothing = np.empty(0, dtype=np.uint64)
        found = AddressIndex(nothing, nothing).lookup(np.array([0, 1, 1 << 63], dtype=np.uint64))
        assert found.tolist() == [NO_TARGET] * 3


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 12)), min_size=1, max_size=40),
    st.integers(1, 9),
)
def test_tables_are_checked_alike_in_blocks_of_any_size(rows, block):
    """Whether two rows overlap does not depend on where the blocks meet."""
    rows = list(dict(rows).items())
    address, size = (np.array(column, dtype=np.uint64) for column in zip(*rows, strict=True))
    covered = sorted((a, a + max(1, s)) for a, s in rows)
    overlap = any(e > b for (_, e), (b, _) in itertools.pairwise(covered))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kmemleak_core.objects._ROWS", block)
        if overlap:
            with pytest.raises(km.OverlapError):
                km.ObjectTable.from_arrays(address, size)
            return
        table = km.ObjectTable.from_arrays(address, size)
    assert table.address.tolist() == sorted(address.tolist())
    assert dict(zip(table.address.tolist(), table.size.tolist(), strict=True)) == dict(rows)


def test_columns_that_are_right_as_they_are_are_not_copied():
    address = np.arange(1, 1000, dtype=np.uint64) * np.uint64(64)
    size = np.full(address.size, 64, dtype=np.uint64)
    table = km.ObjectTable.from_arrays(address, size)
    assert np.shares_memory(table.address, address)
    assert np.shares_memory(table.size, size)
