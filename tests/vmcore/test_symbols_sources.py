"""A kernel's types are the same from its BTF, its vmlinux's DWARF, and a file written of them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from kmemleak_core.cli import main
from kmemleak_core.dumps import open_dump
from kmemleak_core.errors import DumpError, UsageError
from kmemleak_core.heaps.slub import read_memory
from kmemleak_core.linux.comparison import compare
from kmemleak_core.linux.kernel import open_kernel
from kmemleak_core.linux.kmemleak import find_kmemleak
from kmemleak_core.linux.verdict import AS_KERNEL, AS_NOW, find_verdict
from kmemleak_core.symbols.btf import Kind
from kmemleak_core.symbols.elf import read_elf_symbols
from kmemleak_core.symbols.layout import ENUMERATIONS, STRUCTS, LayoutTypes, describe
from kmemleak_core.symbols.vmlinux import read_vmlinux

BUILD_ID = "f1b9d57d318dda0a9ee09a9a6249808b3010d472"


@pytest.fixture(scope="module")
def dump(vmcores):
    return open_dump(vmcores("snap1"))


@pytest.fixture(scope="module")
def kernel(dump):
    return open_kernel(dump)


@pytest.fixture(scope="module")
def btf(kernel):
    return kernel.types.kernel


@pytest.fixture(scope="module")
def dwarf(vmlinux):
    pytest.importorskip("drgn")
    return read_vmlinux(vmlinux)


@pytest.fixture(scope="module")
def layout(dwarf, vmlinux, tmp_path_factory):
    path = tmp_path_factory.mktemp("layout") / "kernel.json"
    assert main(["vmcore", "layout", str(vmlinux), "-o", str(path)]) == 0
    return path


def names(btf, *kinds: Kind) -> Counter:
    return Counter(
        btf.name(int(at))
        for at, kind in zip(btf._name_at, btf._kind, strict=True)
        if kind in kinds and at
    )


def test_every_structure_has_the_same_members_in_btf_and_in_dwarf(btf, dwarf):
    types, build_id = dwarf
    assert build_id == BUILD_ID
    # A name that two structures have (dma_chan) means one of them; two more are a function's own.
    wanted = [n for n, times in names(btf, Kind.STRUCT, Kind.UNION).items() if times == 1]
    assert len(wanted) > 3300
    compared = [n for n in wanted if types.struct(n) is not None]
    assert len(wanted) - len(compared) <= 2
    assert [n for n in compared if btf.struct(n) != types.struct(n)] == []


def test_every_enumeration_has_the_same_values_in_btf_and_in_dwarf(btf, dwarf):
    types, _ = dwarf
    wanted = [n for n, times in names(btf, Kind.ENUM, Kind.ENUM64).items() if times == 1]
    compared = [n for n in wanted if types.enumeration(n)]
    assert len(compared) > 500
    # An enumerator's own name may be that of several: told by BTF as the first of them.
    differ = [n for n in compared if btf.enumeration(n) != types.enumeration(n)]
    assert len(differ) <= 5, differ
    assert btf.enumerator("PG_slab") == types.enumerator("PG_slab") == 9
    assert btf.enumerator("no_such") is types.enumerator("no_such") is None


@pytest.mark.parametrize("source", ["btf", "dwarf"])
def test_a_layout_says_what_it_was_written_of(source, btf, dwarf, tmp_path):
    types = btf if source == "btf" else dwarf[0]
    path = tmp_path / "layout.json"
    path.write_text(json.dumps(describe(types, BUILD_ID)))
    read = LayoutTypes(path)
    assert read.build_id == BUILD_ID
    for name in STRUCTS:
        assert read.struct(name) == types.struct(name)
    for struct, member in (
        ("task_struct", "thread_info.flags"),
        ("task_struct", "tasks.next"),
        ("kmemleak_object", "comm[3]"),
        ("handle_parts", "offset"),
        ("module", "core_layout.mtn.node"),
        ("zone", "free_area[10].free_list[3].prev"),
    ):
        assert read.member(struct, member) == types.member(struct, member) is not None
    assert read.member("zone", "free_area[11]") is types.member("zone", "free_area[11]") is None
    assert read.enumerator("PG_slab") == 9


@pytest.mark.parametrize("source", ["vmlinux", "layout"])
def test_a_kernel_is_opened_with_each_source(source, dump, kernel, request):
    path = request.getfixturevalue(source)
    other = open_kernel(dump, **{source: path})
    assert str(path) in other.types.origin
    assert (other.direct_map, other.page_array) == (kernel.direct_map, kernel.page_array)
    assert other.per_cpu_offsets == kernel.per_cpu_offsets
    assert [m.memory for m in other.modules] == [m.memory for m in kernel.modules]
    text = [m.symbols.text(m.memory[0].start + 5) for m in other.modules]
    assert text == [kernel.symbols.text(m.memory[0].start + 5) for m in kernel.modules]
    # A module's BTF goes on from the dump's own, whatever describes the kernel.
    assert other.types.member("kmemleak_test:test_node", "list.prev").offset == 208
    assert not other.coverage.notes


class Asked:
    """Types that remember what they were asked for."""

    def __init__(self, types) -> None:
        self.types, self.origin = types, types.origin
        self.structs: set[str] = set()
        self.enumerators: set[str] = set()

    def struct(self, name):
        self.structs.add(name)
        return self.types.struct(name)

    def member(self, struct, path):
        self.structs.add(struct)
        return self.types.member(struct, path)

    def enumerator(self, name):
        self.enumerators.add(name)
        return self.types.enumerator(name)


def analyse(kernel):
    """Ask a kernel for everything that an analysis asks for."""
    found = find_kmemleak(kernel)
    now = find_verdict(kernel, found, AS_NOW)
    compare(kernel, found, now, find_verdict(kernel, found, AS_KERNEL, base=now.base))
    memory = read_memory(kernel)
    return found.objects, memory.heap().objects, memory.roots()


def test_an_analysis_asks_for_nothing_that_a_layout_lacks(dump):
    kernel = open_kernel(dump)
    kernel.types = asked = Asked(kernel.types)
    analyse(kernel)
    types = asked.types.kernel
    had = {n for n in asked.structs if ":" not in n and types.struct(n) is not None}
    assert had <= set(STRUCTS)
    written = {name for one in ENUMERATIONS for name in types.enumeration(one)}
    assert {n for n in asked.enumerators if types.enumerator(n) is not None} <= written


def test_an_analysis_finds_the_same_with_a_layout(dump, kernel, layout):
    for one, other in zip(
        analyse(kernel)[:2], analyse(open_kernel(dump, layout=layout))[:2], strict=True
    ):
        assert np.array_equal(one.address, other.address)
        assert np.array_equal(one.size, other.size)


def test_both_sources_at_once_are_refused(dump, vmlinux, layout):
    with pytest.raises(UsageError, match="one of them"):
        open_kernel(dump, vmlinux=vmlinux, layout=layout)


def test_the_files_symbols_answer_as_the_dumps(dump, kernel, vmlinux):
    found = read_elf_symbols(vmlinux, dump.machine.info)
    own = kernel.symbols.kernel
    assert {(s.address, s.name) for s in own} <= {(s.address, s.name) for s in found}
    code = [s.address for s in own if s.kind in "tT"]
    assert len(code) > 20_000
    assert [found.text(a + 1) for a in code] == [own.text(a + 1) for a in code]


def test_a_dump_without_symbols_takes_those_of_the_file(dump, kernel, vmlinux):
    hidden = ("kallsyms", "_stext")
    info = {k: v for k, v in dump.machine.info.items() if not any(h in k for h in hidden)}
    without = replace(dump, machine=replace(dump.machine, info=info))
    with pytest.raises(DumpError, match="nor are they found"):
        open_kernel(without)
    other = open_kernel(without, vmlinux=vmlinux)
    assert [note.code for note in other.coverage] == ["kernel.symbols"]
    assert other.direct_map == kernel.direct_map
    assert other.symbols.text(kernel.modules[0].memory[0].start).startswith("wipe_stack+0x0/")


@pytest.mark.parametrize("content", [b"", b"\x7fELF\x02\x01\x01" + bytes(200)])
def test_a_file_without_symbols_is_told(content, dump, tmp_path):
    path = tmp_path / "vmlinux"
    path.write_bytes(content)
    with pytest.raises(DumpError, match=r"ELF|symbols"):
        read_elf_symbols(path, dump.machine.info)


def other_layout(layout, tmp_path, **changes):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(json.loads(layout.read_text()) | changes))
    return path


def test_another_kernels_layout_is_refused(dump, layout, tmp_path):
    path = other_layout(layout, tmp_path, build_id="00" * 20)
    with pytest.raises(DumpError, match=f"another kernel.*{'00' * 20}.*{BUILD_ID}"):
        open_kernel(dump, layout=path)


def test_a_layout_without_a_build_id_is_used_and_told(dump, layout, tmp_path):
    kernel = open_kernel(dump, layout=other_layout(layout, tmp_path, build_id=""))
    assert [note.code for note in kernel.coverage] == ["kernel.build-id"]


def test_the_build_id_is_that_of_the_notes_in_memory_where_vmcoreinfo_has_none(dump, layout):
    info = {k: v for k, v in dump.machine.info.items() if k != "BUILD-ID"}
    without = replace(dump, machine=replace(dump.machine, info=info))
    assert not open_kernel(without, layout=layout).coverage.notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither an ELF"),
        (b"\x7fELF" + b"\0" * 100, "ELF"),
        (b"\x9f\xeb\x01\0" + b"\xff" * 40, "sections lie outside"),
    ],
)
def test_what_is_no_vmlinux_is_told(content, message, tmp_path, capsys):
    path = tmp_path / "vmlinux"
    path.write_bytes(content)
    assert main(["vmcore", "layout", str(path)]) == 3
    assert message in capsys.readouterr().err


def test_a_layout_is_not_overwritten(layout, vmlinux, capsys):
    assert main(["vmcore", "layout", str(vmlinux), "-o", str(layout)]) == 2
    assert "--force" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "kmemleak-layout"),
        ({"version": 2}, "version"),
        ({"byteorder": "middle"}, "byteorder"),
        ({"build_id": 5}, "build_id"),
        ({"names": {"page": "nowhere"}}, "names.*page"),
        (
            {"names": {}, "structs": {"page": {"name": "page", "size": -1, "members": {}}}},
            "structs.page.size",
        ),
        ({"enumerators": {"PG_slab": "nine"}}, "PG_slab"),
    ],
)
def test_a_damaged_layout_names_what_is_wrong(changes, message, layout, tmp_path):
    path = other_layout(layout, tmp_path, **changes)
    with pytest.raises(DumpError, match=message):
        LayoutTypes(path)


def test_what_is_no_layout_is_told(tmp_path):
    for content in (b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000):
        path = tmp_path / "layout.json"
        path.write_bytes(content)
        with pytest.raises(DumpError, match="no layout"):
            LayoutTypes(path)
