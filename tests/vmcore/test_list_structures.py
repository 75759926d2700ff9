"""Members of many structures at a time, and lists: what is read, and what damage does."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kmemleak_core as km
from kmemleak_core.errors import DumpError
from kmemleak_core.linux.structures import Structures
from kmemleak_core.symbols import Member, Struct

BASE = 0xFFFF888000000000


class Layouts:
    """Types of one structure, given by its members."""

    origin = "the test"

    def __init__(self, *members: Member) -> None:
        self.members = {m.name: m for m in members}

    def struct(self, name: str) -> Struct | None:
        return Struct("thing", 64, self.members) if name == "thing" else None

    def member(self, struct: str, path: str) -> Member | None:
        return self.members.get(path) if struct == "thing" else None

    def enumerator(self, name: str) -> int | None:
        return None


def image(*pieces: tuple[int, bytes], byteorder: str = "little") -> km.MemoryImage:
    return km.MemoryImage.from_segments(pieces, byteorder=byteorder)


def reader(data: bytes, *members: Member, byteorder: str = "little") -> Structures:
    return Structures(image((BASE, data), byteorder=byteorder), Layouts(*members))


def test_members_of_every_width_come_as_columns():
    data = bytes(range(64)) * 4
    members = [Member(f"m{size}", 3, size) for size in (1, 2, 4, 8)]
    address = BASE + 64 * np.arange(4, dtype=np.uint64)
    columns = reader(data, *members).columns(address, "thing", "m1", "m2", "m4", "m8")
    expected = [int.from_bytes(data[3 : 3 + size], "little") for size in (1, 2, 4, 8)]
    assert [column.tolist() for column in columns] == [[value] * 4 for value in expected]


def test_the_images_byte_order_counts():
    structures = reader(bytes(range(16)), Member("m", 1, 2), byteorder="big")
    assert structures.column([BASE], "thing", "m").tolist() == [0x0102]


def test_signed_members_and_bit_fields():
    data = b"\xff\xff\xff\xff" + (0b101_10110).to_bytes(4, "little")
    structures = reader(
        data,
        Member("whole", 0, 4, signed=True),
        Member("field", 4, 4, bit_offset=1, bit_size=4),
        Member("signed", 4, 4, bit_offset=5, bit_size=3, signed=True),
    )
    values = structures.columns([BASE], "thing", "whole", "field", "signed")
    assert [value.tolist() for value in values] == [[-1], [0b1011], [-3]]


def test_what_the_image_lacks_reads_as_zero_and_is_counted():
    structures = reader(b"\xff" * 16, Member("m", 0, 8))
    address = np.array([BASE, BASE + 9, BASE - 1, 0, 2**64 - 1, BASE + 8], np.uint64)
    assert (structures.column(address, "thing", "m") != 0).tolist() == [
        True,
        False,
        False,
        False,
        False,
        True,
    ]
    assert structures.missing == 4


def test_a_structure_across_two_segments_is_read_whole():
    split = Structures(image((BASE, b"abcd"), (BASE + 4, b"efgh")), Layouts(Member("m", 0, 8)))
    address = np.array([BASE], np.uint64)
    assert split.column(address, "thing", "m").tolist() == [int.from_bytes(b"abcdefgh", "little")]
    data, present = split.bytes(address, 1, 7)
    assert (data.tobytes(), present.tolist()) == (b"bcdefgh", [True])


def test_a_member_that_is_no_number_is_an_error():
    with pytest.raises(DumpError, match="is no number"):
        reader(bytes(64), Member("array", 0, 16)).column([BASE], "thing", "array")


def linked(order: list[int]) -> bytes:
    """Cells of 16 bytes whose second word leads to the next; the last one's holds 0."""
    words = np.zeros((max(order, default=0) + 1, 2), np.uint64)
    for here, after in pairwise(order):
        words[here, 1] = BASE + 16 * after
    return words.tobytes()


@given(st.permutations(range(40)))
def test_a_list_comes_in_its_order(order):
    elements, problem = Structures(image((BASE, linked(order))), Layouts()).follow(
        BASE + 16 * order[0], 8
    )
    assert (elements.tolist(), problem) == ([BASE + 16 * i for i in order], "")


@given(st.integers(0, 30), st.integers(1, 30))
def test_a_loop_gives_each_element_once(tail, loop):
    words = np.frombuffer(linked(list(range(tail + loop))), np.uint64).copy()
    words[-1] = BASE + 16 * tail
    elements, problem = Structures(image((BASE, words.tobytes())), Layouts()).follow(BASE, 8)
    assert elements.tolist() == [BASE + 16 * i for i in range(tail + loop)]
    assert problem == f"the list comes back to {BASE + 16 * tail:#x}"


def test_a_list_that_leaves_the_image_tells_where():
    structures = Structures(image((BASE, np.array([0, 0x1234], np.uint64).tobytes())), Layouts())
    elements, problem = structures.follow(BASE, 8)
    assert (elements.tolist(), problem) == (
        [BASE],
        "the list leads to 0x1234, which is not in the dump",
    )


def test_a_list_ends_after_as_many_elements_as_allowed():
    structures = Structures(image((BASE, linked(list(range(20))))), Layouts())
    elements, problem = structures.follow(BASE, 8, most=7)
    assert len(elements) == 7
    assert problem == "the list does not end after 7 elements"


def test_a_list_as_long_as_its_array_grows():
    order = list(np.random.default_rng(1).permutation(5000))
    structures = Structures(image((BASE, linked([int(i) for i in order]))), Layouts())
    elements, problem = structures.follow(BASE + 16 * int(order[0]), 8)
    assert (elements.size, problem) == (5000, "")


def test_many_lists_are_followed_at_once():
    chains = [[0, 3, 5], [1], [2, 4]]
    words = np.zeros((6, 2), np.uint64)
    for chain in chains:
        for here, after in pairwise(chain):
            words[here, 1] = BASE + 16 * after
    structures = Structures(image((BASE, words.tobytes())), Layouts())
    first = [BASE, 0, BASE + 16, BASE + 32]
    elements, owner, damaged = structures.follow_many(first, 8)
    assert ((elements - np.uint64(BASE)) // np.uint64(16)).tolist() == [0, 3, 5, 1, 2, 4]
    assert (owner.tolist(), damaged) == ([0, 0, 0, 2, 3, 3], 0)


def test_damaged_lists_among_many_are_counted_and_bounded():
    words = np.zeros((4, 2), np.uint64)
    words[0, 1], words[1, 1] = BASE + 16, BASE  # a loop
    words[2, 1] = 0x1234  # leads nowhere
    structures = Structures(image((BASE, words.tobytes())), Layouts())
    first = np.array([BASE, BASE + 32, BASE + 48], np.uint64)
    elements, owner, damaged = structures.follow_many(first, 8)
    assert (owner.tolist(), damaged) == ([0, 0, 1, 2], 2)
    elements, owner, damaged = structures.follow_many(np.repeat(first[:1], 100), 8, most=11)
    assert (len(elements), damaged) == (11, 100)
