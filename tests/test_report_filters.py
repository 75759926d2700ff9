"""Which leaks of a report are shown, in which groups, and which come first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmemleak_core import Report, UsageError, scan
from kmemleak_core.cli import main
from kmemleak_core.report import RenderOptions
from kmemleak_core.report.json import schema
from kmemleak_core.report.select import chosen_groups, chosen_rows, hidden, selected
from kmemleak_core.suppressions import Suppressions

from .test_report_formats import a_report
from .test_suppressions import core, origins, regrouped

__all__ = ["core"]  # a fixture

MAKE = ("kmalloc_trace+0x1/0x2", "make+0x1/0x2 [things]", "main+0x1/0x2")
READ = ("vmalloc+0x1/0x2", "read.cold+0x1/0x2", "main+0x1/0x2")


def told() -> Report:
    """Return a report whose leaks 1, 2 and 4 were made by one function, 3 by another."""
    rows = [("kmalloc-32", MAKE), ("kmalloc-32", MAKE), ("vmalloc", READ), ("kmalloc-64", MAKE)]
    return regrouped(a_report(provenance=origins(*rows, ("", ()))))


def shown(report: Report, **options: Any) -> set[int]:
    """Return which of the leaks 1 to 5 are shown; JSON and list agree on them."""
    document = report.to_dict(**options)
    jsonschema.validate(json.loads(json.dumps(document)), schema())
    rows = {int(leak["address"], 16) >> 8 & 0xF for leak in document["leaks"]}
    lines = [x for x in report.report("list", **options).splitlines() if x[0] != "#"]
    assert {int(line.split()[0], 16) >> 8 & 0xF for line in lines} == rows
    assert sum(group["objects"] for group in document["groups"]) == len(rows)
    assert document["hidden"]["objects"] == len(report.leaks) - len(rows)
    return rows


class TestFilters:
    @pytest.mark.parametrize(
        ("options", "rows"),
        [
            ({}, {1, 2, 3, 4, 5}),
            ({"max_size": 48}, {1, 2, 3, 4}),
            ({"min_size": 48, "max_size": 48}, {4}),
            ({"types": ("kmalloc-32",)}, {1, 2}),
            ({"types": ("kmalloc-*", "vm*")}, {1, 2, 3, 4}),
            ({"types": ("malloc",)}, set()),
            ({"functions": ("make",)}, {1, 2, 4}),
            ({"functions": ("ma*n",)}, {1, 2, 3, 4}),
            ({"functions": ("read",)}, {3}),
            ({"modules": ("things",)}, {1, 2, 4}),
            ({"modules": ("thing",)}, set()),
            ({"functions": ("main",), "types": ("kmalloc-64",)}, {4}),
        ],
    )
    def test_every_format_shows_the_same_leaks(
        self, options: dict[str, Any], rows: set[int]
    ) -> None:
        assert shown(told(), **options) == rows

    def test_the_text_tells_what_they_hide(self) -> None:
        text = told().report(types=("vmalloc",))
        assert "the filters hide 4 leaks (208 B) of these" in text
        assert "make" not in text
        assert "hide" not in told().report()

    def test_a_group_of_which_a_part_is_shown_is_measured_by_it(self) -> None:
        report = a_report(provenance=origins(*[("", MAKE)] * 5))
        group = regrouped(report).to_dict(max_size=48)["groups"][0]
        assert (group["objects"], group["bytes"], group["size"]) == (4, 144, None)
        group = regrouped(report).to_dict(min_size=90)["groups"][0]
        assert (group["objects"], group["direct_objects"], group["size"]) == (1, 0, 96)
        assert group["example"]["address"] == "0x10500"
        assert group["retained_objects"] == 0

    @pytest.mark.parametrize(
        "options", [{"types": ("a",)}, {"functions": ("a",)}, {"modules": ("a",)}]
    )
    def test_what_the_dump_does_not_tell_cannot_be_asked_for(self, options: Any) -> None:
        with pytest.raises(UsageError, match="this dump"):
            a_report().report(**options)

    @given(st.integers(0, 100), st.one_of(st.none(), st.integers(0, 100)))
    def test_shown_and_hidden_are_all(self, low: int, high: int | None) -> None:
        report, options = told(), RenderOptions(min_size=low, max_size=high)
        groups = [group for _, group in chosen_groups(report, options)]
        rows, left_out = chosen_rows(report, options)
        objects, nbytes = hidden(report, options)
        assert left_out == 0
        assert sum(g.count for g in groups) == rows.size == len(report.leaks) - objects
        assert sum(g.nbytes for g in groups) == report.leaks.nbytes - nbytes
        assert sum(g.direct_count for g in groups) == int(report.leaks["direct"][rows].sum())
        assert selected(report, RenderOptions()) is None


class TestSorts:
    @pytest.mark.parametrize(
        ("sort", "sizes"),
        [("bytes", [32, 96, 48]), ("size", [96, 48, 32]), ("count", [32, 96, 48]),
         ("oldest", [32, 48, 96]), (None, [32, 96, 48])],
    )  # fmt: skip
    def test_groups_come_in_the_order_asked_for(self, sort: str | None, sizes: list[int]) -> None:
        groups = a_report().to_dict(sort=sort)["groups"]
        # In order of allocation the objects are 3, 1, 2, 4, 5.
        assert [group["size"] for group in groups] == sizes

    def test_single_leaks_follow_their_groups(self) -> None:
        lines = a_report().report("list", sort="size").splitlines()[1:]
        assert [line.split()[1] for line in lines] == ["96", "48", "32", "32", "32"]
        lines = a_report().report("list", sort="size", order="address").splitlines()[1:]
        assert [line.split()[1] for line in lines] == ["32", "32", "32", "48", "96"]

    def test_the_text_follows_as_well(self) -> None:
        text = a_report().report(sort="size")
        assert text.index("of 96 bytes") < text.index("of 48 bytes")

    def test_an_unknown_sort_names_the_known_ones(self) -> None:
        with pytest.raises(UsageError, match="bytes, count, size, oldest"):
            a_report().report(sort="colour")


class TestGroups:
    @pytest.mark.parametrize(
        ("by", "members"),
        [
            ("origin", [[1, 2], [3], [4], [5]]),
            ("trace", [[1, 2, 4], [3], [5]]),
            ("kind", [[1, 2], [3], [4], [5]]),
            ("size", [[1, 2, 3], [4], [5]]),
        ],
    )
    def test_they_are_made_of_what_was_asked_for(self, by: Any, members: list[list[int]]) -> None:
        report = told().regroup(by)
        address = report.leaks["address"]
        found = [sorted(int(a) >> 8 & 0xF for a in address[g.rows]) for g in report.groups]
        assert sorted(found) == members
        assert report.to_dict()["grouped_by"] == by
        for index, group in enumerate(report.groups):
            assert set(report.leaks["group"][group.rows].tolist()) == {index}

    def test_a_group_tells_only_what_its_members_share(self) -> None:
        by_trace = {g.count: g.origin for g in told().regroup("trace").groups}
        assert by_trace[3].frames == MAKE
        assert by_trace[3].kind == ""
        by_size = next(g for g in told().regroup("size").groups if g.count == 3)
        assert (by_size.origin.kind, by_size.origin.frames) == ("", ())

    def test_the_first_report_keeps_its_groups(self) -> None:
        report = told()
        before = report.leaks["group"].tolist()
        report.regroup("size")
        assert report.leaks["group"].tolist() == before

    @pytest.mark.parametrize("by", ["trace", "kind", "colour"])
    def test_what_nothing_tells_cannot_be_asked_for(self, by: Any) -> None:
        with pytest.raises(UsageError, match="there are no"):
            a_report().regroup(by)

    def test_they_go_with_suppressions(self) -> None:
        report = told().suppress(Suppressions.parse("size:48")).regroup("size")
        assert [(g.size, g.count) for g in report.groups] == [(32, 3)]


class TestRealCore:
    def test_by_shape_objects_of_all_sizes_are_together(self, core: Path) -> None:
        report = scan(core)
        by_shape = report.regroup("shape")
        assert sum(g.count for g in by_shape.groups) == len(report.leaks)
        assert any(g.size is None for g in by_shape.groups)

    def test_the_command_filters_sorts_and_tells_by_its_exit_code(
        self, core: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        how = ["--min-size", "64", "--max-size", "4K", "--sort", "size", "--group-by", "size"]
        assert main(["scan", str(core), "--json", *how]) == 1
        document = json.loads(capsys.readouterr().out)
        jsonschema.validate(document, schema())
        sizes = [group["size"] for group in document["groups"]]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes
        assert sizes[0] <= 4096
        assert document["hidden"]["objects"] + len(document["leaks"]) == 492
        assert main(["scan", str(core), "-q", "--min-size", "1G"]) == 0
        assert main(["scan", str(core), "--type", "kmalloc-*"]) == 2
        assert "no types" in capsys.readouterr().err
