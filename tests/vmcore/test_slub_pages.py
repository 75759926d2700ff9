"""The array of struct pages as columns: compound pages, uses, absent sections, zones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmemleak_core.dump import Machine
from kmemleak_core.errors import DumpError
from kmemleak_core.linux.pages import read_pages
from kmemleak_core.physical import PhysicalMemory, PhysicalRange

from ..builders.kernel import PAGE_ARRAY, TableTypes, kernel_of

STRUCT = np.dtype(
    [
        ("flags", "<u8"),
        ("link", "<u8"),
        ("lru", "<u8"),
        ("mapping", "<u8"),
        ("index", "<u8"),
        ("private", "<u8"),
        ("page_type", "<u4"),
        ("refcount", "<i4"),
        ("memcg", "<u8"),
    ]
)
MEMBERS = {
    "flags": (0, 8),
    "compound_head": (8, 8),
    "mapping": (24, 8),
    "page_type": (48, 4),
    "_refcount.counter": (52, 4, -1),
}
OLDER = {"PG_reserved": 12, "PG_slab": 9, "PG_head": 16, "PG_lru": 4}
NEWER = {"PG_reserved": 12, "PGTY_slab": 0xF5, "PG_head": 6, "PGTY_table": 0xF2}
FIRST_6_10 = {"PG_reserved": 12, "PG_head": 6, "PG_slab": 0x1000}
CONTIG, ZONE_SIZE, FRAMES = 0xFFFF_FFFF_8200_0000, 64, 256


def pages_of(n=FRAMES):
    table = np.zeros(n, STRUCT)
    table["page_type"] = 0xFFFF_FFFF
    return table


def struct_at(frame):
    return PAGE_ARRAY + frame * STRUCT.itemsize


def compound(table, head, order, *, flags=1 << 16, mask=False):
    table["flags"][head] |= flags
    tails = slice(head + 1, head + (1 << order))
    mask = (-(STRUCT.itemsize << order) | 1) % (1 << 64)
    table["link"][tails] = mask if mask else struct_at(head) | 1


def read(table, enumerators=OLDER, *, members=MEMBERS, at=0, info=None, extra=(), symbols=None):
    layouts = {
        "page": (STRUCT.itemsize, members),
        "pglist_data": (256, {"node_zones": (64, 2 * ZONE_SIZE, 2)}),
        "zone": (ZONE_SIZE, {"zone_start_pfn": (0, 8), "spanned_pages": (8, 8)}),
    }
    segments = [(struct_at(at), table.view(np.uint8)), *extra]
    types = TableTypes(layouts, enumerators)
    return read_pages(kernel_of(segments, types, symbols, frames=FRAMES, info=info))


def test_a_tails_count_is_its_heads():
    table = pages_of()
    table["refcount"][8] = 3
    compound(table, 8, 2)
    pages = read(table)
    assert pages.count[6:14].tolist() == [0, 0, 3, 3, 3, 3, 0, 0]
    assert np.flatnonzero(pages.tail).tolist() == [9, 10, 11]


def test_a_tail_can_hold_a_mask_in_place_of_an_address():
    table = pages_of()
    table["refcount"][16] = 1
    compound(table, 16, 4, mask=True)
    members = {**MEMBERS, "compound_info": MEMBERS["compound_head"]}
    del members["compound_head"]
    assert np.flatnonzero(read(table, members=members).count).tolist() == list(range(16, 32))


def test_tails_of_a_huge_page_that_share_the_heads_page_of_structs():
    # The kernel kept 64 of 128 struct pages, and maps them a second time for the others.
    table = pages_of()
    table["refcount"][0] = 1
    compound(table, 0, 7)
    table[64:128] = table[0:64]
    pages = read(table)
    assert pages.head[:130].tolist() == [0] * 128 + [128, 129]


@pytest.mark.parametrize(
    ("enumerators", "info", "column", "value"),
    [
        (OLDER, {}, "flags", 1 << 9),
        (NEWER, {}, "page_type", 0xF500_0000),
        (NEWER, {}, "page_type", 0xF500_1234),
        (FIRST_6_10, {}, "page_type", 0xFFFF_EFFF),
        ({}, {"NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)": str(~0x1000)}, "page_type", 0xFFFF_EFFF),
        ({}, {"NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)": str(0xF5 << 24)}, "page_type", 0xF500_0007),
    ],
)
def test_slabs_are_recognised_by_what_the_kernel_has(enumerators, info, column, value):
    table = pages_of()
    table["page_type"][3] = 5  # mapped six times
    table["page_type"][4] = 0xFFFF_FF7F  # a free page, as it was marked before 6.12
    table[column][8] = value
    compound(table, 8, 1)
    assert np.flatnonzero(read(table, enumerators, info=info).slab).tolist() == [8, 9]


def test_what_a_kernel_does_not_mark_is_known_not_to_be_known():
    assert not read(pages_of()).knows("large_kmalloc")
    assert read(pages_of(), NEWER).knows("table")


def test_absent_sections_are_left_out():
    low, high = pages_of(64), pages_of(64)
    low["refcount"][:], high["refcount"][:] = 1, 1
    pages = read(low, at=0, extra=[(struct_at(128), high.view(np.uint8))])
    assert pages.frame.tolist() == [*range(64), *range(128, 192)]
    assert pages.rows(np.array([63, 64, 127, 128, 191, 192], np.uint64)).tolist() == [
        63, -1, -1, 64, 127, -1,
    ]  # fmt: skip
    address, size = pages.structs_in_use()
    assert address.tolist() == [struct_at(0), struct_at(128)]
    assert size.tolist() == [64 * 64, 64 * 64]


def test_struct_pages_that_lie_across_two_segments():
    raw = pages_of(6)
    raw["refcount"] = range(1, 7)
    data = raw.view(np.uint8)
    pages = read(raw[:2], extra=[(struct_at(2), data[128:200]), (struct_at(2) + 72, data[200:])])
    assert pages.refcount.tolist() == [1, 2, 3, 4, 5, 6]
    pages = read(raw[:2], extra=[(struct_at(3) + 8, data[200:])])
    assert pages.frame.tolist() == [0, 1, 4, 5]


def test_struct_pages_beyond_all_zones_are_not_in_use():
    zones = np.zeros(256, np.uint8)
    zones[64:80].view("<u8")[:] = (1, 99)
    table = pages_of()
    table["refcount"][:] = 1
    pages = read(table, extra=[(CONTIG, zones)], symbols={"contig_page_data": CONTIG})
    assert [(z.first, z.end) for z in pages.zones] == [(1, 100)]
    assert [a.tolist() for a in pages.structs_in_use()] == [[struct_at(1)], [99 * 64]]


def test_what_is_mapped_before_the_first_frame_is_no_struct_page():
    # On AArch64 devices can be mapped where frames below all memory would have theirs.
    table = pages_of(64)
    table["link"] = 0xC_0000_0001
    ram = pages_of(64)
    types = TableTypes({"page": (STRUCT.itemsize, MEMBERS)}, OLDER)
    kernel = kernel_of(
        [(struct_at(0), table.view(np.uint8)), (struct_at(100), ram.view(np.uint8))],
        types,
        frames=FRAMES,
    )
    memory = PhysicalMemory([PhysicalRange(100 * 4096, np.zeros(64 * 4096, np.uint8))])
    kernel.dump.machine = Machine(memory, {})
    pages = read_pages(kernel)
    assert (pages.frame[0], len(pages), len(pages.coverage)) == (100, 64, 0)


def test_tails_whose_head_is_not_there_are_counted():
    table = pages_of()
    table["link"][5] = struct_at(5000) | 1
    pages = read(table)
    assert [n.count for n in pages.coverage] == [1]
    assert not pages.tail.any()


def test_an_image_without_the_array_is_refused():
    with pytest.raises(DumpError, match="no struct page"):
        read(pages_of(), at=100_000)


@given(st.integers(0, 2**32 - 1))
def test_whatever_the_array_holds_rows_stay_rows(seed):
    raw = np.random.default_rng(seed).bytes(64 * STRUCT.itemsize)
    table = np.frombuffer(raw, STRUCT).copy()
    table["link"][::3] = struct_at(0) + (table["link"][::3] % 8192 | 1)
    for enumerators in (OLDER, NEWER):
        pages = read(table, enumerators)
        assert ((pages.head >= 0) & (pages.head < len(pages))).all()
        first, end = pages.runs(pages.count != 0)
        assert (first < end).all()
