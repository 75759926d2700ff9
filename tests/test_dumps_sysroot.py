"""Bytes that a core lacks come from the mapped files, if they are the right ones."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from kmemleak_core import Dump, UsageError
from kmemleak_core.dumps import open_dump
from kmemleak_core.dumps.elf_sysroot import build_id, resolve_under

from .builders.elf import CoreBuilder, R, W, X
from .builders.programs import compile_c, kernel_core

PAGE = 4096
BASE = 0x7F0000000000


def module(identity: bytes = b"\xab" * 20, pages: int = 4) -> bytes:
    """A shared object of which only the headers and the build id make sense."""
    note = struct.pack("<III", 4, len(identity), 3) + b"GNU\0" + identity
    header = b"\x7fELF\2\1\1" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    header += struct.pack("<IIQQQQQQ", 4, R, 120, 120, 120, len(note), len(note), 4)
    first = (header + note).ljust(PAGE, b"\0")
    return first + b"".join(bytes([i]) * PAGE for i in range(1, pages))


def place(root: Path, name: str, content: bytes) -> None:
    path = root / name.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def core(
    head: bytes | None, *, flags: int = R | X, path: str = "/lib/libx.so", pages: int = 4
) -> CoreBuilder:
    """Memory of which the kernel dumped the first page and nothing of the other three."""
    builder = CoreBuilder().files([(BASE, BASE + pages * PAGE, 0, path)])
    builder.load(0x1000, bytes(16))
    if head is None:
        return builder.load(BASE, memsz=pages * PAGE, flags=flags)
    builder.load(BASE, head[:PAGE], flags=R)
    return builder.load(BASE + PAGE, memsz=(pages - 1) * PAGE, flags=flags)


def opened(tmp_path: Path, builder: CoreBuilder) -> Dump:
    (tmp_path / "core").write_bytes(builder.build())
    return open_dump(tmp_path / "core", sysroot=tmp_path / "root")


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def codes(dump: Dump) -> list[str]:
    return [n.code for n in dump.coverage if n.code.startswith(("dump.s", "dump.n"))]


def test_code_comes_from_the_file(tmp_path, root):
    place(root, "/lib/libx.so", module())
    dump = opened(tmp_path, core(module()))
    assert dump.image.holes == ()
    assert dump.image.read(BASE + 2 * PAGE, 2) == b"\2\2"
    segment = dump.image.find(BASE + PAGE)
    assert (segment.kind, segment.name, segment.file_offset) == ("file", "/lib/libx.so", PAGE)
    assert not segment.data.flags.owndata
    assert codes(dump) == []


def test_data_that_nobody_wrote_to_comes_from_the_file(tmp_path, root):
    place(root, "/lib/libx.so", module())
    assert opened(tmp_path, core(module(), flags=R | W)).image.holes == ()


def test_a_data_file_that_may_be_shared_does_not(tmp_path, root):
    place(root, "/lib/libx.so", b"data" * PAGE)
    dump = opened(tmp_path, core(None, flags=R | W))
    assert len(dump.image.holes) == 1
    assert codes(dump) == ["dump.not-dumped"]


def test_without_a_sysroot_the_note_names_the_option(tmp_path):
    (tmp_path / "core").write_bytes(core(module()).build())
    dump = open_dump(tmp_path / "core")
    (note,) = [n for n in dump.coverage if n.code == "dump.not-dumped"]
    assert (note.count, note.nbytes) == (1, 3 * PAGE)
    assert "--sysroot" in note.message


def test_a_missing_file_leaves_the_hole(tmp_path, root):
    dump = opened(tmp_path, core(module()))
    assert len(dump.image.holes) == 1
    assert codes(dump) == ["dump.not-dumped"]


def test_another_build_is_refused(tmp_path, root):
    place(root, "/lib/libx.so", module(b"\xcd" * 20))
    dump = opened(tmp_path, core(module()))
    assert len(dump.image.holes) == 1
    assert codes(dump) == ["dump.sysroot-mismatch", "dump.not-dumped"]
    assert "cdcd" in dump.coverage.notes[-2].message


def test_another_first_page_is_refused_where_there_is_no_build_id(tmp_path, root):
    place(root, "/lib/libx.so", b"y" * 4 * PAGE)
    assert "dump.sysroot-mismatch" in codes(opened(tmp_path, core(b"x" * PAGE)))


def test_a_file_that_is_too_short_is_refused(tmp_path, root):
    place(root, "/lib/libx.so", module(pages=2))
    builder = core(None, pages=40)
    assert "dump.sysroot-mismatch" in codes(opened(tmp_path, builder))


def test_the_last_page_is_filled_up_with_zeros(tmp_path, root):
    place(root, "/lib/libx.so", module()[:-100])
    dump = opened(tmp_path, core(module()))
    assert dump.image.holes == ()
    assert dump.image.read(BASE + 4 * PAGE - 101, 101) == b"\3" + bytes(100)


def test_what_a_truncated_core_lost_is_only_read_where_it_is_code(tmp_path, root):
    place(root, "/lib/libx.so", module())
    for flags, holes in ((R | X, 0), (R | W, 1), (R, 1)):
        builder = CoreBuilder().files([(BASE, BASE + 4 * PAGE, 0, "/lib/libx.so")])
        builder.load(0x1000, bytes(16))
        builder.load(BASE, memsz=4 * PAGE, filesz=4 * PAGE, offset=1 << 40, flags=flags)
        assert len(opened(tmp_path, builder).image.holes) == holes


@pytest.mark.parametrize(
    "path",
    [
        "/../outside",
        "/lib/../../outside",
        "../outside",
        "outside",
        "/lib/libx.so (deleted)",
        "/" + "d/" * 3000 + "x",
        "/bad\udcff",
        "",
        "/",
        "/escape",
        "/circle",
        "/pipe",
    ],
)
def test_no_path_leaves_the_sysroot_or_blocks(tmp_path, root, path):
    (tmp_path / "outside").write_bytes(module())
    place(root, "/lib/libx.so", module())
    (root / "escape").symlink_to("../outside")
    (root / "circle").symlink_to("circle")
    os.mkfifo(root / "pipe")
    builder = core(module())
    builder.notes.clear()
    name = path.encode("utf-8", "surrogateescape")
    desc = builder.pack("www", 1, PAGE, BASE) + builder.pack("ww", BASE + 4 * PAGE, 0) + name
    builder.note(b"CORE", 0x46494C45, desc + b"\0")
    assert len(opened(tmp_path, builder).image.holes) == 1


def test_absolute_links_are_seen_from_inside(tmp_path, root):
    place(root, "/usr/lib/libx.so.1", module())
    (root / "lib").symlink_to("/usr/lib")
    (root / "usr/lib/libx.so").symlink_to("libx.so.1")
    expected = os.path.realpath(root / "usr/lib/libx.so.1")
    assert resolve_under(root, "/lib/libx.so") == expected
    assert opened(tmp_path, core(module())).image.holes == ()


def test_a_sysroot_that_is_no_folder_is_a_usage_error(tmp_path):
    (tmp_path / "core").write_bytes(core(module()).build())
    with pytest.raises(UsageError, match="no such folder"):
        open_dump(tmp_path / "core", sysroot=tmp_path / "nothing")


def test_build_ids_are_found_and_their_absence_is_no_error():
    def data(raw: bytes):
        return np.frombuffer(raw, dtype=np.uint8)

    assert build_id(data(module(b"\1\2\3"))) == b"\1\2\3"
    assert build_id(data(module()[:100])) == b""
    assert build_id(data(b"no elf at all")) == b""
    assert build_id(data(b"")) == b""


CRASH = "#include <stdlib.h>\nint main(void) { abort(); }\n"


def test_a_real_core_is_complete_with_the_files_of_its_machine(tmp_path):
    program = compile_c(tmp_path, "crash", CRASH)
    path = kernel_core(tmp_path, program)
    bare = open_dump(path)
    full = open_dump(path, sysroot=Path("/"))
    assert [h for h in bare.image.holes if h.kind == "file"]
    assert not [h for h in full.image.holes if h.kind == "file"]
    assert full.image.nbytes > bare.image.nbytes
    # The place where it died is code, which the kernel does not dump.
    assert bare.image.find(bare.threads[0].registers.get("rip", 0)) is None
    assert full.image.find(full.threads[0].registers.get("rip", 0)) or "rip" not in (
        full.threads[0].registers
    )
