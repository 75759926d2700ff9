"""Tables of a report for data tools: what pandas and numpy read back, in every format."""

from __future__ import annotations

import builtins
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from kmemleak_core import (
    KmemleakError,
    MemoryImage,
    ObjectTable,
    Report,
    Roots,
    ScanOptions,
    UsageError,
    scan_image,
)
from kmemleak_core.cli import export as command
from kmemleak_core.cli import main
from kmemleak_core.graph import POINTERS
from kmemleak_core.leaks import Loss
from kmemleak_core.provenance import Provenance
from kmemleak_core.report import columns
from kmemleak_core.report.export import FORMATS, export

from .test_cli_command import Memory, leaky
from .test_report_formats import BASE, HOSTILE, a_report
from .test_suppressions import origins, regrouped

__all__ = ["leaky"]  # a fixture

MAKE = ("make+0x1/0x2 [things]", "main+0x1/0x2")


def told(**changes: Any) -> Report:
    rows = [("kmalloc-32", MAKE), ("kmalloc-32", MAKE), ("vmalloc", ()), ("", MAKE), ("", ())]
    return regrouped(a_report(provenance=origins(*rows), **changes))


def busy() -> Report:
    """Scan objects that refer to each other, many times and in every way, at random."""
    rng = np.random.default_rng(7)
    n, words = 50, 8
    memory = np.zeros((n, words), np.uint64)
    filled = rng.random(memory.shape) < 0.6
    targets = BASE + 64 * rng.integers(0, n, filled.sum())
    memory[filled] = targets + rng.choice([0, 0, 8, 40, 48], filled.sum())
    image = MemoryImage.from_segments([(BASE, memory.tobytes())])
    objects = ObjectTable.from_arrays(BASE + 64 * rng.permutation(n), np.full(n, 48))
    roots = Roots.from_ranges([(BASE + 50, 14), (BASE, 16, "data", HOSTILE)], [BASE, 7, BASE + 72])
    result = scan_image(image, objects, roots, end_pointers=True)
    return a_report(result=result, leaks=result.leaks, groups=(), image=image)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables come a few rows at a time."""
    monkeypatch.setattr(columns, "ROWS", 3)


def texts(column: Any) -> list[str]:
    """Return a column of texts, empty where there is none."""
    return list(column.astype(object).fillna(""))


def frame(report: Report, table: str, **options: Any) -> pd.DataFrame:
    return report.to_arrow(table, **options).to_pandas()


class TestTables:
    def test_objects_are_all_objects_of_the_scan_in_the_order_of_addresses(self) -> None:
        report = told()
        assert report.result is not None
        objects, found = report.result.objects, frame(report, "objects")
        assert found["address"].tolist() == objects.address.tolist()
        assert found["size"].tolist() == objects.size.tolist()
        assert found["count"].tolist() == report.result.count.tolist()
        assert (found["colour"] == "white").tolist() == report.result.white.tolist()
        assert found.sort_values("order")["address"].tolist() == [
            BASE + 0x100 * row for row in (0, 3, 1, 2, 4, 5)
        ]

    def test_objects_tell_memchecks_kinds(self) -> None:
        told_apart = scan_image(
            *(getattr(busy().result, name) for name in ("image", "objects", "roots")),
            options=ScanOptions(end_pointers=True, possible=True, heuristics=frozenset()),
        )
        found = frame(a_report(result=told_apart), "objects")
        kinds = [loss.name.lower() for loss in Loss]
        assert found["loss"].tolist() == [kinds[loss] for loss in told_apart.loss]
        assert {"possible", "reachable"} <= set(found["loss"])

    def test_leaks_are_the_report_s_with_where_they_come_from(self) -> None:
        report = told()
        found = frame(report, "leaks")
        plain = report.leaks.to_pandas()
        pd.testing.assert_frame_equal(found[list(plain.columns)], plain)
        heads = report.leaks["address"][report.leaks["head"]]
        assert found["held_by"].tolist() == heads.tolist()
        assert texts(found["type"]) == ["kmalloc-32", "kmalloc-32", "vmalloc", "", ""]
        assert texts(found["backtrace"]) == [
            ";".join(frames) for frames in (MAKE, MAKE, (), MAKE, ())
        ]

    def test_a_notebook_can_add_up_leaks_by_what_they_are(self) -> None:
        by_type = (
            frame(told(), "leaks").groupby("type", observed=True)["size"].agg(["count", "sum"])
        )
        assert by_type.loc["kmalloc-32"].tolist() == [2, 64]

    def test_groups_are_the_report_s(self) -> None:
        report = told()
        found, leaks = frame(report, "groups"), frame(report, "leaks")
        assert found["objects"].tolist() == [group.count for group in report.groups]
        assert found["example"].tolist() == [group.example for group in report.groups]
        sizes = leaks.groupby("group")["size"].agg(["min", "max", "sum"])
        assert sizes["min"].tolist() == found["min_size"].tolist()
        assert sizes["max"].tolist() == found["max_size"].tolist()
        assert sizes["sum"].tolist() == found["bytes"].tolist()

    def test_references_are_each_pair_with_how_and_by_how_many_words(self) -> None:
        report = busy()
        result = report.result
        assert result is not None
        assert result.references is not None
        expected: Counter[tuple[int, int, str]] = Counter()
        for row, address in enumerate(result.objects.address.tolist()):
            begin, end = result.references.offsets[row : row + 2]
            for target in result.references.targets[begin:end].tolist():
                other = int(result.objects.address[target & (1 << 30) - 1])
                expected[address, other, POINTERS[target >> 30]] += 1
        assert set(POINTERS) == {pointer for _, _, pointer in expected}
        found = frame(report, "references")
        keys = found[["source", "target", "pointer"]].itertuples(index=False, name=None)
        assert dict(zip(keys, found["words"].tolist(), strict=True)) == expected
        assert found["source"].is_monotonic_increasing

    def test_roots_are_ranges_and_registers_and_who_they_refer_to(self) -> None:
        roots, found = frame(busy(), "roots"), frame(busy(), "root_references")
        assert roots["kind"].tolist() == ["memory", "data", "registers", "registers", "registers"]
        assert roots["address"].tolist() == [BASE + 50, BASE, BASE, 7, BASE + 72]
        assert roots["size"].tolist() == [14, 16, 0, 0, 0]
        words = found.groupby("root")["words"].sum().reindex(roots["root"], fill_value=0)
        assert words.tolist() == roots["references"].tolist()
        last = found[found["root"] == 4]
        assert last[["target", "pointer"]].values.tolist() == [[BASE + 64, "interior"]]

    def test_traces_are_told_once_by_the_numbers_that_objects_have(self) -> None:
        kinds = origins(*[("", MAKE), ("", ()), ("", ("main",)), ("", MAKE), ("", ()), ("", MAKE)])
        report = a_report(origins=kinds)
        objects = frame(report, "objects").merge(frame(report, "traces"), on="trace", how="left")
        assert texts(objects["backtrace"]) == [
            ";".join(frames) for frames in (MAKE, (), ("main",), MAKE, (), MAKE)
        ]

    @pytest.mark.parametrize("table", columns.TABLES)
    @pytest.mark.parametrize("report", [told(), busy()], ids=["told", "busy"])
    def test_a_table_is_the_same_however_it_is_cut(
        self, report: Report, table: str, request: pytest.FixtureRequest
    ) -> None:
        whole = report.to_arrow(table)
        request.getfixturevalue("small_parts")
        parts = report.to_arrow(table)
        pd.testing.assert_frame_equal(parts.to_pandas(), whole.to_pandas())
        assert parts.schema == whole.schema
        if whole.num_rows > 6:
            assert parts.column(0).num_chunks > 1

    @pytest.mark.parametrize("table", columns.TABLES)
    def test_a_report_of_nothing_has_tables_without_rows(self, table: str) -> None:
        image = MemoryImage.from_segments([(BASE, bytes(64))])
        result = scan_image(image, ObjectTable.from_arrays([], []), Roots())
        report = a_report(result=result, leaks=result.leaks, groups=())
        found = report.to_arrow(table)
        assert found.num_rows == 0
        assert found.schema == told().to_arrow(table).schema

    def test_names_are_told_once_though_a_dump_has_them_twice_and_hostile(self) -> None:
        kinds = ["same", "same", HOSTILE, "\udc80"]
        provenance = Provenance(kind=np.array([0, 1, 2, 3, -1], np.int32), kinds=kinds)
        found = frame(a_report(provenance=provenance), "leaks")["type"]
        assert found.tolist()[:2] == ["same", "same"]
        assert found[2].isprintable()
        assert found[3] == "\\udc80"
        assert pd.isna(found[4])

    def test_redacted_shapes_tell_nothing_of_data(self) -> None:
        assert frame(a_report(), "groups")["shape"].str.contains("text").any()
        assert not frame(a_report(), "groups", redact=True)["shape"].str.contains("text").any()

    def test_a_file_says_of_which_dump_it_is(self) -> None:
        metadata = json.loads(told().to_arrow("leaks").schema.metadata[b"kmemleak_core"])
        assert (metadata["table"], metadata["dump"]) == ("leaks", "core")

    def test_a_leak_table_is_a_table_by_itself(self) -> None:
        leaks = told().leaks
        pd.testing.assert_frame_equal(leaks.to_arrow().to_pandas(), leaks.to_pandas())
        assert leaks[:2].to_arrow().num_rows == 2


class TestFormats:
    @pytest.mark.usefixtures("small_parts")
    def test_all_hold_the_same(self, tmp_path: Path) -> None:
        report = told()
        for table, path in report.export(tmp_path / "p").items():
            expected = frame(report, table)
            pd.testing.assert_frame_equal(pd.read_parquet(path), expected)
        for table, path in report.export(tmp_path / "a", format="arrow").items():
            pd.testing.assert_frame_equal(pd.read_feather(path), frame(report, table))
        for table, path in report.export(tmp_path / "n", format="npz").items():
            expected = frame(report, table)
            with np.load(path) as arrays:
                for name in expected:
                    names = arrays.get(f"{name}_names")
                    column = expected[name]
                    if names is None:
                        assert arrays[name].tolist() == column.fillna(-1).tolist()
                    else:
                        own = [names[code] if code >= 0 else "" for code in arrays[name]]
                        assert own == texts(column)

    def test_texts_of_parquet_are_dictionaries_for_readers_that_have_them(
        self, tmp_path: Path
    ) -> None:
        path = told().export(tmp_path, ["leaks"])["leaks"]
        schema = pa.parquet.read_schema(path)
        assert pa.types.is_dictionary(schema.field("type").type)
        assert schema.field("address").type == pa.uint64()
        assert not schema.field("address").nullable

    def test_the_default_is_all_tables(self, tmp_path: Path) -> None:
        assert {path.name for path in told().export(tmp_path).values()} == {
            f"{table}.parquet" for table in columns.TABLES
        }

    def test_files_are_not_replaced_unasked_and_none_is_written_then(self, tmp_path: Path) -> None:
        (tmp_path / "groups.npz").touch()
        with pytest.raises(UsageError, match=r"groups\.npz is there already"):
            told().export(tmp_path, format="npz")
        assert [path.name for path in tmp_path.iterdir()] == ["groups.npz"]
        told().export(tmp_path, ["groups"], format="npz", force=True)
        assert (tmp_path / "groups.npz").stat().st_size

    @pytest.mark.parametrize("format", FORMATS)
    def test_what_fails_leaves_no_half_written_file(self, format: str, tmp_path: Path) -> None:
        report = a_report(result=None)
        with pytest.raises(UsageError, match="does not carry the scan"):
            list(export(report, tmp_path, ["leaks", "objects"], format))
        assert [path.name for path in tmp_path.iterdir()] == [f"leaks.{format}"]

    def test_without_references_there_is_no_table_of_them(self) -> None:
        report = a_report()
        assert report.result is not None
        report.result.references = None
        with pytest.raises(UsageError, match="low-memory"):
            report.to_arrow("references")

    def test_unknown_tables_and_formats_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="there is no table 'heap'"):
            told().to_arrow("heap")
        with pytest.raises(UsageError, match="not written as 'xls'"):
            told().export(tmp_path, format="xls")

    def test_without_pyarrow_the_extra_is_named_and_npz_is_written(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        original = builtins.__import__

        def missing(name: str, *arguments: Any, **keywords: Any) -> Any:
            if name.partition(".")[0] == "pyarrow":
                raise ImportError(name)
            return original(name, *arguments, **keywords)

        monkeypatch.setattr(builtins, "__import__", missing)
        for fails in (told().to_arrow, told().leaks.to_arrow, lambda: told().export(tmp_path)):
            with pytest.raises(KmemleakError, match=r"kmemleak-core\[arrow\]"):
                fails()
        assert told().export(tmp_path, format="npz")


class TestCommand:
    def test_it_writes_all_tables_and_tells_their_rows(
        self, leaky: Memory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "tables"
        assert main(["export", *leaky.arguments, "-o", str(folder)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == len(columns.TABLES)
        assert any(line.startswith(f"{folder}/objects.parquet: 3 rows, ") for line in lines)
        assert pd.read_parquet(folder / "leaks.parquet")["address"].tolist() == [
            BASE + 0x100,
            BASE + 0x200,
        ]

    def test_some_tables_in_another_format_quietly(
        self, leaky: Memory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = [*leaky.arguments, "-o", str(tmp_path / "t"), "--format", "npz", "-q"]
        assert main(["export", *arguments, "--tables", "groups,leaks"]) == 0
        assert capsys.readouterr().out == ""
        assert {path.name for path in (tmp_path / "t").iterdir()} == {"groups.npz", "leaks.npz"}

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--tables", "heap"], "there is no table 'heap'"),
            (["--format", "xls"], "invalid choice: 'xls'"),
            ([], "is there already"),
        ],
    )
    def test_wrong_usage_is_told_before_the_scan(
        self,
        more: list[str],
        message: str,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        (tmp_path / "leaks.parquet").touch()
        assert main(["export", "/no/such/core", "-o", str(tmp_path), *more]) == 2
        assert message in capsys.readouterr().err

    def test_its_help_names_the_tables_and_formats_there_are(self) -> None:
        assert tuple(columns.TABLES) == command._TABLES
        assert tuple(FORMATS) == command._FORMATS
        assert all(table in command._DESCRIPTION for table in columns.TABLES)
