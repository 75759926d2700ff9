"""Another allocator than glibc's is named by what it left in the dump."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kmemleak_core.dump import Dump, MappedFile
from kmemleak_core.dumps import open_dump
from kmemleak_core.heaps.foreign import name_foreign_allocator
from kmemleak_core.heaps.glibc import GlibcHeap
from kmemleak_core.image import MemoryImage, Segment

sys.path.insert(0, str(Path(__file__).with_name("real")))
import rig

AT_ENTRY = 9


def dump_with(*paths: str, executable: bytes = b"") -> Dump:
    files = tuple(MappedFile(0x10000 * (i + 1), 0x1000, 0, path) for i, path in enumerate(paths))
    segments = []
    if executable:
        data = np.frombuffer(executable, np.uint8)
        segments.append(Segment(0x10000, data, kind="file", name=paths[0]))
    return Dump(MemoryImage(segments), files=files, auxv={AT_ENTRY: 0x10010})


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2", "jemalloc"),
        ("/usr/lib/libtcmalloc_minimal.so.4.5.9", "tcmalloc"),
        ("/usr/lib/libmimalloc.so.2.0", "mimalloc"),
        ("/opt/libsnmallocshim.so", "snmalloc"),
        ("/lib/ld-musl-x86_64.so.1", "musl"),
        ("/usr/lib/libasan.so.8.0.0", "AddressSanitizer"),
    ],
)
def test_a_mapped_library_names_its_allocator(path: str, name: str) -> None:
    found = name_foreign_allocator(dump_with("/usr/bin/program", path))
    assert found is not None
    assert name in found


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (b"<jemalloc>: Error in munmap(): ", "jemalloc"),
        (b"\xff Go buildinf:", "Go"),
        (b"mimalloc: error: %s", "mimalloc"),
    ],
)
def test_an_allocator_linked_into_the_executable_is_named(text: bytes, name: str) -> None:
    found = name_foreign_allocator(dump_with("/bin/p", executable=bytes(100) + text + bytes(100)))
    assert found is not None
    assert name in found


def test_a_librarys_own_pages_are_no_evidence() -> None:
    files = (MappedFile(0x10000, 0x1000, 0, "/bin/p"), MappedFile(0x20000, 0x1000, 0, "/lib/x.so"))
    data = np.frombuffer(b"<jemalloc> is what this library talks about", np.uint8)
    image = MemoryImage([Segment(0x20000, data, kind="file", name="/lib/x.so")])
    assert name_foreign_allocator(Dump(image, files=files, auxv={AT_ENTRY: 0x10010})) is None


def test_an_ordinary_program_has_no_other_allocator() -> None:
    found = name_foreign_allocator(
        dump_with("/bin/p", "/lib/x86_64-linux-gnu/libc.so.6", executable=b"nothing of interest")
    )
    assert found is None


def test_redis_on_jemalloc_has_no_glibc_heap(tmp_path: Path) -> None:
    server = rig.need("redis-server")
    command = [server, "--port", "0", "--unixsocket", "socket", "--save", ""]
    with rig.running(command, tmp_path, ready=None) as process:
        patience = time.monotonic() + 30
        while not (tmp_path / "socket").exists() and time.monotonic() < patience:
            time.sleep(0.05)
        core = process.dump("gcore")
    dump = open_dump(str(core))
    if not any("libjemalloc" in f.path for f in dump.files):
        pytest.skip("this redis-server does not use jemalloc")
    assert name_foreign_allocator(dump) == "jemalloc"
    heap = GlibcHeap().find(dump)
    # Where a library brought glibc's malloc to life all the same, its heap comes with a warning.
    assert heap is None or any(n.code == "heap.foreign-allocator" for n in heap.coverage)
