"""The page of a report: what is in it, how large it gets, what never is in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kmemleak_core import KmemleakError, Report, scan
from kmemleak_core.cli import main
from kmemleak_core.cluster_graph import cluster_graph
from kmemleak_core.heaps import Check
from kmemleak_core.report import RenderOptions, ReportSource
from kmemleak_core.report.html.links import MEMBERS
from kmemleak_core.report.html.page import LIMIT, page
from kmemleak_core.report.select import chosen_groups
from kmemleak_core.suppressions import Suppressions

from ..test_report_formats import HOSTILE, a_report, hostile_report
from ..test_suppressions import core, origins, regrouped
from .made import SECRET, TREE, made

__all__ = ["core"]  # a fixture

#: Names that would do something if they were taken for markup, and what turns writing around.
NASTY = '</script><img src=x onerror="alert(1)"><!--<script>\u202e\x00\x1b[2J\u2028&amp;\'"{}'


@pytest.fixture(scope="module")
def many_groups() -> Report:
    """12,000 groups, as many as their origins."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("kmemleak_core.leak_groups.MAX_GROUPS", 20_000)
        return made(60_000, 12_000)


def data_of(text: str) -> dict[str, Any]:
    """Return what the page tells its scripts; of leaks and the rest, leaks alone."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    told = dict(json.loads(data))
    return told | told["parts"][0]


def rows_of(text: str) -> list[dict[str, Any]]:
    """Return the rows of the table with their texts, as the page's own script reads them."""
    data, rows = data_of(text), []
    for part in data["parts"]:
        words: list[str] = []
        traces: list[list[str]] = []
        for values in part["groups"]:
            row = dict.fromkeys(data["fields"]) | dict(zip(data["fields"], values, strict=False))
            words += row["words"] or []
            if isinstance(row["trace"], list):
                traces.append([words[number] for number in row["trace"][1:]])
                row["trace"] = len(traces) - 1
            row["trace"] = traces[row["trace"]] if row["trace"] >= 0 else []
            for name in ("shape", "kind", "comm", "possible"):
                row[name] = words[row[name]] if row[name] >= 0 else ""
            rows.append(row)
    return rows


class TestContent:
    def test_it_tells_what_was_analysed_and_what_leaks(self) -> None:
        text = a_report().report("html")
        assert "<h1>core</h1>" in text
        assert "<span>elf-core</span><span>x86_64</span>" in text
        assert "5 objects (240 B) leaked of 6 (272 B) scanned" in text

    def test_it_tells_the_figures(self) -> None:
        text = a_report().report("html")
        figures = re.findall(r"</i>(.*?)</dt>\s*<dd>(.*?)<small>(.*?)</small>", text)
        assert figures == [
            ("directly leaked", "96 B", "3 objects"),
            ("held by other leaks", "144 B", "2 objects"),
            ("reachable", "32 B", "1 object"),
        ]

    def test_it_tells_checks_coverage_options_and_counters(self) -> None:
        checks = [Check("system_mem", 5, 5), Check("mmapped", 3, 4)]
        options = {"no_roots": frozenset({"tls"}), "interior": True, "alignment": None}
        text = a_report(checks=checks, options=options).report("html", min_size=32)
        assert "does not agree with the allocator&#39;s own sums: 1 of 2" in text
        assert "mmapped: the allocator says 3, the walk found 4" in text
        assert "the file ends early (4.1 kB, at 0x7000)" in text
        for name, value in (("no roots", "tls"), ("interior", "yes"), ("min size", "32")):
            assert f"<dt>{name}</dt><dd>{value}</dd>" in text
        assert "<li>words 1,234,567</li>" in text

    def test_filters_hide_groups_and_are_told(self) -> None:
        text = a_report().report("html", min_size=90)
        assert [row["smallest"] for row in rows_of(text)] == [96]
        assert "the filters hide 4 leaks" in text

    def test_without_leaks_it_says_so(self) -> None:
        report = a_report()
        empty = report.leaks[:0]
        summary = report.summary.without(report.leaks, empty, report.possible)
        text = a_report(leaks=empty, groups=(), summary=summary).report("html")
        assert "no leaks but 5 suppressed" in text
        assert data_of(text)["groups"] == []

    def test_rows_are_the_groups_in_order(self) -> None:
        report = made(2000, 30)
        groups = [group for _, group in chosen_groups(report, RenderOptions())]
        rows = rows_of(report.report("html"))
        assert len(rows) == len(groups) == 30
        for row, group in zip(rows, groups, strict=True):
            assert (row["objects"], row["bytes"]) == (group.count, group.nbytes)
            assert (row["direct"], row["directBytes"]) == (group.direct_count, group.direct_bytes)
            assert (row["held"], row["heldBytes"]) == (group.retained_count, group.retained_bytes)
            assert (row["kind"], row["shape"]) == (group.origin.kind, group.shape)
            assert tuple(row["trace"]) == group.origin.frames
            assert int(row["example"], 16) == group.example

    def test_groups_can_be_sorted(self) -> None:
        rows = rows_of(made(2000, 30).report("html", sort="count"))
        counts = [row["objects"] for row in rows]
        assert counts == sorted(counts, reverse=True)

    def test_examples_tell_their_first_bytes(self) -> None:
        (first, *_) = data_of(a_report().report("html", hex_bytes=16))["contents"]
        assert base64.b64decode(first)[8:] == b"secret p"

    def test_a_limit_folds_the_other_groups(self) -> None:
        report = made(2000, 30)
        data = data_of(report.report("html", limit=10))
        rest = [group for _, group in chosen_groups(report, RenderOptions())][10:]
        assert len(data["groups"]) == 10
        assert data["others"]["groups"] == 20
        assert data["others"]["objects"] == sum(group.count for group in rest)
        assert data["others"]["bytes"] == sum(group.nbytes for group in rest)

    def test_an_indirect_example_names_the_leak_that_leads_to_it(self) -> None:
        rows = rows_of(a_report().report("html"))
        assert {row["example"]: row["holder"] for row in rows} == {
            "10300": 0,
            "10400": "10100",
            "10500": "10100",
        }

    def test_sizes_that_differ_are_a_range(self) -> None:
        report = regrouped(a_report(provenance=origins(*[("thing", ("make",))] * 5)))
        (row,) = rows_of(report.report("html"))
        assert (row["smallest"], row["largest"]) == (32, 96)

    def test_it_is_the_same_every_time(self) -> None:
        assert made(2000, 30).report("html") == made(2000, 30).report("html")


class TestPossiblyLost:
    def test_it_is_one_of_the_figures(self) -> None:
        text = made(3000, 40, possible=10).report("html")
        assert re.search(r"possibly lost</dt>\s*<dd>2.6 kB<small>40 objects</small>", text)
        assert "possibly lost</dt>" not in made(3000, 40).report("html")

    def test_it_has_rows_after_those_of_leaks(self) -> None:
        report = made(3000, 40, possible=10)
        text = report.report("html")
        rows = rows_of(text)
        leaks = len(report.groups)
        assert leaks > 30
        assert all(not row["possible"] for row in rows[:leaks])
        assert sum(row["objects"] for row in rows[:leaks]) == len(report.leaks) == 2960
        lost = rows[leaks:]
        assert len(lost) == len(report.possible_groups) == 10
        assert {row["possible"] for row in lost} == {"only pointers into the middle hold it"}
        assert [row["kind"] for row in lost] == [g.origin.kind for g in report.possible_groups]

    def test_where_not_all_leaks_fit_it_keeps_its_names(self) -> None:
        report = made(9000, 2000, possible=10)
        text = page(report, RenderOptions(), 150_000)
        rows, leaks = rows_of(text), len(data_of(text)["groups"])
        assert leaks < len(report.groups)
        lost = [(row["kind"], row["trace"]) for row in rows[leaks:]]
        wanted = [(g.origin.kind, list(g.origin.frames)) for g in report.possible_groups]
        assert lost == wanted

    def test_its_clusters_are_drawn_too(self) -> None:
        text = made(3000, 40, possible=10).report("html")
        rows, (_, lost) = rows_of(text), data_of(text)["parts"]
        assert len(lost["clusters"]) == 10
        for cluster in lost["clusters"]:
            assert rows[cluster["group"]]["example"] == cluster["at"][0]
            assert (cluster["from"], cluster["to"]) == ([0, 1, 2], [1, 2, 3])
            assert set(cluster["of"]) == {cluster["group"]}


class TestCommand:
    def test_it_writes_the_page_of_a_real_core(self, core: Path, tmp_path: Path) -> None:
        path = tmp_path / "report.html"
        assert main(["scan", "--format", "html", "--redact", "-o", str(path), str(core)]) == 1
        text = path.read_text(encoding="ascii")
        rows, report = rows_of(text), scan(core).suppress(Suppressions.builtin())
        assert sum(row["objects"] for row in rows) == len(report.leaks) + len(report.possible)
        assert data_of(text)["core"] == str(core)
        assert data_of(text)["redacted"]


class TestReferences:
    def test_those_between_groups_are_counted(self) -> None:
        report = made(3000, 40)
        graph, group = report.leaks.graph, report.leaks["group"]
        assert graph is not None
        wanted: dict[tuple[int, int], int] = {}
        for source, target in zip(graph.sources().tolist(), graph.targets.tolist(), strict=True):
            pair = int(group[source]), int(group[target])
            wanted[pair] = wanted.get(pair, 0) + 1
        text = report.report("html")
        number = [row["id"] for row in rows_of(text)]
        links = data_of(text)["links"]
        assert {(number[a], number[b]): words for a, b, words in links} == wanted
        assert [words for *_, words in links] == sorted(wanted.values(), reverse=True)

    def test_those_of_hidden_groups_are_left_out(self) -> None:
        data = data_of(made(3000, 40).report("html", types=("type_1", "type_2")))
        assert {end for source, target, _ in data["links"] for end in (source, target)} <= {0, 1}


class TestClusters:
    def test_a_group_shows_its_head_that_leads_to_the_most(self) -> None:
        report = made(8000, 50)
        text = report.report("html")
        (largest,) = [c for c in data_of(text)["clusters"] if c["more"]]
        assert (len(largest["at"]), largest["more"]) == (MEMBERS, TREE - MEMBERS)
        row = int(np.flatnonzero(report.leaks["address"] == int(largest["at"][0], 16))[0])
        drawn = cluster_graph(report.leaks, row, MEMBERS)
        assert [int(at, 16) for at in largest["at"]] == report.leaks["address"][drawn.rows].tolist()
        assert (largest["from"], largest["to"]) == (drawn.sources.tolist(), drawn.targets.tolist())
        assert [rows_of(text)[of]["id"] for of in largest["of"]] == report.leaks["group"][
            drawn.rows
        ].tolist()

    def test_lists_of_four_are_drawn_as_such(self) -> None:
        clusters = data_of(made(8000, 50).report("html"))["clusters"]
        lists = [c for c in clusters if not c["more"]]
        assert lists
        assert all((c["from"], c["to"]) == ([0, 1, 2], [1, 2, 3]) for c in lists)

    def test_a_report_without_references_has_none(self) -> None:
        report = made(2000, 30)
        bare = replace(report, leaks=report.leaks[:])
        assert bare.leaks.graph is None
        data = data_of(bare.report("html"))
        assert (data["clusters"], data["links"]) == ([], [])
        assert len(data["groups"]) == 30


class TestSize:
    def test_many_groups_stay_below_two_megabytes(self, many_groups: Report) -> None:
        text = many_groups.report("html")
        assert len(many_groups.groups) == 12_000
        assert len(text.encode()) <= LIMIT < 2_000_000
        data = data_of(text)
        assert len(data["groups"]) > 9_000
        assert len(data["groups"]) + data["others"]["groups"] == 12_000
        assert len(data["contents"]) > 1_000
        assert len(data["clusters"]) > 100

    def test_a_million_leaks_do_too(self) -> None:
        text = made(1_000_000, 3000).report("html")
        assert len(text.encode()) <= LIMIT
        assert sum(row["objects"] for row in rows_of(text)) == 1_000_000

    def test_what_is_worth_least_goes_first(self, many_groups: Report) -> None:
        told = {
            limit: data_of(page(many_groups, RenderOptions(), limit))
            for limit in (1_500_000, 400_000, 150_000)
        }
        for name in ("groups", "contents", "links", "clusters"):
            lengths = [len(told[limit][name]) for limit in told]
            assert lengths == sorted(lengths, reverse=True)
        for data in told.values():
            assert len(data["groups"]) >= len(data["contents"]) > 0
            assert data["groups"] == told[1_500_000]["groups"][: len(data["groups"])]

    def test_it_says_what_it_left_out(self, many_groups: Report) -> None:
        text = page(many_groups, RenderOptions(), 400_000)
        assert len(text) <= 400_000
        folded = data_of(text)["others"]["groups"]
        assert f"it lacks: {folded:,} small groups; the contents of" in text
        assert "it lacks" not in a_report().report("html")

    @pytest.mark.parametrize("letter", ["x", "\u202e", "\U0001f600", "<"])
    def test_names_of_any_length_do_not_make_it_larger(self, letter: str) -> None:
        long = letter * 5_000
        report = made(
            2000,
            300,
            names=long,
            source=ReportSource(path=long, process={"name": long, "arguments": long}),
            checks=[Check(f"{long}{i}", 1, 2) for i in range(200)],
            counters={f"{long}{i}": i for i in range(200)},
            options={f"{long}{i}": [long] * 3 for i in range(200)},
            allocator=long,
            version=long,
        )
        for i in range(500):
            report.coverage.add(f"note.{i}", f"{long}{i}")
        assert len(report.report("html").encode()) <= LIMIT


class TestHostileNames:
    def nasty(self) -> str:
        report = made(
            40,
            4,
            names=NASTY,
            source=ReportSource(path=NASTY, process={"name": NASTY, "arguments": NASTY}),
            checks=[Check(NASTY, 1, 2)],
            counters={NASTY: 1},
            options={NASTY: NASTY},
            allocator=NASTY,
        )
        report.coverage.add("x", NASTY)
        return report.report("html")

    def test_they_make_no_elements(self) -> None:
        text = self.nasty()
        assert text.lower().count("<script") == text.lower().count("</script") == 2
        assert "<img" not in text
        assert "<!--" not in text

    def test_they_arrive_readable_and_without_control_characters(self) -> None:
        kinds = {row["kind"] for row in rows_of(self.nasty())}
        assert len(kinds) == 4
        assert all(kind.startswith("</script><img") and kind.isprintable() for kind in kinds)
        assert all(r"\u202e\x00\x1b[2J\u2028" in kind for kind in kinds)

    def test_the_page_is_ascii(self) -> None:
        for text in (self.nasty(), hostile_report().report("html"), a_report().report("html")):
            assert text.isascii()
            assert all(c == "\n" or c.isprintable() for c in text)

    def test_the_piece_for_notebooks_runs_nothing(self) -> None:
        text = made(40, 4, names=NASTY, source=ReportSource(path=HOSTILE))._repr_html_()
        assert "<script" not in text
        assert "<img" not in text
        assert "&lt;img" in text


class TestNothingElse:
    def test_nothing_is_loaded(self) -> None:
        text = made(2000, 30).report("html")
        assert re.findall(r"(?i)https?:|//[a-z]|@import|url\((?!#)", text) == []
        assert set(re.findall(r'(?:src|href)="([^"]*)"', text)) <= {"data:,", "#checks", "#notes"}

    def test_a_policy_allows_the_page_s_own_script_and_style_alone(self) -> None:
        text = made(2000, 30).report("html")
        (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
        for element, directive in (("script", "script-src"), ("style", "style-src")):
            (code,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
            assert f"{directive} 'sha256-{digest}';" in policy
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        # Attributes would need 'unsafe-inline'.
        assert not re.search(r"<[a-z][^>]*\s(style|on[a-z]+)=", text.split("<script>")[0])

    def test_redaction_leaves_no_content(self) -> None:
        process = {"arguments": "--password hunter2"}
        report = made(2000, 30, source=ReportSource(path="core", process=process))
        shown, redacted = report.report("html"), report.report("html", redact=True)
        # Base 64 of the same bytes at every place in a group of three.
        forms = [base64.b64encode(b"x" * at + SECRET)[4:-4].decode() for at in range(3)]
        assert any(form in shown for form in forms)
        for form in (*forms, SECRET.decode(), SECRET.hex(), SECRET.hex(" "), "hunter2"):
            assert form not in redacted
        assert data_of(redacted)["contents"] == []
        assert any("text" in row["shape"] for row in rows_of(shown))
        assert not any("text" in row["shape"] for row in rows_of(redacted))

    def test_without_hex_there_is_none(self) -> None:
        assert data_of(a_report().report("html", hex_bytes=0))["contents"] == []

    def test_jinja2_is_asked_for_by_name(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "jinja2", None)
        with pytest.raises(KmemleakError, match="needs jinja2"):
            a_report().report("html")
