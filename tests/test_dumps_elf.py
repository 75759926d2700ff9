"""ELF cores: headers, segments, mappings."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from kmemleak_core import Dump, DumpError, UsageError
from kmemleak_core.dumps import Source, formats, open_dump

from .builders.elf import EM_386, EM_PPC64, EM_S390, EM_X86_64, CoreBuilder, R, W, X

PAGE = 4096
KINDS = [
    (64, "little", EM_X86_64),
    (64, "big", EM_PPC64),
    (32, "little", EM_386),
    (32, "big", EM_S390),
]


def opened(tmp_path: Path, builder: CoreBuilder | bytes) -> Dump:
    path = tmp_path / "core"
    path.write_bytes(builder if isinstance(builder, bytes) else builder.build())
    return open_dump(path)


def codes(dump: Dump) -> set[str]:
    return {note.code for note in dump.coverage}


def note(dump: Dump, code: str):
    return next(n for n in dump.coverage if n.code == code)


@pytest.mark.parametrize(("bits", "byteorder", "machine"), KINDS)
def test_memory_of_every_class_and_byte_order_reads_back(tmp_path, bits, byteorder, machine):
    builder = CoreBuilder(bits, byteorder, machine)
    builder.load(0x10000, builder.pack("www", 1, 0xDEAD, 3)).load(0x20000, b"abc")
    dump = opened(tmp_path, builder)
    assert dump.image.word_size == bits // 8
    assert dump.image.byteorder == byteorder
    assert dump.image.words(0x10000, 3).tolist() == [1, 0xDEAD, 3]
    assert dump.image.read(0x20000, 3) == b"abc"
    assert dump.format == "elf-core"


def test_segments_are_views_of_the_file(tmp_path):
    dump = opened(tmp_path, CoreBuilder().load(0x1000, bytes(100)))
    assert not dump.image.segments[0].data.flags.owndata
    assert not dump.image.segments[0].data.flags.writeable


def test_permissions_are_the_flags(tmp_path):
    builder = CoreBuilder()
    for i, flags in enumerate((R, R | W, R | X, 0)):
        builder.load(0x1000 + i * 0x10000, b"x", flags=flags)
    assert [s.permissions for s in opened(tmp_path, builder).image.segments] == [
        "r--",
        "rw-",
        "r-x",
        "---",
    ]


def test_memory_that_was_not_dumped_is_a_hole(tmp_path):
    dump = opened(tmp_path, CoreBuilder().load(0x1000, b"x" * 16, memsz=PAGE))
    (hole,) = dump.image.holes
    assert (hole.address, hole.size, hole.reason) == (0x1010, PAGE - 16, "not-dumped")
    assert note(dump, "dump.filtered").nbytes == PAGE - 16


def test_reserved_address_space_is_not_told_as_missing(tmp_path):
    dump = opened(tmp_path, CoreBuilder().load(0x1000, b"x").load(0x9000, memsz=PAGE, flags=0))
    assert dump.image.holes[0].permissions == "---"
    assert "dump.filtered" not in codes(dump)


def test_a_truncated_file_keeps_what_it_has(tmp_path):
    raw = CoreBuilder().load(0x1000, b"a" * PAGE).load(0x8000, b"b" * PAGE).build()
    dump = opened(tmp_path, raw[:-1000])
    assert dump.image.read(0x8000, PAGE - 1000) == b"b" * (PAGE - 1000)
    (hole,) = dump.image.holes
    assert (hole.address, hole.size, hole.reason) == (0x8000 + PAGE - 1000, 1000, "truncated")
    assert note(dump, "dump.truncated").nbytes == 1000


def test_an_offset_beyond_the_file_is_a_hole(tmp_path):
    builder = CoreBuilder().load(0x1000, b"a").load(0x8000, memsz=64, offset=1 << 62, filesz=64)
    dump = opened(tmp_path, builder)
    assert [(h.address, h.size, h.reason) for h in dump.image.holes] == [(0x8000, 64, "truncated")]


def test_of_overlapping_segments_the_first_is_kept(tmp_path):
    builder = CoreBuilder().load(0x1000, b"a" * 0x200).load(0x1100, b"b" * 0x200)
    builder.load(0x1180, b"c" * 8)
    dump = opened(tmp_path, builder)
    assert dump.image.read(0x1000, 0x300) == b"a" * 0x200 + b"b" * 0x100
    assert note(dump, "dump.overlap").nbytes == 0x100 + 8


def test_bytes_win_over_a_hole_that_claims_the_same_place(tmp_path):
    builder = CoreBuilder().load(0x1000, memsz=0x10000).load(0x3000, b"x" * 16)
    dump = opened(tmp_path, builder)
    assert dump.image.read(0x3000, 16) == b"x" * 16
    assert [(h.address, h.size) for h in dump.image.holes] == [(0x1000, 0x2000), (0x3010, 0xDFF0)]


@pytest.mark.parametrize(("bits", "byteorder", "machine"), KINDS)
def test_sizes_that_overflow_are_clipped(tmp_path, bits, byteorder, machine):
    top = (1 << bits) - 1
    builder = CoreBuilder(bits, byteorder, machine).load(0x1000, b"a" * 16)
    builder.load(top - 0xFFF, b"b" * 64, memsz=top, filesz=top)
    builder.load(0x2000, b"c" * 8, memsz=4, filesz=top)
    dump = opened(tmp_path, builder)
    assert dump.image.read(top - 0xFFF, 64) == b"b" * 64
    assert dump.image.segments[-1].end <= 1 << bits
    assert dump.image.find(0x2003)
    assert dump.image.find(0x2004) is None
    assert note(dump, "dump.header").count == 2


def test_program_headers_of_a_wrong_size_are_an_error(tmp_path):
    builder = CoreBuilder().load(0x1000, b"a")
    builder.phentsize = 3
    with pytest.raises(DumpError, match="program headers of 3 bytes") as error:
        opened(tmp_path, builder)
    assert error.value.offset == 54


def test_more_segments_than_the_header_can_count(tmp_path):
    builder = CoreBuilder()
    for i in range(70000):
        builder.load(0x10000 + i * 0x2000, struct.pack("<Q", i), flags=R | (W if i & 1 else 0))
    dump = opened(tmp_path, builder)
    assert len(dump.image.segments) == 70000
    assert dump.image.word(0x10000 + 69999 * 0x2000) == 69999
    assert not [n for n in dump.coverage if n.code == "dump.headers"]


def test_their_number_is_found_when_section_0_was_cut_off(tmp_path):
    builder = CoreBuilder()
    for i in range(66000):
        builder.load(0x10000 + i * 0x2000, struct.pack("<Q", i))
    dump = opened(tmp_path, builder.build()[:-100])
    assert len(dump.image.segments) >= 65990
    assert "dump.headers" in codes(dump)


def test_neighbours_in_memory_and_file_are_joined(tmp_path):
    builder = CoreBuilder()
    for i in range(10):
        builder.load(0x10000 + i * 8, struct.pack("<Q", i))
    (segment,) = opened(tmp_path, builder).image.segments
    assert segment.size == 80


def test_neighbours_of_other_permissions_stay_apart(tmp_path):
    builder = CoreBuilder().load(0x1000, bytes(8)).load(0x1008, bytes(8), flags=R)
    assert len(opened(tmp_path, builder).image.segments) == 2


def test_a_segment_is_cut_where_mapped_files_begin_and_end(tmp_path):
    builder = CoreBuilder().load(0x10000, b"".join(bytes([i]) * PAGE for i in range(5)))
    builder.files([(0x11000, 0x12000, 0, "/lib/a.so"), (0x12000, 0x14000, 7, "/lib/b.so")])
    dump = opened(tmp_path, builder)
    assert [
        (s.address, s.size, s.kind, s.name, s.file_offset, int(s.data[0]))
        for s in dump.image.segments
    ] == [
        (0x10000, PAGE, "anonymous", "", 0, 0),
        (0x11000, PAGE, "file", "/lib/a.so", 0, 1),
        (0x12000, 2 * PAGE, "file", "/lib/b.so", 7 * PAGE, 2),
        (0x14000, PAGE, "anonymous", "", 0, 4),
    ]
    assert [(f.address, f.path) for f in dump.files] == [
        (0x11000, "/lib/a.so"),
        (0x12000, "/lib/b.so"),
    ]


def test_a_mapped_file_over_several_segments_names_them_all(tmp_path):
    builder = CoreBuilder().load(0x1000, bytes(PAGE), flags=R).load(0x2000, bytes(PAGE))
    builder.files([(0x1000, 0x3000, 2, "/lib/a.so")])
    assert [(s.name, s.file_offset) for s in opened(tmp_path, builder).image.segments] == [
        ("/lib/a.so", 2 * PAGE),
        ("/lib/a.so", 3 * PAGE),
    ]


def test_a_mapped_file_without_any_segment_is_a_hole(tmp_path):
    builder = CoreBuilder().load(0x1000, bytes(PAGE))
    builder.files([(0x8000, 0x9000, 0, "/lib/a.so")])
    dump = opened(tmp_path, builder)
    (hole,) = dump.image.holes
    assert (hole.address, hole.size, hole.kind, hole.name) == (0x8000, PAGE, "file", "/lib/a.so")
    assert note(dump, "dump.not-dumped").nbytes == PAGE


def test_the_unit_of_file_offsets_is_the_note_s_own(tmp_path):
    builder = CoreBuilder().load(0x10000, bytes(PAGE))
    builder.files([(0x10000, 0x11000, 3, "/x")], page_size=65536)
    assert opened(tmp_path, builder).image.segments[0].file_offset == 3 * 65536


def test_the_stack_and_the_kernel_s_pages_are_named(tmp_path):
    builder = CoreBuilder().files([(0x1000, 0x2000, 0, "/bin/x")]).load(0x1000, bytes(PAGE))
    builder.auxv({25: 0x7FFF0100, 33: 0x7000_3000})
    builder.load(0x7000_1000, memsz=PAGE, flags=R).load(0x7000_2000, memsz=PAGE, flags=R)
    builder.load(0x7000_3000, bytes(PAGE), flags=R | X).load(0x7FFF0000, bytes(PAGE))
    builder.load(0xFFFFFFFFFF600000, bytes(PAGE), flags=X)
    dump = opened(tmp_path, builder)
    assert [(s.kind, s.name) for s in dump.image.segments] == [
        ("file", "/bin/x"),
        ("special", "[vdso]"),
        ("anonymous", "[stack]"),
        ("special", "[vsyscall]"),
    ]
    assert {(h.kind, h.name) for h in dump.image.holes} == {("special", "[vvar]")}
    assert "dump.filtered" not in codes(dump)


def test_without_a_list_of_files_mappings_are_unknown(tmp_path):
    dump = opened(tmp_path, CoreBuilder().load(0x1000, bytes(16)))
    assert dump.image.segments[0].kind == "unknown"


def test_a_core_without_memory_is_an_error(tmp_path):
    with pytest.raises(DumpError, match="holds no memory"):
        opened(tmp_path, CoreBuilder().load(0x1000, memsz=PAGE))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"#!/bin/sh\necho\n", "a script"),
        (b"hello, world\n" * 10, "a text file"),
        (b"MDMP\x93\xa7\0\0" + bytes(100), "minidump"),
        (b"KDUMP   " + bytes(100), "ends inside its header"),
        (bytes(5000), "begins with zeros"),
        (bytes(range(1, 200)), "not a dump of a known format"),
        (CoreBuilder(kind=2).build(), "an ELF executable, not a core"),
        (CoreBuilder(kind=3).build(), "an ELF shared object, not a core"),
        (CoreBuilder(32, "big", kind=1).build(), "an ELF object file, not a core"),
        (b"\x7fELF", "ends inside its ELF header"),
    ],
)
def test_what_is_no_core_is_named(tmp_path, content, message):
    with pytest.raises(DumpError, match=message) as error:
        opened(tmp_path, content)
    assert str(tmp_path) in str(error.value)
    assert error.value.hint


def test_a_missing_file_and_a_directory_are_named(tmp_path):
    with pytest.raises(DumpError, match="no such file"):
        open_dump(tmp_path / "nothing")
    with pytest.raises(DumpError, match="is a directory"):
        open_dump(tmp_path)


def test_a_pipe_does_not_block(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DumpError, match="pipe"):
        open_dump(tmp_path / "pipe")


def test_the_memory_of_a_machine_is_told_apart(tmp_path):
    builder = CoreBuilder().load(0, bytes(64)).note(b"VMCOREINFO", 0, b"OSRELEASE=6.1\n")
    with pytest.raises(DumpError, match="VMCOREINFO does not say where the page tables are"):
        opened(tmp_path, builder)


def test_a_format_can_be_asked_for_by_name(tmp_path):
    (tmp_path / "core").write_bytes(CoreBuilder().load(0x1000, bytes(16)).build())
    assert open_dump(tmp_path / "core", format="elf-core").image.nbytes == 16
    with pytest.raises(UsageError, match="no dump format"):
        open_dump(tmp_path / "core", format="tea-leaves")


def test_third_parties_add_formats_through_entry_points(tmp_path, monkeypatch):
    from kmemleak_core import MemoryImage

    class Mine:
        name = "mine"

        def matches(self, head: bytes) -> bool:
            return head.startswith(b"MINE")

        def open(self, source: Source, *, sysroot: Path | None = None) -> Dump:
            return Dump(MemoryImage.from_segments([(0x1000, source.data)]), format=self.name)

    class Entry:
        def load(self):
            return Mine

    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Entry()])
    assert [f.name for f in formats()][-1] == "mine"
    assert opened(tmp_path, b"MINE" + bytes(12)).format == "mine"
