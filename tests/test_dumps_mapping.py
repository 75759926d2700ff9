"""A mapped file is its bytes, whatever holes it has; holes are never read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmemleak_core.dumps import mapping

MIB = 1 << 20


def mapped(path: Path) -> np.ndarray:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return mapping.map_file(descriptor)
    finally:
        os.close(descriptor)


def sparse(path: Path, size: int, islands: list[tuple[int, bytes]]) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for at, content in islands:
            os.pwrite(file.fileno(), content[: max(0, size - at)], at)
    if path.stat().st_blocks * 512 > size // 2:
        pytest.skip("this file system keeps no holes")
    return path


def resident(path: Path) -> int:
    """Bytes of a file that this process has in memory."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            ours = rest.endswith(str(path))
        elif ours and name == "Rss:":
            total += int(rest.split()[0]) << 10
    return total


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.integers(8 * MIB, 24 * MIB),
    st.lists(st.tuples(st.integers(0, 24 * MIB), st.binary(min_size=1, max_size=64)), max_size=4),
)
def test_the_bytes_of_a_sparse_file_are_those_that_are_read(tmp_path, size, islands):
    path = sparse(tmp_path / "sparse", size, islands)
    assert np.array_equal(mapped(path), np.fromfile(path, dtype=np.uint8))


def test_holes_are_not_read_from_the_file(tmp_path):
    path = sparse(tmp_path / "sparse", 64 * MIB, [(0, b"head"), (40 * MIB + 5, b"island")])
    data = mapped(path)
    assert data[40 * MIB + 5 : 40 * MIB + 11].tobytes() == b"island"
    assert int(np.count_nonzero(data)) == 10
    assert resident(path) < 4 * MIB


def test_of_too_many_holes_the_longest_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(mapping, "_limit", lambda path, default: 4)
    path = sparse(tmp_path / "sparse", 64 * MIB, [(8 * MIB, b"one"), (12 * MIB, b"two")])
    data = mapped(path)
    assert np.array_equal(data, np.fromfile(path, dtype=np.uint8))
    assert resident(path) <= 16 * MIB


def test_a_file_of_nothing_but_a_hole_is_zeros(tmp_path):
    path = sparse(tmp_path / "sparse", 16 * MIB + 3, [])
    data = mapped(path)
    assert data.size == 16 * MIB + 3
    assert not data.any()


def test_a_mapping_goes_with_its_last_view(tmp_path):
    path = sparse(tmp_path / "sparse", 64 * MIB, [(32 * MIB, b"island")])
    data = mapped(path)
    view = data[32 * MIB :]
    del data
    assert view[:6].tobytes() == b"island"
    maps = Path("/proc/self/maps")
    assert str(path) in maps.read_text()
    del view
    for thread in mapping.threading.enumerate():
        if thread.name == "kmemleak-read-ahead":
            thread.join()
    assert str(path) not in maps.read_text()


def test_a_file_system_that_knows_no_holes_is_read(tmp_path, monkeypatch):
    path = sparse(tmp_path / "sparse", 16 * MIB, [(9 * MIB, b"island")])

    def refuse(*_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(mapping.os, "lseek", refuse)
    assert mapped(path)[9 * MIB : 9 * MIB + 6].tobytes() == b"island"


def test_what_exceeds_half_of_the_memory_is_not_read_ahead(tmp_path, monkeypatch):
    path = tmp_path / "dense"
    path.write_bytes(b"x" * (40 * MIB))
    monkeypatch.setattr(mapping, "_available", lambda: 64 * MIB)
    monkeypatch.setattr(mapping, "_map_ahead", lambda *_: pytest.fail("it was read ahead"))
    data = mapped(path)
    assert resident(path) < 4 * MIB
    assert int(data[0]) == ord("x")


def test_an_empty_file_is_an_empty_array(tmp_path):
    path = tmp_path / "empty"
    path.touch()
    assert mapped(path).size == 0
