"""Known leaks: the language of suppressions, and a report without what they cover."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmemleak_core import Report, UsageError, scan
from kmemleak_core.cli import main
from kmemleak_core.leak_masks import suppressed_by
from kmemleak_core.leaks import LEAK_DTYPE, LeakTable
from kmemleak_core.provenance import Provenance
from kmemleak_core.quantities import parse_addresses, parse_size, parse_sizes
from kmemleak_core.report.json import schema
from kmemleak_core.suppressions import Suppressions

from .test_report_formats import BASE, a_report

NAMES = ("make_thing+0x1/0x20 [things]", "do_syscall_64+0x2b/0x50", "main.cold+0x2/0x9")


def origins(*rows: tuple[str, tuple[str, ...]]) -> Provenance:
    """Return what is known of leaks: the kind and the backtrace of each."""
    kinds = sorted({kind for kind, _ in rows if kind})
    traces = sorted({trace for _, trace in rows if trace})
    symbols = sorted({frame for trace in traces for frame in trace})
    return Provenance(
        kind=np.array([kinds.index(k) if k else -1 for k, _ in rows], np.int32),
        kinds=kinds,
        trace=np.array([traces.index(t) if t else -1 for _, t in rows], np.int64),
        traces=[tuple(symbols.index(f) for f in trace) for trace in traces],
        symbol=symbols.__getitem__,
    )


def table(*rows: tuple[int, int]) -> LeakTable:
    array = np.zeros(len(rows), LEAK_DTYPE)
    array["address"] = [address for address, _ in rows]
    array["size"] = [size for _, size in rows]
    return LeakTable(array)


def found(text: str, *, size: int = 64, address: int = 0x1000, kind: str = "") -> bool:
    known = Suppressions.parse(text)
    return known.find(NAMES, kind=kind, size=size, address=address) is not None


class TestLanguage:
    @pytest.mark.parametrize(
        "line",
        [
            "leak:thing",
            "leak:^make_*g$",
            "leak:^main$",
            "module:things",
            "module:th*",
            "leak:things",
        ],
    )
    def test_functions_and_modules_are_met_by_name(self, line: str) -> None:
        assert found(line)

    @pytest.mark.parametrize("line", ["module:thing", "module:make_thing", "leak:^thing$"])
    def test_a_module_has_to_match_as_a_whole(self, line: str) -> None:
        assert not found(line)

    @pytest.mark.parametrize(
        ("line", "kind"), [("type:kmalloc-8", "kmalloc-8"), ("type:kmalloc-*", "kmalloc-8k")]
    )
    def test_a_type_is_met_by_its_whole_name(self, line: str, kind: str) -> None:
        assert found(line, kind=kind)
        assert not found("type:kmalloc-8", kind="kmalloc-8k")
        assert not found(line)

    @pytest.mark.parametrize("text", ["64", "1-64", "64-1K", ">63", "<65", ">=64", "<=64", "0x40"])
    def test_a_size_is_a_number_or_a_range(self, text: str) -> None:
        assert found(f"size:{text}")
        assert not found(f"size:{text}", size=1 << 40) or text.startswith(">")

    @pytest.mark.parametrize("text", ["63", "65-128", ">64", "<64", "1K"])
    def test_other_sizes_are_not_met(self, text: str) -> None:
        assert not found(f"size:{text}")

    def test_addresses_go_up_to_the_end_of_the_range(self) -> None:
        assert found("addr:0x1000")
        assert found("addr:0x1000-0x1001")
        assert not found("addr:0xf00-0x1000")

    def test_comments_and_empty_lines_say_nothing(self) -> None:
        assert Suppressions.parse("# leak:a\n\n  # b\n").entries == ()

    @pytest.mark.parametrize(
        "line",
        [
            "size:", "size:x", "size:>", "size:8-4", "size:<0", "size:-5", "size:1-2-3",
            "addr:", "addr:12", "addr:0x2-0x1", "addr:0x1-0x1", "addr:0x11111111111111111",
            "type:", "type:*", "module:", "size", ":x", "kind:x",
        ],
    )  # fmt: skip
    def test_a_line_that_is_none_is_refused_by_its_number(self, line: str) -> None:
        with pytest.raises(UsageError, match="known: line 2 is no suppression"):
            Suppressions.parse(f"# first\n{line}", "known")

    def test_the_first_line_that_a_leak_meets_counts(self) -> None:
        known = Suppressions.parse("leak:nobody\nsize:64\nleak:main\ntype:*a*")
        assert known.find(NAMES, size=64) == 1
        assert known.find(NAMES, size=65, kind="a") == 2

    @given(st.text())
    def test_any_text_is_read_or_refused(self, text: str) -> None:
        with contextlib.suppress(UsageError):
            for entry in Suppressions.parse(text).entries:
                assert Suppressions.parse(str(entry)).entries[0].text == entry.text

    @given(st.text(), st.sampled_from([parse_size, parse_sizes, parse_addresses]))
    def test_any_text_is_a_range_or_a_value_error(self, text: str, parse: Any) -> None:
        with contextlib.suppress(ValueError):
            parse(text)

    @given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 40))
    def test_a_range_holds_what_lies_in_it(self, low: int, high: int, value: int) -> None:
        low, high = sorted((low, high))
        assert (value in parse_sizes(f"{low}-{high}")) == (low <= value <= high)
        assert (value in parse_sizes(f">{low}")) == (value > low)
        assert (value in parse_sizes(f"<={high}")) == (value <= high)
        if low < high:
            span = parse_addresses(f"{low:#x}-{high:#x}")
            assert (value in span) == (low <= value < high)

    PIECES = st.text("ab*", min_size=1, max_size=6).filter(lambda t: t.strip("*"))

    @given(PIECES, st.text("ab", max_size=8))
    def test_a_type_matches_as_a_regular_expression_of_it_does(self, glob: str, name: str) -> None:
        expected = re.fullmatch(glob.replace("*", ".*"), name) is not None
        assert (Suppressions.parse(f"type:{glob}").of_kind(name) == 0) == expected

    LINES = st.sampled_from(
        [
            "leak:a",
            "leak:^b$",
            "type:k*",
            "type:l",
            "size:1-4",
            "size:>6",
            "addr:0x2-0x6",
            "module:m",
        ]
    )
    FRAMES = st.lists(st.sampled_from(["a", "b+0x1/0x2 [m]", "cc"]), max_size=3).map(tuple)
    ROWS = st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from(["", "k1", "l"]), FRAMES),
        max_size=12,
    )

    @given(st.lists(LINES, max_size=5), ROWS)
    def test_all_leaks_at_once_get_the_verdict_of_each_alone(
        self, lines: list[str], rows: list[tuple[int, int, str, tuple[str, ...]]]
    ) -> None:
        known = Suppressions.parse("\n".join(lines))
        together = suppressed_by(
            table(*(row[:2] for row in rows)), origins(*(row[2:] for row in rows)), known
        )
        alone = [
            known.find(frames, kind=kind, size=size, address=address)
            for address, size, kind, frames in rows
        ]
        assert [None if index < 0 else index for index in together.tolist()] == alone


class TestReportWithout:
    def test_what_a_known_leak_leads_to_is_known_with_it(self) -> None:
        report = a_report().suppress(Suppressions.parse(f"addr:{BASE + 0x100:#x}"))
        assert report.leaks["address"].tolist() == [BASE + 0x200, BASE + 0x300]
        s = report.summary
        assert (s.leaked_objects, s.direct_objects, s.indirect_objects) == (2, 2, 0)
        assert (s.suppressed_objects, s.suppressed_bytes) == (3, 32 + 48 + 96)
        assert s.objects == s.reachable_objects + s.leaked_objects + s.suppressed_objects
        assert [(g.count, g.retained_count) for g in report.groups] == [(2, 0)]

    def test_what_holds_a_known_leak_is_still_told(self) -> None:
        report = a_report().suppress(Suppressions.parse("size:48"))
        assert len(report.leaks) == 3
        assert report.groups[0].retained_count == 0

    def test_heads_and_groups_stay_what_they_were(self) -> None:
        report = a_report().suppress(Suppressions.parse(f"addr:{BASE + 0x200:#x}"))
        leaks = report.leaks
        assert leaks["address"][leaks["head"]].tolist() == [
            BASE + 0x100, BASE + 0x300, BASE + 0x100, BASE + 0x100
        ]  # fmt: skip
        for index, group in enumerate(report.groups):
            assert set(leaks["group"][group.rows].tolist()) == {index}
        assert report.groups[0].retained_count == 2

    def test_each_line_tells_what_it_did(self) -> None:
        report = a_report().suppress(Suppressions.parse("size:5\nsize:48\nsize:32-64", "known"))
        assert [(u.line, u.count, u.nbytes) for u in report.suppressions] == [
            (1, 0, 0), (2, 2, 144), (3, 3, 96)
        ]  # fmt: skip

    def test_the_text_tells_how_many_and_which_lines_did_nothing(self) -> None:
        text = a_report().suppress(Suppressions.parse("size:5\nsize:48", "known")).report(width=200)
        assert "3 directly (96 B); 2 suppressed (144 B)" in text
        assert "suppression 'size:5' (known, line 1) was not used" in text
        assert "line 2" not in text

    def test_without_others_there_are_no_leaks_but_these(self) -> None:
        report = a_report().suppress(Suppressions.parse("size:>0"))
        assert "no leaks but 5 suppressed (240 B): 6 objects" in report.report()
        assert report.groups == ()

    def test_the_json_follows_its_schema(self) -> None:
        document = a_report().suppress(Suppressions.parse("size:48\nleak:x")).to_dict()
        jsonschema.validate(json.loads(json.dumps(document)), schema())
        assert document["summary"]["suppressed_objects"] == 2
        assert [use["objects"] for use in document["suppressions"]] == [2, 0]
        assert len(document["leaks"]) == 3

    def test_suppressing_twice_adds_up(self, tmp_path: Path) -> None:
        known = tmp_path / "known"
        known.write_text("size:96\n")
        report = a_report().suppress(known).suppress(Suppressions.parse("size:48"))
        assert report.summary.suppressed_objects == 2
        assert len(report.suppressions) == 2

    @given(st.sets(st.integers(1, 5)))
    def test_what_is_left_is_a_report_of_its_own(self, rows: set[int]) -> None:
        lines = "\n".join(f"addr:{BASE + 0x100 * row:#x}" for row in rows)
        whole = a_report()
        report = whole.suppress(Suppressions.parse(lines))
        s = report.summary
        assert s.leaked_objects + s.suppressed_objects == len(whole.leaks)
        assert s.suppressed_objects == sum(use.count for use in report.suppressions)
        assert sum(g.count for g in report.groups) == len(report.leaks)
        assert sum(g.nbytes for g in report.groups) == report.leaks.nbytes
        assert report.leaks["direct"][report.leaks["head"]].all()


class TestPrinted:
    @given(
        st.lists(
            st.tuples(st.text(max_size=8), st.lists(st.text(min_size=1, max_size=8), max_size=3)),
            min_size=5,
            max_size=5,
        )
    )
    def test_the_printed_lines_suppress_all_that_was_left(
        self, rows: list[tuple[str, list[str]]]
    ) -> None:
        report = a_report(provenance=origins(*((kind, tuple(f)) for kind, f in rows)))
        report = regrouped(report)
        left = report.suppress(Suppressions.parse(report.report("suppressions", limit=0)))
        assert len(left.leaks) == 0

    def test_a_line_names_the_first_function_that_does_not_allocate(self) -> None:
        frames = ("kmalloc_trace+0x1/0x2", "make+0x1/0x2 [things]", "main+0x1/0x2")
        report = regrouped(a_report(provenance=origins(*[("kmalloc-32", frames)] * 5)))
        assert report.report("suppressions") == "# 5 objects, 240 B\nleak:^make$\n"

    def test_without_a_backtrace_it_is_the_type_or_the_size(self) -> None:
        report = regrouped(a_report(provenance=origins(*[("kmalloc-32", ())] * 2, *[("", ())] * 3)))
        lines = [line for line in report.report("suppressions").split("\n") if ":" in line]
        assert lines == ["type:kmalloc-32", "size:48", "size:96", "size:32"] or set(lines) == {
            "type:kmalloc-32", "size:48", "size:96", "size:32"
        }  # fmt: skip


def regrouped(report: Report) -> Report:
    from dataclasses import replace

    from kmemleak_core.leak_groups import group_leaks

    assert report.image is not None
    assert report.result is not None
    groups = group_leaks(report.leaks, report.image, report.result.objects, report.provenance)
    return replace(report, groups=groups)


@pytest.fixture(scope="module")
def core(shared_data: Path) -> Path:
    file = shared_data / "usercore" / "core.zst"
    if not file.is_file():
        pytest.skip(f"no core at {file}")
    return file


class TestRealCore:
    def test_sizes_are_suppressed_and_the_figures_still_add_up(self, core: Path) -> None:
        whole = scan(core)
        report = whole.suppress(Suppressions.parse("size:<1K"))
        assert 0 < len(report.leaks) < len(whole.leaks)
        s = report.summary
        assert s.leaked_bytes + s.suppressed_bytes == whole.summary.leaked_bytes
        assert set(report.leaks["address"].tolist()) < set(whole.leaks["address"].tolist())
        assert report.suppressions[0].count == s.suppressed_objects

    def test_without_lists_of_references_it_comes_to_the_same(self, core: Path) -> None:
        known = Suppressions.parse("size:100-200")
        first, second = scan(core).suppress(known), scan(core, low_memory=True).suppress(known)
        assert first.summary == second.summary
        assert first.report("list") == second.report("list")

    def test_the_exit_code_is_0_if_all_is_known(
        self, core: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["scan", str(core), "-q"]) == 1
        assert main(["scan", str(core), "--print-suppressions"]) == 1
        known = tmp_path / "known"
        known.write_text(capsys.readouterr().out)
        empty = tmp_path / "none"
        empty.write_text("# nothing\nleak:unheard_of\n")
        two = ["--suppressions", str(empty), "--suppressions", str(known)]
        assert main(["scan", str(core), *two]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "no leaks but 492 suppressed" in out
        assert "suppression 'unheard_of'" in out

    def test_a_file_that_is_no_suppressions_is_wrong_usage(
        self, core: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "bad").write_bytes(b"leak:\xff\0\nnonsense\n")
        assert main(["scan", str(core), "--suppressions", str(tmp_path / "bad")]) == 2
        assert "line 2 is no suppression" in capsys.readouterr().err
        assert main(["scan", str(core), "--suppressions", str(tmp_path / "none")]) == 2
