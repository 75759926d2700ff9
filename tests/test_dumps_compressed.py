"""Compressed cores open as the plain ones do; damaged and hostile streams stay harmless."""

from __future__ import annotations

import contextlib
import gzip
import os
import tempfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import zstandard

from kmemleak_core import DumpError
from kmemleak_core.dumps import compressed, open_dump

from .builders.elf import CoreBuilder
from .builders.packed import MAGIC, MANY, SINGLE

PACK = SINGLE | MANY


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
