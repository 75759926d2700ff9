"""The kernel's table of symbols: each form of it, its answers, and damage."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmemleak_core.dumps import open_dump
from kmemleak_core.errors import DumpError
from kmemleak_core.image import MemoryImage
from kmemleak_core.symbols.kallsyms import read_kallsyms
from kmemleak_core.symbols.table import KernelSymbols

from ..builders.kallsyms import FORMS, STEXT, image_of, kallsyms

SYMBOLS = [
    (STEXT, "T", "_stext"),
    (STEXT, "T", "_text"),
    (STEXT + 0x10, "t", "kmemleak_alloc"),
    (STEXT + 0x10, "T", "an_alias"),
    (STEXT + 0x40, "t", "x" * 300),
    (STEXT + 0x80, "t", "same"),
    (STEXT + 0x90, "t", "same"),
    (STEXT + 0x1000, "B", "_end"),
]
PER_CPU = [(0x40, "A", "this_cpu"), (0x7FFF_0000, "A", "last_cpu")]


def read(symbols, form="percpu"):
    info, parts = kallsyms(symbols, form=form)
    return read_kallsyms(image_of(parts), info)


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_addresses_is_read(form):
    symbols = SYMBOLS if form in ("relative", "place") else PER_CPU + SYMBOLS
    table = read(symbols, form)
    assert [(s.address, s.kind, s.name) for s in table] == symbols
    for address, _, name in symbols:
        if name != "same":
            assert table.address(name) == address


name = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=500)


@given(st.lists(st.tuples(st.integers(0, 1 << 30), st.sampled_from("tTdDbB"), name), max_size=40))
def test_any_names_are_read(more):
    symbols = sorted((STEXT + a, kind, text) for a, kind, text in more)
    symbols = [(STEXT, "T", "_stext"), *symbols]
    table = read(symbols)
    assert [(s.address, s.kind, s.name) for s in table] == symbols
    for _, _, text in symbols:
        assert table.address(text) == next(a for a, _, n in symbols if n == text)


def test_the_first_of_several_names_of_an_address_is_shown():
    symbols = KernelSymbols(read(SYMBOLS))
    assert symbols.text(STEXT + 0x11) == "kmemleak_alloc+0x1/0x30"
    assert symbols.text(STEXT) == "_stext+0x0/0x10"
    assert symbols.find(STEXT + 0x10).size == 0x30


def test_the_first_address_of_a_name_is_its_address():
    assert read(SYMBOLS).address("same") == STEXT + 0x80
    assert read(SYMBOLS).address("sam") is read(SYMBOLS).address("") is None


@pytest.mark.parametrize("address", [0, 0x40, STEXT - 1, STEXT + 0x1000, (1 << 64) - 1])
def test_what_lies_outside_the_kernel_has_no_name(address):
    symbols = KernelSymbols(read(PER_CPU + SYMBOLS))
    assert symbols.find(address) is None
    assert symbols.text(address) == f"{address:#x}"


def test_without_variables_in_the_table_only_code_has_names():
    code = [(STEXT, "T", "_stext"), (STEXT + 0x20, "T", "_etext"), (STEXT + 0x40, "t", "later")]
    symbols = read(code)
    assert symbols.text(STEXT + 0x1F) == "_stext+0x1f/0x20"
    assert symbols.text(STEXT + 0x41) == f"{STEXT + 0x41:#x}"


def test_the_last_symbol_ends_with_the_kernel():
    symbols = [(STEXT, "T", "_stext"), (STEXT + 0x10, "t", "last")]
    end = (STEXT + 0x100, "B", "_end")
    assert read([*symbols, end]).text(STEXT + 0x11) == "last+0x1/0xf0"


@pytest.mark.parametrize("table", ["names", "num_syms", "token_table", "token_index", "offsets"])
def test_what_vmcoreinfo_lacks_or_the_dump_is_told(table):
    info, parts = kallsyms(SYMBOLS)
    with pytest.raises(DumpError, match=r"VMCOREINFO does not tell.*nor are they found"):
        read_kallsyms(image_of(parts), {k: v for k, v in info.items() if table not in k})
    parts[table] = bytearray()
    with pytest.raises(DumpError, match="not whole in the dump"):
        read_kallsyms(image_of(parts), info)


def test_another_kernels_addresses_are_not_believed():
    info, parts = kallsyms(SYMBOLS)
    info["SYMBOL(_stext)"] = f"{STEXT + 0x200000:x}"
    with pytest.raises(DumpError, match="not those of VMCOREINFO"):
        read_kallsyms(image_of(parts), info)


@pytest.mark.parametrize("value", ["", "not hexadecimal", "-1", "f" * 40])
def test_an_address_that_is_none_is_told(value):
    info, parts = kallsyms(SYMBOLS)
    info["SYMBOL(kallsyms_names)"] = value
    with pytest.raises(DumpError):
        read_kallsyms(image_of(parts), info)


def contiguous(parts) -> MemoryImage:
    """Return the tables behind each other, in the order of kernels until 6.3, amid other data."""
    order = ("addresses", "offsets", "relative_base", "num_syms", "names", "token_table")
    data = bytearray(os.urandom(4096))
    for name in (*order, "token_index"):
        if name in parts:
            data += parts[name] + b"\0" * (-len(parts[name]) % 8)
    data += os.urandom(4096)
    return MemoryImage.from_segments([(STEXT + 0x8_0000, np.frombuffer(bytes(data), np.uint8))])


@pytest.mark.parametrize("form", ["absolute", "relative", "percpu"])
def test_where_vmcoreinfo_is_silent_the_tables_are_searched_for(form):
    symbols = [(STEXT, "T", "_stext")]
    symbols += [(STEXT + 16 * i, "t", f"kmemleak_{i}") for i in range(1, 700)]
    info, parts = kallsyms(symbols, form=form)
    found = read_kallsyms(contiguous(parts), {"SYMBOL(_stext)": info["SYMBOL(_stext)"]})
    assert [(s.address, s.kind, s.name) for s in found] == symbols


@pytest.mark.parametrize("name", ["snap1", "big"])
def test_a_real_kernels_tables_are_found_without_vmcoreinfo(name, vmcores):
    dump = open_dump(vmcores(name))
    info = dump.machine.info
    silent = {k: v for k, v in info.items() if "kallsyms" not in k}
    told, found = read_kallsyms(dump.image, info), read_kallsyms(dump.image, silent)
    assert np.array_equal(found.addresses, told.addresses)
    assert found.names == told.names


def test_where_no_tables_are_none_are_found():
    image = MemoryImage.from_segments([(STEXT, np.zeros(1 << 16, np.uint8))])
    for info in ({}, {"SYMBOL(_stext)": f"{STEXT:x}"}):
        with pytest.raises(DumpError, match="nor are they found"):
            read_kallsyms(image, info)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_table_is_an_error_or_a_table(data):
    info, parts = kallsyms(
        PER_CPU + SYMBOLS, form=data.draw(st.sampled_from(("percpu", "absolute")))
    )
    for _ in range(data.draw(st.integers(1, 4))):
        table = parts[data.draw(st.sampled_from(sorted(parts)))]
        at = data.draw(st.integers(0, len(table) - 1))
        table[at] = data.draw(st.integers(0, 255))
    try:
        found = read_kallsyms(image_of(parts), info)
    except DumpError:
        return
    assert len(list(found)) == len(found)
    for symbol in found:
        found.text(symbol.address)
        found.address(symbol.name)
