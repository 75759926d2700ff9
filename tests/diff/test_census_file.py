"""A census that was kept stands for its dump; one that was made up is refused."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kmemleak_core as km
from kmemleak_core.cli import main
from kmemleak_core.compare.census_file import load_census, write_census

from .conftest import Grown

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def kept(grown: Grown, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("kept") / "old.census"
    assert main(["census", "-o", str(path), str(grown.old)]) == 0
    return path


def test_it_stands_for_its_dump(grown: Grown, kept: Path) -> None:
    found = km.diff(kept, grown.new)
    assert found.by_address
    assert found.groups() == grown.difference.groups()
    assert found.groups(leaks=True) == grown.difference.groups(leaks=True)
    assert found.holders == grown.difference.holders
    assert found.modules == grown.difference.modules
    assert found.anchors() == grown.difference.anchors()
    assert found.lost == grown.difference.lost


def test_against_its_dump_nothing_has_changed(grown: Grown, kept: Path, capsys) -> None:
    assert main(["diff", str(kept), str(grown.old)]) == 0
    assert "as large as before: as many objects" in capsys.readouterr().out


def test_it_holds_nothing_of_the_memory(grown: Grown, kept: Path) -> None:
    raw = kept.read_bytes()
    assert b"arguments" not in raw
    assert b"key\0" not in raw
    assert len(raw) < grown.old.stat().st_size / 4


def test_a_kernels_too(vmcore_pair: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = vmcore_pair
    km.census(old).save(tmp_path / "old")
    found, again = km.diff(tmp_path / "old", new), km.diff(old, new)
    assert found.reason == again.reason
    assert found.groups(leaks=True) == again.groups(leaks=True)
    assert found.types == again.types


@pytest.fixture
def vmcore_pair(shared_data: Path, tmp_path: Path) -> tuple[Path, Path]:
    import zstandard

    pair = []
    for name in ("snap1", "snap2"):
        packed = shared_data / "vmcore" / name / "vmcore.elf.zst"
        with packed.open("rb") as source, (tmp_path / name).open("wb") as out:
            zstandard.ZstdDecompressor(max_window_size=1 << 27).copy_stream(source, out)
        pair.append(tmp_path / name)
    return pair[0], pair[1]


def test_a_file_is_not_replaced_unasked(grown: Grown, tmp_path: Path, capsys) -> None:
    there = tmp_path / "there"
    there.write_text("mine")
    assert main(["census", "-o", str(there), str(grown.old)]) == 2
    with pytest.raises(km.UsageError, match="there already"):
        grown.difference.old.save(there)
    assert there.read_text() == "mine"
    grown.difference.old.save(there, force=True)
    assert km.diff(there, grown.old).growth == (0, 0)


def test_a_report_has_none(grown: Grown, tmp_path: Path) -> None:
    with pytest.raises(km.UsageError, match="of a dump"):
        km.census(km.scan(grown.old)).save(tmp_path / "census")


def changed(kept: Path, path: Path, change: Callable[[dict[str, Any], Arrays], None]) -> Path:
    """Write the file with other contents."""
    with np.load(kept) as arrays:
        columns = {name: arrays[name] for name in arrays}
    text = json.loads(columns.pop("kmemleak-census").tobytes())
    change(text, columns)
    columns["kmemleak-census"] = np.frombuffer(json.dumps(text).encode(), np.uint8)
    with path.open("wb") as out:
        np.savez(out, **columns)
    return path


def column(name: str, value: Any) -> Callable[[dict[str, Any], Arrays], None]:
    def change(text: dict[str, Any], columns: Arrays) -> None:
        columns[name] = columns[name].copy()
        columns[name][-1] = value

    return change


def entry(**values: Any) -> Callable[[dict[str, Any], Arrays], None]:
    return lambda text, columns: text.update(values)


def without(name: str) -> Callable[[dict[str, Any], Arrays], None]:
    def change(text: dict[str, Any], columns: Arrays) -> None:
        del columns[name]

    return change


def circle(text: dict[str, Any], columns: Arrays) -> None:
    columns["members.above"] = columns["members.above"].copy()
    columns["members.above"][:2] = [1, 0]


def wide(text: dict[str, Any], columns: Arrays) -> None:
    columns["members.group"] = columns["members.group"].astype(np.int64)


@pytest.mark.parametrize(
    "change",
    [
        column("members.group", 10_000),
        column("members.group", -1),
        column("members.holder", 10_000),
        column("members.address", 0),
        column("members.above", 10_000),
        column("groups.kind", 0),
        column("groups.shape", -1),
        column("groups.size", -1),
        column("modules.count", -1),
        circle,
        wide,
        without("members.address"),
        without("groups.size"),
        entry(version=2),
        entry(kinds=[1]),
        entry(shapes=None),
        entry(holders=[]),
        entry(modules=[]),
        entry(traces=[[1]]),
        entry(traces=1),
        entry(functions={"x": "y"}),
        entry(coverage=[["a"]]),
        entry(identity={"unknown": 1}),
        entry(identity={"path": 1}),
        entry(identity={"process": 1}),
        entry(identity={"what": "report"}),
    ],
)
def test_what_no_scan_could_have_found_is_refused(
    kept: Path, tmp_path: Path, change: Callable[[dict[str, Any], Arrays], None]
) -> None:
    with pytest.raises(km.UsageError, match="damaged"):
        load_census(changed(kept, tmp_path / "changed", change))


def test_a_file_that_is_cut_off_is_refused(kept: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    for size in (100, 1000, kept.stat().st_size - 100):
        path.write_bytes(kept.read_bytes()[:size])
        with pytest.raises(km.KmemleakError, match="npz"):
            km.diff(path, path)


def test_another_archive_is_no_census(grown: Grown, tmp_path: Path) -> None:
    path = tmp_path / "zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", b"")
    with pytest.raises(km.DumpError, match="zip archive"):
        km.diff(path, grown.new)


def test_any_census_comes_back_as_it_was(grown: Grown, tmp_path: Path) -> None:
    for census in (grown.difference.old, grown.difference.new):
        out = io.BytesIO()
        write_census(census, out)
        (tmp_path / "census").write_bytes(out.getvalue())
        back = load_census(tmp_path / "census")
        assert (back.objects, back.leaked) == (census.objects, census.leaked)
        assert back.holders.amounts() == census.holders.amounts()
        for name in ("count", "leaked_bytes", "example", "leaked_example"):
            assert np.array_equal(getattr(back.groups, name), getattr(census.groups, name))
