"""Whatever the bytes are: a Dump or a DumpError, in bounded time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmemleak_core import Dump, DumpError
from kmemleak_core.dumps import open_dump

from .builders.elf import EM_386, EM_AARCH64, EM_PPC64, EM_X86_64, CoreBuilder, R, W, X
from .builders.packed import MAGIC

QUIET = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def small_core(bits: int, byteorder: str, machine: int) -> bytes:
    """Everything that the reader looks at, in a few pages."""
    builder = CoreBuilder(bits, byteorder, machine)
    builder.thread(42, [0x5000 + i for i in range(34)], signal=6)
    builder.prpsinfo(42, b"small", b"small --core", bits == 64)
    builder.auxv({6: 4096, 25: 0x7000, 33: 0x9000})
    builder.files([(0x1000, 0x3000, 0, "/lib/a.so"), (0x3000, 0x4000, 9, "/lib/b.so")])
    builder.note(b"CORE", 2, bytes(512)).note(b"LINUX", 0x202, bytes(2696))
    builder.note(b"LINUX", 0x205, bytes(64)).note(b"LINUX", 0x401, bytes(16))
    builder.thread(43, [0x7000 + i for i in range(34)])
    builder.load(0x1000, bytes(0x1800), memsz=0x2000, flags=R | X)
    builder.load(0x3000, b"d" * 64, flags=R | W).load(0x7000, b"s" * 64)
    builder.load(0x8000, memsz=0x1000, flags=R).load(0x9000, b"v" * 64, flags=R | X)
    return builder.build()


CORES = {
    (bits, byteorder, machine): small_core(bits, byteorder, machine)
    for bits, byteorder, machine in (
        (64, "little", EM_X86_64),
        (64, "little", EM_AARCH64),
        (64, "big", EM_PPC64),
        (32, "little", EM_386),
    )
}
HEADERS_AND_NOTES = 0x1800


def or_error(path: Path, do: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return what a call returns, or None if it raises an error that names the file."""
    try:
        return do(*arguments, **options)
    except DumpError as error:
        if str(path) not in str(error):
            raise
    return None


def survives(path: Path, sysroot: Path | None = None) -> Dump | None:
    dump = or_error(path, open_dump, path, sysroot=sysroot)
    if dump is None:
        return None
    # What came out can be used: by the engine, and for what a report shows.
    assert dump.image.engine is not None
    assert dump.image.nbytes > 0
    for segment in dump.image.segments:
        assert int(segment.data[0]) >= 0
        assert int(segment.data[-1]) >= 0
    for thread in dump.threads:
        dump.image.find(thread.stack_pointer)
        dump.image.find(thread.tls_base)
    repr((dump.image, dump.files, dump.coverage))
    return dump


@pytest.mark.parametrize("kind", CORES, ids=str)
def test_a_small_core_cut_anywhere(tmp_path, kind):
    raw = CORES[kind]
    path = tmp_path / "core"
    for size in [*range(0, 700, 3), *range(700, len(raw), 97)]:
        path.write_bytes(raw[:size])
        survives(path)


@pytest.mark.parametrize("kind", CORES, ids=str)
def test_a_small_core_with_flipped_bytes(tmp_path, kind):
    raw = CORES[kind]
    path = tmp_path / "core"

    @QUIET
    @given(
        st.lists(
            st.tuples(st.integers(0, HEADERS_AND_NOTES), st.integers(0, 255)),
            min_size=1,
            max_size=6,
        )
    )
    def flipped(changes):
        data = bytearray(raw)
        for at, value in changes:
            data[at] = value
        path.write_bytes(data)
        survives(path, tmp_path)

    flipped()


@pytest.mark.parametrize("kind", CORES, ids=str)
def test_a_small_core_with_extreme_words(tmp_path, kind):
    raw = CORES[kind]
    path = tmp_path / "core"
    extremes = [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 63, (1 << 64) - 1, (1 << 64) - 4096]

    @QUIET
    @given(
        st.lists(
            st.tuples(st.integers(0, HEADERS_AND_NOTES // 8), st.sampled_from(extremes)),
            min_size=1,
            max_size=4,
        )
    )
    def overwritten(changes):
        data = bytearray(raw)
        for at, value in changes:
            data[at * 8 : at * 8 + 8] = value.to_bytes(8, "little")
        data[:16] = raw[:16]
        path.write_bytes(data)
        survives(path, tmp_path)

    overwritten()


@QUIET
@given(st.binary(max_size=400))
def test_anything_after_the_magic_number(tmp_path, tail):
    path = tmp_path / "core"
    path.write_bytes(b"\x7fELF\2\1\1" + bytes(9) + b"\4\0\x3e\0" + tail)
    survives(path)


@QUIET
@given(st.binary(max_size=200), st.sampled_from(["zstd", "gzip", "xz", "lz4", "none"]))
def test_anything_after_the_magic_number_of_a_compression(tmp_path, tail, kind):
    magic = MAGIC.get(kind, b"")
    path = tmp_path / "core"
    path.write_bytes(magic + tail)
    survives(path)


@QUIET
@given(
    st.binary(max_size=300), st.sampled_from([b"", b"address,size\n", b'{"address":', b"PK\3\4"])
)
def test_any_table(tmp_path, tail, head):
    from kmemleak_core.dumps.raw import read_objects, read_roots

    path = tmp_path / "table"
    path.write_bytes(head + tail)
    for read in (read_objects, read_roots):
        or_error(path, read, path)


LIMITED = """
import resource, sys
from pathlib import Path
import zstandard
from kmemleak_core import DumpError
from kmemleak_core.dumps import open_dump, compressed, elf_core
path = Path(sys.argv[1])
used = next(int(l.split()[1]) << 10 for l in open("/proc/self/status") if l.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
try:
    dump = open_dump(path)
    dump.image.engine
    print("dump", len(dump.image.segments), len(dump.threads), len(dump.coverage))
except DumpError as error:
    print("error", error)
"""


def in_bounds(path: Path, extra: int) -> str:
    """Open a dump in a process that may use this much more address space, and 30 s."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), str(extra)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_real_core_cut_at_many_places_needs_no_more_memory_than_the_file(shared_data, tmp_path):
    import zstandard

    packed = (shared_data / "usercore" / "core.zst").read_bytes()
    reader = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
    raw = reader.decompress(packed)
    path = tmp_path / "core"
    path.write_bytes(raw)
    sizes = [*range(0, 20000, 1999), *range(20000, len(raw), len(raw) // 20)]
    for size in reversed(sizes):
        os.truncate(path, size)
        survives(path)
    path.write_bytes(raw[: len(raw) // 2])
    assert in_bounds(path, len(raw) + (64 << 20)).startswith("dump")


def test_a_real_core_with_flipped_bytes(shared_data, tmp_path):
    import zstandard

    path = tmp_path / "core"
    packed = (shared_data / "usercore" / "core.zst").read_bytes()
    reader = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
    path.write_bytes(reader.decompress(packed))
    changes = st.lists(st.tuples(st.integers(0, 0x4000), st.binary(min_size=1, max_size=8)))

    with path.open("r+b", buffering=0) as file:

        @QUIET
        @given(changes)
        def flipped(changes):
            before = [(at, os.pread(file.fileno(), len(new), at)) for at, new in changes]
            for at, new in changes:
                os.pwrite(file.fileno(), new, at)
            try:
                survives(path)
            finally:
                for at, old in reversed(before):
                    os.pwrite(file.fileno(), old, at)

        flipped()


def test_a_million_empty_notes_and_more_end(tmp_path):
    path = tmp_path / "core"
    builder = CoreBuilder().load(0x1000, b"x" * 16)
    builder.notes.append(bytes(64 << 20))
    path.write_bytes(builder.build())
    assert in_bounds(path, (128 << 20) + (256 << 20)).startswith("dump 1 0")


def test_note_segments_that_all_describe_the_same_bytes_are_read_once(tmp_path):
    builder = CoreBuilder().thread(7, [0] * 27).load(0x1000, b"x" * 16)
    for _ in range(50000):
        builder.load(0x1000, memsz=1)
    raw = bytearray(builder.build())
    note = raw[64:120]
    for i in range(2, 50002):
        raw[64 + i * 56 : 120 + i * 56] = note
    path = tmp_path / "core"
    path.write_bytes(raw)
    assert in_bounds(path, 512 << 20).startswith("dump 1 1")


def test_a_hundred_thousand_threads_are_read(tmp_path):
    builder = CoreBuilder().load(0x1000, b"x" * 16)
    one = CoreBuilder().thread(7, list(range(27))).note(b"CORE", 2, bytes(512)).notes
    builder.notes = one * 100_000
    path = tmp_path / "core"
    path.write_bytes(builder.build())
    assert in_bounds(path, 1 << 30).startswith("dump 1 100000")


def test_many_overlapping_segments_are_laid_out_in_time(tmp_path):
    builder = CoreBuilder()
    for i in range(60000):
        builder.load(0x1000 + i, b"x", filesz=1 << 20, memsz=1 << 40, offset=0)
    path = tmp_path / "core"
    path.write_bytes(builder.build())
    assert in_bounds(path, 1 << 30).startswith("dump")


def test_a_stream_that_unpacks_to_far_more_stays_in_bounds(tmp_path):
    import zstandard

    raw = CoreBuilder().load(0x1000, bytes(1 << 20)).build() + bytes(1 << 30)
    path = tmp_path / "core.zst"
    path.write_bytes(zstandard.ZstdCompressor().compress(raw))
    assert in_bounds(path, (2 << 30) + (64 << 20)).startswith("dump")
