"""BTF: what it says of structures, bit fields, arrays and enumerations; and damage."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmemleak_core.errors import DumpError
from kmemleak_core.symbols import Member
from kmemleak_core.symbols.btf import BtfTypes, Kind

from ..builders.btf import Btf


@pytest.fixture
def built() -> Btf:
    return sample()


def sample() -> Btf:
    btf = Btf()
    u32, s32 = btf.int("unsigned int", 4), btf.int("int", 4, signed=True)
    u64, char = btf.int("long unsigned int", 8), btf.int("char", 1, signed=True)
    head = btf.first_id + len(btf.records)
    pointer = btf.add(Kind.PTR, "", head + 1)
    assert btf.struct("list_head", 16, ("next", pointer, 0), ("prev", pointer, 64)) == pointer + 1
    inner = btf.struct("", 8, ("low", u32, 0), ("high", u32, 32))
    either = btf.struct("", 8, ("", inner, 0), ("both", u64, 0), union=True)
    typedef = btf.add(Kind.TYPEDEF, "atomic_t", btf.struct("", 4, ("counter", s32, 0)))
    const = btf.add(Kind.CONST, "", btf.add(Kind.VOLATILE, "", typedef))
    comm, none = btf.array(char, 16), btf.array(u64, 0)
    grid = btf.array(btf.array(pointer + 1, 3), 2)
    color = btf.enum("color", ("RED", 0), ("GREEN", 5))
    below = btf.enum("below", ("BELOW", -7), flag=True)
    btf.enum("wide", ("WIDE", 1 << 40), ("MINUS", -2), size=8, flag=True)
    btf.struct(
        "thing",
        160,
        ("list", pointer + 1, 0, 0),
        ("", either, 128, 0),
        ("count", const, 192, 0),
        ("a", u32, 224, 3),
        ("b", s32, 227, 5),
        ("c", u32, 250, 10),
        ("comm", comm, 288, 0),
        ("color", color, 416, 0),
        ("below", below, 448, 0),
        ("grid", grid, 512, 0),
        ("end", none, 1280, 0),
        flag=True,
    )
    btf.add(Kind.FUNC, "thing", btf.add(Kind.FUNC_PROTO))
    return btf


@pytest.fixture
def types(built) -> BtfTypes:
    return BtfTypes(built.data())


MEMBERS = [
    Member("list", 0, 16, type="struct list_head"),
    Member("low", 16, 4, type="unsigned int"),
    Member("high", 20, 4, type="unsigned int"),
    Member("both", 16, 8, type="unsigned long"),
    Member("count", 24, 4, type="atomic_t"),
    Member("a", 28, 4, bit_offset=0, bit_size=3, type="unsigned int"),
    Member("b", 28, 4, bit_offset=3, bit_size=5, signed=True, type="int"),
    # It straddles two words: as few bytes as hold it.
    Member("c", 31, 2, bit_offset=2, bit_size=10, type="unsigned int"),
    Member("comm", 36, 16, signed=True, count=16, type="char [16]"),
    Member("color", 52, 4, type="enum color"),
    Member("below", 56, 4, signed=True, type="enum below"),
    Member("grid", 64, 96, count=6, type="struct list_head [6]"),
    Member("end", 160, 0, type="unsigned long []"),
]


def test_members_of_nameless_members_are_the_structures_own(types):
    struct = types.struct("thing")
    assert (struct.name, struct.size) == ("thing", 160)
    assert list(struct.members.values()) == MEMBERS


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("list.prev", Member("list.prev", 8, 8, type="struct list_head *")),
        ("count.counter", Member("count.counter", 24, 4, signed=True, type="int")),
        ("comm[15]", Member("comm[15]", 51, 1, signed=True, type="char")),
        ("grid.next", Member("grid.next", 64, 8, type="struct list_head *")),
        ("grid[5].prev", Member("grid[5].prev", 152, 8, type="struct list_head *")),
        ("comm[16]", None),
        ("end[0]", None),
        ("list.nosuch", None),
        ("both.low", None),
        ("list.next.next", None),
        ("", None),
        ("list.", None),
        ("comm[", None),
    ],
)
def test_a_path_leads_to_a_member(types, path, expected):
    assert types.member("thing", path) == expected


def test_a_typedef_of_a_nameless_structure_is_one(types):
    assert types.struct("atomic_t").members["counter"].offset == 0
    assert types.struct("color") is types.struct("nosuch") is types.struct("") is None


def test_enumerators_are_found_whatever_their_enumeration(types):
    values = {"RED": 0, "GREEN": 5, "BELOW": -7, "WIDE": 1 << 40, "MINUS": -2}
    assert {name: types.enumerator(name) for name in values} == values
    assert types.enumeration("wide") == {"WIDE": 1 << 40, "MINUS": -2}
    assert types.enumerator("thing") is None


def test_bit_fields_of_the_oldest_kind_have_a_narrower_type():
    btf = Btf()
    narrow = btf.int("unsigned int", 4, bits=3)
    btf.struct("old", 4, ("first", narrow, 0), ("second", narrow, 3))
    found = BtfTypes(btf.data()).struct("old").members
    assert [(m.offset, m.bit_offset, m.bit_size) for m in found.values()] == [(0, 0, 3), (0, 3, 3)]


def test_a_big_endian_machine_counts_bits_from_the_other_end(built):
    big = bytearray(built.bytes())
    words = np.frombuffer(bytes(big), "<u4", count=(len(big) - len(built.text)) // 4)
    head = b"\xeb\x9f\x01\x00" + words[1:].astype(">u4").tobytes()
    data = np.frombuffer(head + bytes(built.text), np.uint8)
    a = BtfTypes(data, byteorder="big").member("thing", "a")
    assert (a.offset, a.bit_offset, a.bit_size) == (28, 29, 3)


def test_a_modules_types_build_on_the_kernels(types):
    module = Btf(types.end_id, types.text_end)
    thing = next(i for i in range(1, types.end_id) if types._record(i)[2] == 160)
    module.struct("own", 320, ("first", thing, 0), ("second", thing, 1280))
    module.enum("mine", ("MINE", 3))
    found = BtfTypes(module.data(), base=types)
    assert found.member("own", "second.list.prev").offset == 168
    assert found.struct("thing") == types.struct("thing")
    assert (found.enumerator("MINE"), found.enumerator("GREEN")) == (3, 5)
    assert types.struct("own") is None


def loop(btf: Btf) -> None:
    at = btf.first_id
    btf.add(Kind.TYPEDEF, "looping", at)
    btf.struct("uses", 8, ("member", at, 0))


def nest(btf: Btf) -> None:
    """A structure of 100 nameless ones, each of them of 100, and so on."""
    inner = btf.int("int", 4)
    for _ in range(8):
        inner = btf.struct("", 4, *(("", inner, 0) for _ in range(100)))
    btf.struct("uses", 4, ("", inner, 0))


def itself(btf: Btf) -> None:
    at = btf.first_id
    btf.struct("uses", 8, ("", at, 0))


def far(btf: Btf) -> None:
    btf.struct("uses", 8, ("member", 12345, 0))


def unnamed(btf: Btf) -> None:
    btf.add(Kind.STRUCT, "uses", 8, 1 << 20, 0, 0, vlen=1)


@pytest.mark.parametrize("damage", [loop, nest, itself, far, unnamed])
def test_records_that_lead_nowhere_or_round_are_told(damage):
    btf = Btf()
    damage(btf)
    with pytest.raises(DumpError, match=r"damaged|more members than any"):
        BtfTypes(btf.data()).struct("uses")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:20], "begin as BTF"),
        (lambda raw: b"\0" * 64, "begin as BTF"),
        (lambda raw: raw[:100], "outside"),
        (lambda raw: raw[:-1] + b"x", "strings"),
        (lambda raw: raw[:28] + b"\0\0\0\x7f" + raw[32:], "unknown kind"),
        (lambda raw: raw[:28] + b"\xff\xff\0\x04" + raw[32:], "cut off"),
    ],
)
def test_what_is_no_btf_is_told(built, damage, message):
    raw = damage(built.bytes())
    with pytest.raises(DumpError, match=message):
        BtfTypes(np.frombuffer(raw, np.uint8))


NAMES = ("thing", "list_head", "atomic_t", "color", "looping")


@settings(max_examples=500, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), min_size=1, max_size=6))
def test_damaged_btf_is_an_error_or_types(changes):
    raw = bytearray(sample().bytes())
    for at, value in changes:
        raw[at % len(raw)] = value
    try:
        types = BtfTypes(np.frombuffer(bytes(raw), np.uint8))
    except DumpError:
        return
    for name in NAMES:
        with suppress(DumpError):
            for member in getattr(types.struct(name), "members", ()):
                types.member(name, f"{member}.next")
                types.member(name, f"{member}[3].prev")
    for name in ("RED", "WIDE", "nosuch"):
        types.enumerator(name)
