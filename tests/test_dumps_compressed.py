"""Compressed cores open as the plain ones do; damaged and hostile streams stay harmless."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import struct
import subprocess
import tempfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmemleak_core import DumpError
from kmemleak_core.dumps import compressed, open_dump
from kmemleak_core.dumps.packed import joined, packing

from .builders.elf import CoreBuilder
from .builders.packed import MAGIC, MANY, SINGLE

PACK = SINGLE | MANY
QUIET = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
RAW = np.random.default_rng(2).integers(0, 4, 40_000, dtype=np.uint8).tobytes() + bytes(9000)
SMALL = {kind: pack(RAW) for kind, pack in SINGLE.items()} | {
    kind: pack(RAW, 7000) for kind, pack in MANY.items()
}


@pytest.fixture(scope="module")
def core() -> bytes:
    noise = np.random.default_rng(1).integers(0, 256, 3 << 20, dtype=np.uint8).tobytes()
    builder = CoreBuilder().load(0x10000, noise).load(0x1000000, bytes(8 << 20))
    return builder.load(0x8000000, b"the end" * 1000).build()


def write(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "core.packed"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", PACK)
def test_the_content_is_that_of_the_plain_file(tmp_path, core, kind):
    plain = tmp_path / "core"
    plain.write_bytes(core)
    expected = open_dump(plain).image
    image = open_dump(write(tmp_path, PACK[kind](core))).image
    assert [(s.address, s.size) for s in image.segments] == [
        (s.address, s.size) for s in expected.segments
    ]
    for ours, theirs in zip(image.segments, expected.segments, strict=True):
        assert np.array_equal(ours.data, theirs.data)


@pytest.mark.parametrize("kind", PACK)
def test_several_frames_are_one_stream(tmp_path, core, kind):
    half = len(core) // 2
    image = open_dump(write(tmp_path, PACK[kind](core[:half]) + PACK[kind](core[half:]))).image
    assert image.read(0x8000000, 7) == b"the end"


@pytest.mark.parametrize("kind", PACK)
def test_a_stream_that_was_cut_off_gives_what_came_before(tmp_path, core, kind):
    packed = PACK[kind](core)
    dump = open_dump(write(tmp_path, packed[: len(packed) // 2]))
    assert dump.image.read(0x10000, 1 << 20) == core[0x1000 : 0x1000 + (1 << 20)]
    told = [n for n in dump.coverage if n.code == "dump.truncated"]
    assert "cut off" in told[0].message
    assert sum(n.nbytes for n in told) > 8 << 20


@pytest.mark.parametrize("kind", PACK)
def test_a_damaged_stream_gives_a_dump_or_one_clear_error(tmp_path, core, kind):
    packed = bytearray(PACK[kind](core))
    middle = len(packed) // 2
    packed[middle : middle + 64] = bytes(64)
    with contextlib.suppress(DumpError):
        assert open_dump(write(tmp_path, bytes(packed))).image.segments[0].address == 0x10000


@pytest.mark.parametrize("magic", MAGIC.values(), ids=MAGIC)
def test_a_magic_number_alone_is_an_error(tmp_path, magic):
    with pytest.raises(DumpError):
        open_dump(write(tmp_path, magic + b"\xff" * 100))


def test_the_window_of_long_range_matching_is_accepted(tmp_path, core):
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27, enable_ldm=True)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compress(core)
    assert open_dump(write(tmp_path, packed)).image.read(0x8000000, 7) == b"the end"


def test_zeros_take_no_room_on_the_disk(tmp_path, monkeypatch):
    sizes = []

    def spy(descriptor):
        state = os.fstat(descriptor)
        sizes.append((state.st_size, state.st_blocks * 512))
        return real(descriptor)

    real = compressed.map_file
    monkeypatch.setattr(compressed, "map_file", spy)
    raw = CoreBuilder().load(0x10000, bytes(64 << 20)).load(0x8000000, b"x").build()
    open_dump(write(tmp_path, zstandard.ZstdCompressor().compress(raw)))
    _packed, (size, taken) = sizes
    assert size == len(raw)
    assert taken < 1 << 20


def test_nothing_is_left_in_the_temporary_folder(tmp_path, core, monkeypatch):
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    dump = open_dump(write(tmp_path, gzip.compress(core, 1)))
    assert dump.image.nbytes
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_refused_before_it_is_full(tmp_path, core, monkeypatch):
    state = namedtuple("state", "f_bavail f_frsize")
    monkeypatch.setattr(compressed.os, "fstatvfs", lambda _: state(100, 4096))
    with pytest.raises(DumpError, match="does not fit") as error:
        open_dump(write(tmp_path, gzip.compress(core, 1)))
    assert "TMPDIR" in error.value.hint


def test_a_bomb_of_zeros_is_refused(tmp_path, monkeypatch):
    state = namedtuple("state", "f_bavail f_frsize")
    monkeypatch.setattr(compressed.os, "fstatvfs", lambda _: state(1 << 15, 4096))
    monkeypatch.setattr(compressed, "_MAX_SPARSE", 1 << 26)
    frame = zstandard.ZstdCompressor().compress(bytes(1 << 30))
    with pytest.raises(DumpError, match="nearly all of them zero"):
        open_dump(write(tmp_path, frame * 3))


def test_what_is_compressed_but_no_core_is_named(tmp_path):
    with pytest.raises(DumpError, match="a text file"):
        open_dump(write(tmp_path, gzip.compress(b"hello, world\n" * 100)))


def unpacked(path: Path) -> bytes:
    return compressed.open_source(path).data.tobytes()


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("kind", PACK)
def test_the_content_does_not_depend_on_the_threads(tmp_path, core, monkeypatch, kind, threads):
    monkeypatch.setattr(compressed, "_threads", lambda: threads)
    assert unpacked(write(tmp_path, PACK[kind](core))) == core


@pytest.mark.parametrize("kind", PACK)
def test_units_cover_the_stream_and_tell_what_they_unpack_to_at_most(core, kind):
    data = memoryview(PACK[kind](core))
    format = packing(bytes(data[:64]))
    assert format is not None
    units = list(joined(format.units(data)))
    assert (len(units) > 2) == (kind in MANY)
    content = b""
    for unit in units:
        piece = b"".join(format.unpack(data, unit))
        assert unit.most is None or len(piece) <= unit.most
        content += piece
    assert content == core


@pytest.mark.parametrize("limit", [1, 100_000])
@pytest.mark.parametrize("kind", MANY)
def test_units_beyond_the_bounds_are_unpacked_in_order(tmp_path, core, monkeypatch, kind, limit):
    monkeypatch.setattr(compressed, "_LARGE", limit)
    monkeypatch.setattr(compressed, "_UNPACKING", limit)
    monkeypatch.setattr(compressed, "_WRITING", limit)
    assert unpacked(write(tmp_path, PACK[kind](core))) == core


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=3000), st.integers(1, 800), st.sampled_from(sorted(MANY)))
def test_any_content_in_units_of_any_size(content, size, kind):
    raw = content * 7
    if not raw:
        return
    data = memoryview(MANY[kind](raw, size))
    format = packing(bytes(data[:64]))
    assert format is not None
    units = list(joined(format.units(data)))
    assert b"".join(p for unit in units for p in format.unpack(data, unit)) == raw


@pytest.mark.parametrize("kind", ["zstd-checked-frames", "bgzf", "xz-blocks"])
def test_before_a_damaged_unit_nothing_is_lost(tmp_path, core, kind):
    packed = bytearray(MANY[kind](core))
    at = len(packed) * 2 // 3
    packed[at : at + 4096] = b"\xa5" * 4096
    path = write(tmp_path, bytes(packed))
    source = compressed.open_source(path)
    # Two thirds of what is packed is more of what is unpacked: zeros come last.
    kept = 2_000_000
    assert source.data[:kept].tobytes() == core[:kept]
    assert source.data.size < len(core)
    assert [note.code for note in source.coverage] == ["dump.truncated"]


@pytest.mark.parametrize("kind", PACK)
@QUIET
@given(where=st.floats(0, 1), change=st.binary(min_size=1, max_size=40))
def test_whatever_is_damaged_the_end_is_clear(tmp_path, kind, where, change):
    packed = bytearray(SMALL[kind])
    at = int(where * len(packed))
    packed[at : at + len(change)] = change
    path = write(tmp_path, bytes(packed))
    with contextlib.suppress(DumpError):
        assert compressed.open_source(path).data.size <= 4 * len(RAW)


@pytest.mark.parametrize("kind", PACK)
@QUIET
@given(where=st.floats(0, 1))
def test_cut_anywhere_a_stream_gives_the_start_of_its_content(tmp_path, kind, where):
    packed = SMALL[kind][: int(where * len(SMALL[kind]))]
    try:
        source = compressed.open_source(write(tmp_path, packed))
    except DumpError:
        return
    # Of a few bytes nobody can tell what they are.
    content = source.data.tobytes()
    assert RAW.startswith(content) or content == packed


def test_a_member_that_lies_about_its_size_is_damaged(tmp_path, core):
    packed = bytearray(MANY["bgzf"](core))
    packed[2_000_000:] = packed[2_000_000:].replace(struct.pack("<I", 65280), bytes(4))
    source = compressed.open_source(write(tmp_path, bytes(packed)))
    assert [note.code for note in source.coverage] == ["dump.truncated"]
    assert 0 < source.data.size < len(core)
    assert core.startswith(source.data[:1_900_000].tobytes())


def test_nothing_is_left_in_the_temporary_folder_after_an_error(tmp_path, core, monkeypatch):
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    state = namedtuple("state", "f_bavail f_frsize")
    monkeypatch.setattr(compressed.os, "fstatvfs", lambda _: state(100, 4096))
    for kind, pack in PACK.items():
        with pytest.raises(DumpError, match="does not fit"):
            open_dump(write(tmp_path, pack(core)))
        assert list(folder.iterdir()) == [], kind


def test_a_disk_that_fills_up_all_the_same_is_told(tmp_path, core, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compressed, "write_sparse", full)
    for pack in PACK.values():
        with pytest.raises(DumpError, match="No space left") as error:
            open_dump(write(tmp_path, pack(core)))
        assert "TMPDIR" in error.value.hint


TOOLS = {
    "zstd --single-thread -B1MiB": "zst",
    "zstd -T2 --ultra -20": "zst",
    "pzstd -p 2": "zst",
    "xz -T2 --block-size=1MiB -0": "xz",
    "xz -0": "xz",
    "gzip": "gz",
    "pigz -b 128": "gz",
    "pigz -i": "gz",
    "bgzip": "gz",
    "lz4": "lz4",
    "lz4 -BD --no-frame-crc": "lz4",
    "lz4 -B4 -BX": "lz4",
}


@pytest.mark.parametrize("command", TOOLS)
def test_what_the_tools_write_is_read(tmp_path, core, command):
    tool = shutil.which(command.split()[0])
    if tool is None:
        pytest.skip(f"{command.split()[0]} is not installed")
    plain = tmp_path / "core"
    plain.write_bytes(core)
    path = tmp_path / f"core.{TOOLS[command]}"
    with plain.open("rb") as given, path.open("wb") as packed:
        options = [*command.split()[1:], "-c"]
        subprocess.run([tool, *options], stdin=given, stdout=packed, check=True)
    assert unpacked(path) == core
