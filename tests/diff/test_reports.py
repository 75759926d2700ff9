"""Reports stand for dumps, as far as leaks go; and what is no report is told to be none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import kmemleak_core as km
from kmemleak_core.compare.report_census import load_report

from .conftest import Grown


def written(core: Path, path: Path, **options: Any) -> Path:
    path.write_text(km.scan(core).report("json", **options))
    return path


@pytest.fixture(scope="module")
def reports(grown: Grown, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("reports")
    return (
        written(grown.old, folder / "old.json"),
        written(grown.new, folder / "new.json", redact=True),
    )


def told(found: km.Difference) -> set[tuple[Any, ...]]:
    return {(g.size, g.shape, g.state, g.before, g.after) for g in found.groups(leaks=True)}


class TestReports:
    def test_leaks_are_compared_by_group(self, grown: Grown, reports: tuple[Path, Path]) -> None:
        found = km.diff(*reports)
        assert found.new_leaks == grown.difference.new_leaks
        assert found.kept_leaks == grown.difference.kept_leaks
        assert {(g.size, g.after) for g in found.groups(leaks=True)} == {
            (g.size, g.after) for g in grown.difference.groups(leaks=True)
        }
        examples = {group.example for group in found.groups(leaks=True)}
        assert examples <= set(grown.after.made["leak"]) | set(grown.after.lost["forgotten"])

    def test_what_is_not_compared_is_told(self, reports: tuple[Path, Path]) -> None:
        found = km.diff(*reports)
        assert not found.complete
        assert found.groups() == [] == found.anchors()
        assert found.holders == () == found.modules == found.types
        assert any("leaks alone" in note.message for note in found.notes)
        assert "leaks alone" in found.report()

    def test_the_totals_are_known_all_the_same(
        self, grown: Grown, reports: tuple[Path, Path]
    ) -> None:
        assert km.diff(*reports).growth == grown.difference.growth

    @pytest.mark.parametrize("dump_first", [True, False])
    def test_a_dump_and_a_report(
        self, grown: Grown, reports: tuple[Path, Path], dump_first: bool
    ) -> None:
        mixed = (grown.old, reports[1]) if dump_first else (reports[0], grown.new)
        found = km.diff(*mixed)
        assert not found.complete
        assert told(found) == told(km.diff(*reports))

    def test_values_in_a_notebook(self, grown: Grown, reports: tuple[Path, Path]) -> None:
        old, new = km.scan(grown.old), km.scan(grown.new)
        expected = told(km.diff(*reports))
        assert told(km.diff(old, new)) == expected
        assert told(km.diff(old.to_dict(), new)) == expected
        counted = km.census(grown.old), km.census(grown.new)
        assert km.diff(*counted).came == grown.difference.came

    def test_against_itself_nothing_is_new(self, reports: tuple[Path, Path]) -> None:
        found = km.diff(reports[1], reports[1])
        assert found.groups(leaks=True) == []
        assert found.new_leaks == (0, 0)

    def test_a_report_in_another_layout_is_read_as_well(
        self, reports: tuple[Path, Path], tmp_path: Path
    ) -> None:
        compact = tmp_path / "compact.json"
        compact.write_text(json.dumps(json.loads(reports[1].read_text())))
        assert told(km.diff(reports[0], compact)) == told(km.diff(*reports))


class TestWhatMustBeKnown:
    def test_groups_that_a_limit_left_out(self, grown: Grown, tmp_path: Path) -> None:
        shown = written(grown.new, tmp_path / "limited.json", limit=1)
        notes = [note.code for note in km.diff(grown.old, shown).notes]
        assert "diff.limit" in notes

    def test_leaks_that_a_filter_hid(self, grown: Grown, tmp_path: Path) -> None:
        shown = written(grown.new, tmp_path / "filtered.json", min_size=200)
        notes = [note.code for note in km.diff(grown.old, shown).notes]
        assert "diff.filters" in notes

    def test_other_groups(self, grown: Grown, tmp_path: Path) -> None:
        path = tmp_path / "by-size.json"
        path.write_text(km.scan(grown.new).regroup("size").report("json"))
        notes = [note.code for note in km.diff(grown.old, path).notes]
        assert "diff.grouped" in notes

    def test_groups_that_were_folded_into_one(
        self, reports: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, grown: Grown
    ) -> None:
        monkeypatch.setattr("kmemleak_core.leak_groups.MAX_GROUPS", 1)
        folded = km.scan(grown.new).to_dict()
        assert folded["groups"][0]["shape"] == "others"
        found = km.diff(reports[0], folded)
        assert "diff.folded" in [note.code for note in found.notes]
        summary = folded["summary"]
        assert found.leaks.after == (summary["leaked_objects"], summary["leaked_bytes"])


class TestWhatIsHostile:
    def test_single_leaks_are_not_read(self, reports: tuple[Path, Path], tmp_path: Path) -> None:
        head, _, _ = reports[1].read_text().partition('\n "leaks": [')
        path = tmp_path / "cut.json"
        path.write_text(head + '\n "leaks": [\n  {"address": ' + "x" * 100_000)
        assert told(km.diff(reports[0], path)) == told(km.diff(*reports))

    def test_a_shape_is_no_longer_than_what_is_looked_at(self, reports: tuple[Path, Path]) -> None:
        document = json.loads(reports[1].read_text())
        document["groups"][0]["shape"] = "obj×999999999999999·ptr"
        shapes = {group.shape for group in km.diff(reports[0], document).groups(leaks=True)}
        assert "·".join(["obj"] * 8 + ["ptr"]) in shapes

    def test_names_are_escaped(self, reports: tuple[Path, Path]) -> None:
        document = json.loads(reports[1].read_text())
        for text in ("\x1b[2J", "\u202e", "<b>"):
            document["groups"][0] |= {"kind": text, "backtrace": [text]}
            document["source"] |= {"process": {"name": text, "arguments": text}, "path": text}
            found = km.diff(reports[0], document)
            for shown in (found.report(), found.report("json"), found._repr_html_()):
                assert text not in shown or (text == "<b>" and shown != found._repr_html_())


class TestWhatIsNone:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("{", "does not parse"),
            ("{}", '"schema"'),
            ('{"schema": "kmemleak-baseline", "version": 1}', '"schema"'),
            ('{"schema": "kmemleak-report", "version": 99}', "version"),
            ('{"schema": "kmemleak-report", "version": true}', "version"),
            ('{"schema": "kmemleak-report", "version": 1}', "damaged"),
            ("[" * 100_000, "nested"),
            ("{" * 10 + '"a":' * 5, "does not parse"),
        ],
    )
    def test_no_report(self, tmp_path: Path, text: str, reason: str) -> None:
        path = tmp_path / "none.json"
        path.write_text(text)
        with pytest.raises(km.UsageError, match=reason) as caught:
            load_report(path)
        assert str(path) in str(caught.value)

    @pytest.mark.parametrize(
        "change",
        [
            {"groups": None},
            {"groups": [1]},
            {"groups": [{"size": -1}]},
            {"summary": {}},
            {"source": []},
            {"summary": {"objects": 1.5}},
        ],
    )
    def test_a_damaged_one(
        self, reports: tuple[Path, Path], tmp_path: Path, change: dict[str, Any]
    ) -> None:
        document = json.loads(reports[0].read_text())
        with pytest.raises(km.UsageError, match="damaged"):
            km.diff(document | change, reports[1])

    @pytest.mark.parametrize(
        "field",
        [
            {"objects": -1},
            {"objects": 1 << 80},
            {"bytes": "1"},
            {"size": True},
            {"kind": 1},
            {"backtrace": [1]},
            {"example": {"address": "0x10000000000000000"}},
            {"example": None},
        ],
    )
    def test_a_damaged_group(self, reports: tuple[Path, Path], field: dict[str, Any]) -> None:
        document = json.loads(reports[0].read_text())
        document["groups"][0] |= field
        with pytest.raises(km.UsageError, match="damaged"):
            km.diff(reports[0], document)

    def test_a_report_has_no_addresses_to_match_by(
        self, grown: Grown, reports: tuple[Path, Path]
    ) -> None:
        with pytest.raises(km.UsageError, match="matched by address"):
            km.diff(grown.old, reports[1], match="address")

    def test_the_census_of_a_dump_is_not_compared_with_a_report(
        self, grown: Grown, reports: tuple[Path, Path]
    ) -> None:
        with pytest.raises(km.UsageError, match="give the dump"):
            km.diff(km.census(grown.old), reports[1])

    def test_an_option_that_does_not_exist(self, grown: Grown) -> None:
        with pytest.raises(km.UsageError, match="colour"):
            km.diff(grown.old, grown.new, colour="red")
        with pytest.raises(km.UsageError, match="bytess"):
            grown.difference.groups(sort="bytess")
