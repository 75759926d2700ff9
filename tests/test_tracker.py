"""The table of live objects: what each call promises, beside a model that is plainly right."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from intervaltree import IntervalTree

from kmemleak_core._index import AddressIndex
from kmemleak_core._tracker import RECORD, ObjectStore

TOP = 2**64 - 1


def u64(*values):
    return np.array(values, dtype=np.uint64)


def u32(*values):
    return np.array(values, dtype=np.uint32)


def spaced(count, *, size=48, step=64, base=1 << 40):
    """Return the columns of `count` objects that lie `step` apart."""
    address = np.arange(count, dtype=np.uint64) * np.uint64(step) + np.uint64(base)
    return address, np.full(count, size, dtype=np.uint64)


@pytest.fixture
def store():
    return ObjectStore()


class TestInsert:
    def test_gives_slots_from_0_on(self, store):
        assert [store.insert(0x1000, 16), store.insert(0x800, 16)] == [0, 1]
        assert len(store) == 2

    def test_keeps_what_it_was_given(self, store):
        slot = store.insert(0x1000, 16, -1, 0x8001, 77, 0xFFFFFFFF)
        record = store.records[slot]
        assert record.tolist() == (0x1000, 16, 1, 0, -1, 0, 77, 0xFFFFFFFF, 0x8001, 0)

    def test_min_count_is_1_and_the_rest_0_unless_given(self, store):
        slot = store.insert(0x1000, 16)
        record = store.records[slot]
        assert record["min_count"] == 1
        assert (record["flags"], record["birth"], record["trace"]) == (0, 0, 0)

    @pytest.mark.parametrize(
        ("address", "size"),
        [(0x1000, 16), (0x100F, 1), (0xFFF, 2), (0x1004, 4), (0xF00, 0x1000), (0x1008, 0)],
    )
    def test_an_overlap_names_the_other_object_and_changes_nothing(self, store, address, size):
        store.insert(0x800, 16)
        slot = store.insert(0x1000, 16)
        before = store.records.copy()
        assert store.insert(address, size) == -1 - slot
        assert (store.records == before).all()
        assert len(store) == 2

    def test_of_several_overlaps_the_lowest_is_named(self, store):
        store.insert(0x1010, 16)
        low = store.insert(0x1000, 16)
        assert store.insert(0xF00, 0x1000) == -1 - low

    @pytest.mark.parametrize(("address", "size"), [(0xFF0, 16), (0x1010, 16), (0xFFF, 0)])
    def test_touching_is_not_overlapping(self, store, address, size):
        store.insert(0x1000, 16)
        assert store.insert(address, size) == 1

    def test_size_0_occupies_its_start_alone(self, store):
        slot = store.insert(0x1000, 0)
        assert store.find(0x1000) == store.exact(0x1000) == slot
        assert store.find(0x1001) == -1
        assert store.insert(0x1000, 0) == store.insert(0xFFF, 2) == -1 - slot
        assert store.insert(0x1001, 8) == 1
        store.remove(slot)
        assert store.find(0x1000) == -1

    @pytest.mark.parametrize(
        ("address", "size"),
        [(TOP, 0), (TOP, 1), (TOP - 1, 0), (TOP - 1, 1), (TOP - 16, 16), (1, TOP), (0, TOP)],
    )
    def test_leaving_the_address_space_is_an_error(self, store, address, size):
        with pytest.raises(ValueError, match="leaves the address space"):
            store.insert(address, size)
        assert (len(store), store.min_address, store.max_address) == (0, TOP, 0)

    @pytest.mark.parametrize(("address", "size"), [(TOP - 2, 0), (TOP - 2, 1), (0, TOP - 1)])
    def test_ending_just_below_the_top_is_not(self, store, address, size):
        assert store.insert(address, size) == 0
        assert store.find(TOP - 2) == 0
        assert store.find(TOP) == store.find(TOP - 1) == -1

    @pytest.mark.parametrize(
        "arguments",
        [(-1, 1), (2**64, 1), (0, -1), (0, 2**64), (0, 1, 2**31), (0, 1, 1, -1), (0, 1, 1, 2**16)],
    )
    def test_what_does_not_fit_its_column_is_an_error(self, store, arguments):
        with pytest.raises(OverflowError):
            store.insert(*arguments)
        assert len(store) == 0

    def test_bounds_widen_and_never_shrink(self, store):
        assert (store.min_address, store.max_address) == (TOP, 0)
        store.insert(0x2000, 16)
        assert (store.min_address, store.max_address) == (0x2000, 0x2010)
        store.insert(0x1000, 0)
        store.remove(0)
        assert (store.min_address, store.max_address) == (0x1000, 0x2010)
        store.clear()
        assert (store.min_address, store.max_address) == (0x1000, 0x2010)

    def test_bounds_widen_before_an_overlap_is_found_as_in_the_kernel(self, store):
        store.insert(0x1000, 16)
        assert store.insert(0xFF0, 0x100) < 0
        assert (store.min_address, store.max_address) == (0xFF0, 0x10F0)


class TestFind:
    def test_finds_start_and_inside_but_not_the_end(self, store):
        slot = store.insert(0x1000, 16)
        assert [store.find(a) for a in (0xFFF, 0x1000, 0x1008, 0x100F, 0x1010)] == [
            -1,
            slot,
            slot,
            slot,
            -1,
        ]

    def test_exact_wants_the_start(self, store):
        slot = store.insert(0x1000, 16)
        assert [store.exact(a) for a in (0xFFF, 0x1000, 0x1008)] == [-1, slot, -1]

    def test_an_empty_table_holds_no_address(self, store):
        assert store.find(0) == store.exact(0) == store.find(TOP) == -1


class TestRemove:
    def test_a_removed_object_is_gone(self, store):
        store.remove(store.insert(0x1000, 16))
        assert len(store) == 0
        assert store.find(0x1000) == -1
        assert store.insert(0x1008, 16) >= 0

    def test_its_slot_is_used_again_and_its_sequence_is_not(self, store):
        first = store.insert(0x1000, 16, 5, 6, 7, 8)
        store.records["checksum"][first] = store.records["sightings"][first] = 9
        store.remove(first)
        assert store.sequence_of(first) == 0
        again = store.insert(0x2000, 16)
        assert again == first
        assert store.records[again].tolist() == (0x2000, 16, 2, 0, 1, 0, 0, 0, 0, 0)

    @pytest.mark.parametrize("slot", [0, 1, 2, 2**32, 2**64 - 1])
    def test_removing_what_is_not_there_is_an_error(self, store, slot):
        store.remove(store.insert(0x1000, 16))
        with pytest.raises(LookupError):
            store.remove(slot)

    def test_can_be_held_to_one_object(self, store):
        slot = store.insert(0x1000, 16)
        store.remove(slot)
        store.insert(0x1000, 16)
        with pytest.raises(LookupError):
            store.remove(slot, sequence=1)
        store.remove(slot, sequence=2)
        assert len(store) == 0

    def test_discard_goes_by_the_start_address(self, store):
        store.insert(0x1000, 16)
        assert not store.discard(0x1008)
        assert store.discard(0x1000)
        assert not store.discard(0x1000)

    def test_clear_removes_all_and_sequences_go_on(self, store):
        store.insert_many(*spaced(2000))
        store.clear()
        assert len(store) == store.snapshot()[0].size == 0
        assert store.insert(0x1000, 16) == 0
        assert store.sequence_of(0) == 2001


class TestObjectsByName:
    def test_alive_until_removed_or_replaced(self, store):
        slot = store.insert(0x1000, 16)
        sequence = store.sequence_of(slot)
        assert store.alive(slot, sequence)
        store.remove(slot)
        assert not store.alive(slot, sequence)
        store.insert(0x1000, 16)
        assert not store.alive(slot, sequence)
        assert store.alive(slot, sequence + 1)

    @pytest.mark.parametrize(("slot", "sequence"), [(0, 0), (1, 0), (1, 1), (2**40, 1)])
    def test_what_never_was_is_not_alive(self, store, slot, sequence):
        store.insert(0x1000, 16)
        assert not store.alive(slot, sequence)

    def test_many_are_asked_at_once(self, store):
        store.insert_many(*spaced(3))
        store.remove(1)
        asked = store.alive_many(u32(0, 1, 2, 9, 0), u64(1, 2, 4, 1, 0))
        assert asked.tolist() == [True, False, False, False, False]

    @pytest.mark.parametrize(
        "field", ["checksum", "min_count", "count", "birth", "trace", "flags", "sightings"]
    )
    def test_write_reaches_those_that_are_still_there(self, store, field):
        store.insert_many(*spaced(4))
        store.remove(1)
        store.insert(0x1000, 16)
        expected = store.records.copy()
        values = np.array([11, 12, 13], dtype=RECORD.fields[field][0])
        written = store.write(field, u32(0, 1, 3), u64(1, 2, 4), values)
        assert written.tolist() == [True, False, True]
        expected[field][[0, 3]] = [11, 13]
        assert (store.records == expected).all()

    def test_write_of_one_value_for_all(self, store):
        store.insert_many(*spaced(3))
        assert store.write("min_count", u32(0, 2), u64(1, 3), -1).all()
        assert store.records["min_count"].tolist() == [-1, 1, -1]

    @pytest.mark.parametrize("field", ["address", "size", "sequence", "colour"])
    def test_write_refuses_what_the_table_itself_needs(self, store, field):
        store.insert(0x1000, 16)
        with pytest.raises(ValueError, match="is not one of"):
            store.write(field, u32(0), u64(1), 1)

    def test_write_refuses_another_dtype(self, store):
        store.insert(0x1000, 16)
        with pytest.raises(ValueError, match="count is int32, not int64"):
            store.write("count", u32(0), u64(1), np.array([1]))

    def test_flags_change_bit_by_bit(self, store):
        slot = store.insert(0x1000, 16, flags=0b0011)
        assert store.change_flags(slot, set=0b1000, clear=0b0001) == 0b1010
        assert store.records["flags"][slot] == 0b1010
        assert store.change_flags_many(u32(slot), u64(1), 0b0001, 0b1000).all()
        assert not store.change_flags_many(u32(slot), u64(2), 0xFFFF).any()
        assert store.records["flags"][slot] == 0b0011

    def test_min_count_is_painted(self, store):
        slot = store.insert(0x1000, 16)
        store.set_min_count(slot, -1)
        assert store.records["min_count"][slot] == -1

    def test_a_free_slot_cannot_be_painted(self, store):
        store.remove(store.insert(0x1000, 16))
        for slot in (0, 1, 2**63):
            with pytest.raises(LookupError):
                store.set_min_count(slot, 0)
            with pytest.raises(LookupError):
                store.change_flags(slot, 1)


class TestMany:
    def test_earlier_rows_win(self, store):
        slots = store.insert_many(u64(0x1000, 0x1008, 0x2000), u64(16, 16, 16))
        assert slots.tolist() == [0, -1, 1]
        assert slots.dtype == np.int64

    def test_what_is_there_already_wins(self, store):
        store.insert_many(*spaced(10))
        address, size = spaced(11)
        assert store.insert_many(address, size).tolist() == [*(-1 - i for i in range(10)), 10]

    def test_columns_or_one_value_for_all(self, store):
        store.insert_many(
            *spaced(2),
            np.array([0, -1], dtype=np.int32),
            np.array([3, 4], dtype=np.uint16),
            np.array([5, 6], dtype=np.uint32),
            np.array([7, 8], dtype=np.uint32),
        )
        store.insert_many(*spaced(1, base=0), 2, 9, 10, 11)
        fields = store.records[["min_count", "flags", "birth", "trace"]].tolist()
        assert fields == [(0, 3, 5, 7), (-1, 4, 6, 8), (2, 9, 10, 11)]

    def test_columns_may_be_strided(self, store):
        address, size = spaced(10)
        store.insert_many(address[::-2], size[::-2])
        assert (store.snapshot()[0] == address[1::2]).all()
        assert store.remove_many(address[::3]).tolist() == [False, True, False, True]

    def test_a_row_that_leaves_the_address_space_keeps_all_out(self, store):
        with pytest.raises(ValueError, match="leaves the address space"):
            store.insert_many(u64(0x1000, TOP), u64(16, 1))
        assert len(store) == 0

    @pytest.mark.parametrize(
        "columns",
        [
            (u64(1, 2), u64(1)),
            (u64(1), u64(1), np.array([1, 1], dtype=np.int32)),
            (u64(1), u64(1), 1, np.zeros((1, 1), dtype=np.uint16)),
            (np.array([1]), u64(1)),
            (u64(1), u64(1), np.array([1], dtype=np.int64)),
        ],
    )
    def test_columns_that_do_not_fit_are_an_error(self, store, columns):
        with pytest.raises(ValueError, match=r"differ in length|mismatch"):
            store.insert_many(*columns)
        assert len(store) == 0

    def test_no_rows_are_no_work(self, store):
        assert store.insert_many(u64(), u64()).shape == (0,)
        assert store.remove_many(u64()).shape == (0,)
        assert store.alive_many(u32(), u64()).shape == (0,)

    def test_remove_many_says_what_was_there(self, store):
        address, size = spaced(4)
        store.insert_many(address, size)
        wanted = np.concatenate([address[[3, 0, 3]], address[[1]] + np.uint64(8)])
        assert store.remove_many(wanted).tolist() == [True, True, False, False]
        assert (store.snapshot()[0] == address[1:3]).all()


class TestWholeTable:
    def test_snapshot_is_in_the_order_of_addresses(self, store):
        address, size = spaced(3000)
        random = np.random.default_rng(3)
        order = random.permutation(3000)
        size = random.integers(0, 64, 3000, dtype=np.uint64)
        store.insert_many(address[order], size[order])
        seen, sizes, slots = store.snapshot()
        assert (seen.dtype, sizes.dtype, slots.dtype) == (np.uint64, np.uint64, np.uint32)
        assert (seen == address).all()
        assert (sizes == size).all()
        assert (slots == np.argsort(order)).all()

    def test_snapshot_is_what_the_engine_indexes(self, store):
        store.insert_many(*spaced(1000))
        address, size, _ = store.snapshot()
        assert len(AddressIndex(address, size)) == 1000

    def test_a_snapshot_is_a_copy(self, store):
        store.insert_many(*spaced(3))
        address, size, slot = store.snapshot()
        address[:], size[:], slot[:] = 0, 0, 0
        assert (store.snapshot()[0] == spaced(3)[0]).all()

    def test_records_come_along(self, store):
        store.insert_many(*spaced(600, base=1 << 20))
        store.insert(0x1000, 16, 2, 3, 4, 5)
        slot, record = store.snapshot_records()
        assert slot[:2].tolist() == [600, 0]
        assert record.dtype == RECORD
        assert (record == store.records[slot]).all()
        assert (record["address"] == store.snapshot()[0]).all()

    def test_allocation_order_outlives_the_reuse_of_slots(self, store):
        address, size = spaced(1000)
        store.insert_many(address, size)
        store.remove_many(address[::3])
        store.insert_many(address[::3][::-1], size[::3])
        slots = store.in_allocation_order()
        assert slots.dtype == np.uint32
        assert (np.diff(store.records["sequence"][slots].astype(np.int64)) > 0).all()
        assert sorted(slots.tolist()) == sorted(store.snapshot()[2].tolist())

    def test_an_empty_table_has_empty_copies(self, store):
        for array in (*store.snapshot(), *store.snapshot_records(), store.in_allocation_order()):
            assert array.shape == (0,)
        assert store.records.shape == (0,)


class TestRecords:
    def test_are_48_bytes(self):
        assert RECORD.itemsize == 48

    def test_a_view_stays_true_while_the_table_grows(self, store):
        store.insert(0x1000, 16)
        view = store.records
        store.insert_many(*spaced(100_000))
        view["count"] = 7
        assert store.records["count"][0] == 7
        assert (view.shape, store.records.shape) == ((1,), (100_001,))

    def test_a_view_outlives_its_table(self):
        view = ObjectStore().records
        assert view.shape == (0,)
        store = ObjectStore()
        store.insert_many(*spaced(5000))
        view = store.records
        del store
        gc.collect()
        assert view["size"].sum() == 5000 * 48

    def test_nonsense_written_into_free_slots_breaks_nothing(self, store):
        address, size = spaced(100)
        store.insert_many(address, size)
        store.remove_many(address[:50])
        store.records["address"][:50] = np.arange(50, 100) * 2**33 + 60
        store.insert_many(address[:50], size[:50])
        assert (store.snapshot()[0] == address).all()


class TestMemory:
    @pytest.mark.parametrize("order", ["ascending", "descending", "random", "both ends inwards"])
    def test_a_million_objects_take_64_bytes_each_at_most(self, store, order):
        n = 1_000_000
        address, size = spaced(n)
        rows = {
            "ascending": np.arange(n),
            "descending": np.arange(n)[::-1],
            "random": np.random.default_rng(1).permutation(n),
            "both ends inwards": np.stack(
                [np.arange(n // 2), n - 1 - np.arange(n // 2)], 1
            ).ravel(),
        }[order]
        store.insert_many(address[rows], size[rows])
        assert len(store) == n
        assert store.nbytes / len(store) <= 64
        assert (store.snapshot()[0] == address).all()

    def test_the_index_shrinks_with_the_objects(self, store):
        address, size = spaced(200_000)
        store.insert_many(address, size)
        index = store.nbytes - store.records.nbytes
        store.remove_many(np.delete(address, np.s_[::100]))
        assert store.nbytes - store.records.nbytes < index / 20

    def test_slots_of_removed_objects_serve_new_ones(self, store):
        address, size = spaced(10_000)
        for _ in range(5):
            store.insert_many(address, size)
            assert store.remove_many(address).all()
        assert store.records.size == 10_000

    def test_the_limit_is_an_error_and_not_a_crash(self):
        store = ObjectStore(1000)
        assert 1000 <= store.limit < 3000
        address, size = spaced(store.limit + 1)
        with pytest.raises(MemoryError, match="at most"):
            store.insert_many(address, size)
        assert len(store) == store.limit
        with pytest.raises(MemoryError):
            store.insert(0x1000, 16)
        store.remove(7)
        assert store.insert(0x1000, 16) == 7

    @pytest.mark.parametrize("limit", [0, 2**30 + 1])
    def test_an_impossible_limit_is_an_error(self, limit):
        with pytest.raises(ValueError, match="between 1 and"):
            ObjectStore(limit)

    def test_a_process_of_little_address_space_gets_a_smaller_table(self):
        program = """if True:
            import resource
            from kmemleak_core._tracker import ObjectStore
            resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
            store = ObjectStore()
            assert 1_000_000 < store.limit < 6_000_000, store.limit
            assert store.insert(0x1000, 16) == 0
        """
        subprocess.run([sys.executable, "-c", program], check=True)


def _ping_pong(address):
    """Order in which each pair of objects is inserted, removed and inserted again."""
    return [("in", address), ("out", address[::2]), ("in", address[::2])] * 3


ORDERS = {
    "ascending": lambda a: [("in", a)],
    "descending": lambda a: [("in", a[::-1])],
    "inwards": lambda a: [("in", np.stack([a[: a.size // 2], a[::-1][: a.size // 2]], 1).ravel())],
    "outwards": lambda a: [("in", np.stack([a[: a.size // 2][::-1], a[a.size // 2 :]], 1).ravel())],
    "every 512th first": lambda a: [("in", a[i::512]) for i in range(512)],
    "every 256th first, downwards": lambda a: [("in", a[i::256][::-1]) for i in range(256)],
    "bits reversed": lambda a: [
        ("in", a[[int(f"{i:015b}"[::-1], 2) for i in range(a.size)]]),
    ],
    "all but each block's first removed": lambda a: [
        ("in", a),
        ("out", np.delete(a, np.s_[::512])),
        ("in", np.delete(a, np.s_[::512])),
    ],
    "removed from the front": lambda a: [("in", a), ("out", a), ("in", a[::-1])],
    "removed from the back": lambda a: [("in", a), ("out", a[::-1]), ("in", a)],
    "halves": lambda a: [("in", a[::2]), ("in", a[1::2]), ("out", a[::2]), ("in", a[::2])],
    "ping-pong": _ping_pong,
}


@pytest.mark.parametrize("name", ORDERS)
def test_adversarial_orders_keep_the_order_and_the_memory(store, name):
    address, size = spaced(1 << 15)
    for way, part in ORDERS[name](address):
        if way == "in":
            store.insert_many(part, np.full(part.size, size[0]))
        else:
            assert store.remove_many(part).all()
    assert (store.snapshot()[0] == address).all()
    assert all(store.exact(int(a)) == s for a, s in zip(*store.snapshot()[::2], strict=True))
    # Without the records' last portion, which does not matter in larger tables.
    assert (store.nbytes - (1 << 16)) / len(store) <= 64


def test_a_gap_behind_a_full_block_can_be_filled_over_and_over(store):
    """The worst place of an ascending table: each time a block would be opened and closed."""
    address, size = spaced(512 * 20)
    store.insert_many(address, size)
    for block in range(1, 20):
        hole = int(address[block * 512 - 1]) + 48
        for _ in range(600):
            slot = store.insert(hole, 16)
            assert slot >= 0
            store.remove(slot)
    assert (store.snapshot()[0] == address).all()
    assert store.nbytes / len(store) <= 80


class StoreMachine(RuleBasedStateMachine):
    """Drives a table beside a dict of objects and an interval tree of what they occupy.

    Addresses are few and close, so that overlaps are common; the bulk rules make enough objects
    for blocks to be split and joined.
    """

    @initialize()
    def start(self):
        self.store = ObjectStore()
        self.slots: dict[int, tuple[int, int, int]] = {}
        self.starts: dict[int, int] = {}
        self.tree = IntervalTree()
        self.sequence = 0
        self.gone: list[tuple[int, int]] = []

    def occupied_by(self, address, size):
        """Return the lowest object that overlaps, as insert answers."""
        found = self.tree.overlap(address, address + max(1, size))
        return -1 - min(found).data if found else None

    def model_insert(self, address, size, slot):
        expected = self.occupied_by(address, size)
        if expected is not None:
            assert slot == expected
            return
        assert slot >= 0
        assert slot not in self.slots
        self.sequence += 1
        self.slots[slot] = (address, size, self.sequence)
        self.starts[address] = slot
        self.tree.addi(address, address + max(1, size), slot)

    def model_remove(self, slot):
        address, size, sequence = self.slots.pop(slot)
        del self.starts[address]
        self.tree.removei(address, address + max(1, size), slot)
        self.gone.append((slot, sequence))

    @rule(address=st.integers(0, 2000), size=st.integers(0, 40))
    def insert(self, address, size):
        self.model_insert(address, size, self.store.insert(address, size))

    @rule(
        rows=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 20)), max_size=60),
        in_order=st.booleans(),
    )
    def insert_many(self, rows, in_order):
        rows = sorted(rows) if in_order else rows
        slots = self.store.insert_many(u64(*(r[0] for r in rows)), u64(*(r[1] for r in rows)))
        for (address, size), slot in zip(rows, slots.tolist(), strict=True):
            self.model_insert(address, size, slot)

    @rule(first=st.integers(0, 4000), count=st.integers(1, 1500), step=st.sampled_from([-2, 1, 3]))
    def insert_run(self, first, count, step):
        address = (np.arange(count) * step + first) % 5000 + 4000
        slots = self.store.insert_many(address.astype(np.uint64), np.ones(count, dtype=np.uint64))
        for a, slot in zip(address.tolist(), slots.tolist(), strict=True):
            self.model_insert(a, 1, slot)

    @rule(first=st.integers(4000, 9000), count=st.integers(1, 3000), step=st.sampled_from([-1, 2]))
    def remove_run(self, first, count, step):
        address = np.arange(count) * step + first
        address = address[address >= 0]
        mask = self.store.remove_many(address.astype(np.uint64))
        for a, removed in zip(address.tolist(), mask.tolist(), strict=True):
            assert removed == (a in self.starts)
            if removed:
                self.model_remove(self.starts[a])

    @rule(data=st.data())
    def remove(self, data):
        if self.slots:
            slot = data.draw(st.sampled_from(sorted(self.slots)))
            self.store.remove(slot)
            self.model_remove(slot)

    @rule(address=st.integers(0, 9000))
    def discard(self, address):
        assert self.store.discard(address) == (address in self.starts)
        if address in self.starts:
            self.model_remove(self.starts[address])

    @rule()
    def clear(self):
        for slot in list(self.slots):
            self.model_remove(slot)
        self.store.clear()

    @rule(address=st.integers(0, 9100))
    def find(self, address):
        held = self.tree.at(address)
        assert self.store.find(address) == (next(iter(held)).data if held else -1)
        assert self.store.exact(address) == self.starts.get(address, -1)

    @rule()
    def look_at_all(self):
        address, size, slot = (column.tolist() for column in self.store.snapshot())
        assert address == sorted(self.starts)
        assert slot == [self.starts[a] for a in address]
        assert size == [self.slots[s][1] for s in slot]
        by_age = sorted(self.slots, key=lambda s: self.slots[s][2])
        assert self.store.in_allocation_order().tolist() == by_age
        assert all(self.store.alive(s, n) for s, (_, _, n) in self.slots.items())
        assert not any(self.store.alive(s, n) for s, n in self.gone[-100:])

    @invariant()
    def length(self):
        assert len(self.store) == len(self.slots)
        assert self.store.last_sequence == self.sequence


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class TestThreads:
    """Each thread owns a range of addresses, so that what it must see there is certain."""

    ROUNDS = 60
    THREADS = 8

    def run(self, *targets):
        failures = []

        def guarded(target):
            try:
                target()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=guarded, args=(t,)) for t in targets]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        if failures:
            raise failures[0]

    def test_hammering_loses_and_invents_nothing(self, store):
        done = threading.Event()

        def owner(number):
            # The ranges interleave: every block of the index has objects of every thread.
            address = np.arange(600, dtype=np.uint64) * np.uint64(64 * self.THREADS)
            address += np.uint64((number + 1) * 64)
            size = np.full(600, 32, dtype=np.uint64)
            random = np.random.default_rng(number)
            for _ in range(self.ROUNDS):
                order = random.permutation(600)
                slots = store.insert_many(address[order], size)
                assert (slots >= 0).all()
                sequences = store.records["sequence"][slots].copy()
                assert store.write("trace", slots.astype(np.uint32), sequences, number).all()
                for row in order[:50].tolist():
                    a = int(address[row])
                    slot = store.find(a + 31)
                    assert slot == store.exact(a)
                    assert store.insert(a, 1) == -1 - slot
                    store.remove(slot, store.sequence_of(slot))
                    assert store.insert(a, 32, trace=number) >= 0
                assert store.remove_many(address).all()
            store.insert_many(address, size)

        def reader():
            while not done.is_set():
                address, size, slot = store.snapshot()
                assert (address[:-1] + size[:-1] <= address[1:]).all()
                assert np.unique(slot).size == slot.size
                slots, record = store.snapshot_records()
                assert (record["sequence"] > 0).all()
                assert (record["size"] == 32).all()
                store.alive_many(slots, record["sequence"])
                store.write("count", slots, record["sequence"], 3)
                order = store.in_allocation_order()
                assert np.unique(order).size == order.size

        def owners():
            try:
                self.run(*[lambda n=n: owner(n) for n in range(self.THREADS)])
            finally:
                done.set()

        self.run(owners, reader)
        address = store.snapshot()[0]
        assert address.size == len(store) == 600 * self.THREADS
        assert (address == np.arange(1, 600 * self.THREADS + 1, dtype=np.uint64) * 64).all()

    def test_of_many_who_free_the_same_object_one_succeeds(self, store):
        address, size = spaced(2000)
        freed = []

        def free():
            freed.append(sum(store.discard(a) for a in address.tolist()))

        store.insert_many(address, size)
        self.run(*[free] * self.THREADS)
        assert sum(freed) == 2000

    def test_of_many_who_claim_the_same_place_one_succeeds(self, store):
        address, size = spaced(20_000)
        claimed = []

        def claim():
            claimed.append((store.insert_many(address, size) >= 0).sum())

        self.run(*[claim] * self.THREADS)
        assert sum(claimed) == len(store) == 20_000
