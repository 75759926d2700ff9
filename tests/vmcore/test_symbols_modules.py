"""Modules out of a real dump whose descriptions of them are damaged: told, never more."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmemleak_core.coverage import Coverage
from kmemleak_core.dumps import open_dump
from kmemleak_core.image import MemoryImage
from kmemleak_core.linux.kernel import open_kernel
from kmemleak_core.linux.module_types import with_modules
from kmemleak_core.linux.modules import read_modules
from kmemleak_core.linux.structures import Structures

from ..builders.kernel import TableSymbols, TableTypes


@pytest.fixture(scope="module")
def kernel(vmcores):
    return open_kernel(open_dump(vmcores("snap1")))


def with_bytes(image: MemoryImage, changes: dict[int, bytes]) -> MemoryImage:
    """Return an image some of whose bytes are others."""
    segments = {s.address: s for s in image.segments}
    for address, data in changes.items():
        segment = segments[image.find(address).address]
        if segment.data.base is not None or not segment.data.flags.writeable:
            segment = replace(segment, data=segment.data.copy())
        at = address - segment.address
        segment.data[at : at + len(data)] = np.frombuffer(data, np.uint8)
        segments[segment.address] = segment
    return MemoryImage(segments.values())


def read(kernel, changes: dict[int, bytes]):
    """Read modules, their symbols and types; return modules and what was told."""
    coverage = Coverage()
    structures = Structures(with_bytes(kernel.image, changes), kernel.types)
    modules = read_modules(structures, kernel.symbols.kernel, coverage)
    base = kernel.types.kernel
    types = with_modules(base, base, structures, kernel.symbols.kernel, modules, coverage)
    for module in modules:
        for symbol in module.symbols:
            assert module.symbols.rows(symbol.name).size
        for memory in module.memory:
            module.symbols.text(memory.start)
    types.struct("*:nosuch")
    return modules, [note.code for note in coverage]


def place(kernel, module: str, path: str) -> int:
    at = next(m.address for m in kernel.modules if m.name == module)
    return at + kernel.types.member("module", path).offset


def test_an_undamaged_dump_has_both_modules(kernel):
    modules, told = read(kernel, {})
    assert [m.name for m in modules] == ["kml_dev", "kmemleak_test"]
    assert not told


@pytest.mark.parametrize(
    ("link", "names"),
    [
        (0, ["kml_dev"]),
        (0xFFFF_8000_DEAD_BEEF, ["kml_dev"]),
        ((1 << 64) - 8, ["kml_dev"]),
    ],
)
def test_a_list_that_leads_nowhere_ends_there(kernel, link, names):
    where = place(kernel, "kml_dev", "list.next")
    modules, told = read(kernel, {where: link.to_bytes(8, "little")})
    assert [m.name for m in modules] == names
    assert "kernel.modules" in told


def test_a_list_that_comes_back_ends_there(kernel):
    where = place(kernel, "kml_dev", "list.next")
    modules, told = read(kernel, {where: where.to_bytes(8, "little")})
    assert [m.name for m in modules] == ["kml_dev"]
    assert told == ["kernel.modules"]


@pytest.mark.parametrize("value", [0, 8, (1 << 64) - 1, 0xFFFF_8000_0000_0000])
def test_a_module_without_readable_symbols_has_none(kernel, value):
    where = place(kernel, "kml_dev", "kallsyms")
    modules, told = read(kernel, {where: value.to_bytes(8, "little")})
    assert [len(m.symbols) for m in modules] == [0, 8]
    assert told == ["kernel.module-symbols"]


@pytest.mark.parametrize("count", [0, 1 << 19, (1 << 32) - 1])
def test_a_module_that_claims_to_have_many_symbols_has_none(kernel, count):
    table = kernel.structures().number(place(kernel, "kml_dev", "kallsyms"))
    where = table + kernel.types.member("mod_kallsyms", "num_symtab").offset
    modules, told = read(kernel, {where: count.to_bytes(4, "little")})
    assert [len(m.symbols) for m in modules] == [0, 8]
    assert told == ["kernel.module-symbols"]


def test_a_module_that_is_being_made_is_none(kernel):
    unformed = kernel.types.enumerator("MODULE_STATE_UNFORMED")
    where = place(kernel, "kml_dev", "state")
    modules, _ = read(kernel, {where: unformed.to_bytes(4, "little")})
    assert [m.name for m in modules] == ["kmemleak_test"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_is_told_or_without_effect(kernel, data):
    structures = kernel.structures()
    table = structures.number(place(kernel, "kml_dev", "kallsyms"))
    symbols = structures.number(table + kernel.types.member("mod_kallsyms", "symtab").offset)
    btf = structures.number(kernel.symbols.address("btf_modules"))
    regions = [
        (place(kernel, "kml_dev", "state"), kernel.types.struct("module").size),
        (table, kernel.types.struct("mod_kallsyms").size),
        (symbols, 22 * 24 + 300),
        (btf, kernel.types.struct("btf_module").size),
        (kernel.types.modules["kml_dev"].start, kernel.types.modules["kml_dev"].size),
    ]
    changes = {}
    for _ in range(data.draw(st.integers(1, 4))):
        start, size = data.draw(st.sampled_from(regions))
        at = start + data.draw(st.integers(0, size - 1))
        changes[at] = data.draw(st.binary(min_size=1, max_size=1))
    read(kernel, changes)


MODULE, TEXT, DATA = 0xFFFF_FFFF_C000_4000, 0xFFFF_FFFF_C000_0000, 0xFFFF_FFFF_C000_2000

PARTS = (("base", 0), ("size", 8))

#: ``struct module`` of 4.4, of 5.0, and of 6.4 and later.
LAYOUTS = {
    "module_core": {
        "module_core": (64, 8),
        "core_size": (72, 4),
        "core_text_size": (76, 4),
        "module_init": (80, 8),
        "init_size": (88, 4),
        "init_text_size": (92, 4),
        "symtab": (96, 8),
        "num_symtab": (104, 4),
        "strtab": (112, 8),
    },
    "core_layout": {
        "core_layout.base": (64, 8),
        "core_layout.size": (72, 4),
        "core_layout.text_size": (76, 4),
        "init_layout.base": (80, 8),
        "init_layout.size": (88, 4),
        "init_layout.text_size": (92, 4),
        "kallsyms": (120, 8),
    },
    "mem": {
        "mem": (64, 32, 2),
        **{f"mem[{i}].{what}": (64 + 16 * i + at, 8) for i in range(2) for what, at in PARTS},
        "kallsyms": (120, 8),
    },
}


def old_module(layout: str):
    """Return modules of a kernel with one, of that layout, and two symbols."""
    members = {"list": (8, 16), "name": (24, 16), **LAYOUTS[layout]}
    types = TableTypes(
        {
            "module": (256, members),
            "mod_kallsyms": (24, {"symtab": (0, 8), "num_symtab": (8, 4), "strtab": (16, 8)}),
        },
        {"MOD_TEXT": 0, "MOD_DATA": 1},
    )
    head, table, names = DATA, DATA + 0x100, DATA + 0x200
    raw = bytearray(0x6000)

    def put(address: int, data: bytes) -> None:
        raw[address - TEXT : address - TEXT + len(data)] = data

    put(head, struct.pack("<Q", MODULE + 8))
    put(MODULE + 8, struct.pack("<QQ16s", head, head, b"old"))
    if layout == "mem":
        put(MODULE + 64, struct.pack("<QQQQ", TEXT, 0x1000, TEXT + 0x1000, 0x800))
    else:
        put(MODULE + 64, struct.pack("<QII", TEXT, 0x1800, 0x1000))
    tables = struct.pack("<QQQ", table, 3, names)
    put(MODULE + 96, tables)
    put(MODULE + 120, struct.pack("<Q", MODULE + 192))
    put(MODULE + 192, tables)
    put(names, b"\0first\0second\0")
    for i, (name, letter, value) in enumerate([(1, b"t", TEXT + 0x10), (7, b"d", TEXT + 0x1010)]):
        put(table + 24 * (i + 1), struct.pack("<IcBHQQ", name, letter, 0, 1, value, 0))
    image = MemoryImage.from_segments([(TEXT, np.frombuffer(bytes(raw), np.uint8))])
    coverage = Coverage()
    symbols = TableSymbols({"modules": head})
    return read_modules(Structures(image, types), symbols, coverage), coverage


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_of_a_module_is_read(layout):
    (module,), coverage = old_module(layout)
    assert module.name == "old"
    assert [(m.start, m.size, m.kind) for m in module.memory] == [
        (TEXT, 0x1000, "text"),
        (TEXT + 0x1000, 0x800, "data"),
    ]
    assert [(s.name, s.kind) for s in module.symbols] == [("first", "t"), ("second", "d")]
    # A symbol ends with its kind of memory.
    assert module.symbols.text(TEXT + 0x11) == "first+0x1/0xff0 [old]"
    assert module.symbols.text(TEXT + 0x1011) == "second+0x1/0x7f0 [old]"
    assert module.symbols.text(TEXT + 0x1001) == f"{TEXT + 0x1001:#x}"
    assert not coverage.notes


def test_without_a_list_of_modules_there_are_none_and_it_is_told():
    coverage = Coverage()
    structures = Structures(MemoryImage([]), TableTypes({}))
    assert read_modules(structures, TableSymbols(), coverage) == ()
    assert [note.code for note in coverage] == ["kernel.modules"]
