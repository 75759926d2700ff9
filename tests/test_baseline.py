"""Only what is new counts: baselines, and gates for so much of it."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmemleak_core import Report, UsageError, scan
from kmemleak_core.baseline import Baseline, Figures, Signature, signature
from kmemleak_core.cli import main
from kmemleak_core.gate import Gate
from kmemleak_core.report import RenderOptions
from kmemleak_core.report.json import schema
from kmemleak_core.suppressions import Suppressions

from .test_report_filters import told
from .test_report_formats import BASE, a_report
from .test_suppressions import core, origins, regrouped

__all__ = ["core"]  # a fixture


def text_of(baseline: Baseline) -> str:
    out = io.StringIO()
    baseline.write(out)
    return out.getvalue()


def without(report: Report, row: int) -> Baseline:
    """Return the baseline of the report as it was before one of its leaks."""
    return report.suppress(Suppressions.parse(f"addr:{BASE + 0x100 * row:#x}")).baseline()


class TestSignature:
    def test_a_backtrace_is_known_without_offsets(self) -> None:
        def of(*frames: str) -> Signature:
            report = regrouped(a_report(provenance=origins(*[("k", frames)] * 5)))
            return signature(report.groups[0])

        assert of("f+0x1/0x2 [m]", "g.cold+0x1/0x2") == of("f+0x9/0x20 [m]", "g+0x1/0x2")
        assert of("f+0x1/0x2 [m]") != of("f+0x1/0x2")
        assert of("0xffffffffc0000010", "g") == of("0xffffffffc0008020", "g") != of("f", "g")

    def test_without_one_by_size_and_pointers(self) -> None:
        group = a_report().groups[0]
        assert signature(group) == Signature("", (), 32, signature(group).shape)
        shapes = ["obj·int·0", "obj·text×2 …", "obj"]
        assert {signature(replace(group, shape=shape)).shape for shape in shapes} == {"obj"}
        assert signature(replace(group, shape="0×2·ptr")).shape == "-·-·ptr"


class TestFile:
    def test_what_is_written_is_read_again(self, tmp_path: Path) -> None:
        file = tmp_path / "known.json"
        file.write_text(text_of(told().baseline()))
        assert Baseline.load(file).groups == told().baseline().groups
        assert len(Baseline.load(file).groups) == 4

    def test_it_does_not_depend_on_how_the_report_was_grouped(self) -> None:
        assert text_of(told().regroup("size").baseline()) == text_of(told().baseline())

    def test_an_empty_one_is_one(self, tmp_path: Path) -> None:
        file = tmp_path / "known.json"
        file.write_text(text_of(Baseline()))
        assert Baseline.load(file).groups == {}

    @given(
        st.dictionaries(
            st.builds(
                Signature,
                st.text(),
                st.lists(st.text()).map(tuple),
                st.integers(-1, (1 << 64) - 1),
                st.text(),
            ),
            st.builds(Figures, *[st.integers(0, (1 << 64) - 1)] * 4),
        )
    )
    def test_any_groups_survive_it(self, groups: Any) -> None:
        with a_file() as file:
            file.write_text(text_of(Baseline(groups)))
            assert Baseline.load(file).groups == groups

    @given(st.binary(max_size=80), st.integers(0, 2000), st.booleans())
    def test_a_damaged_one_is_read_or_refused(self, junk: bytes, at: int, cut: bool) -> None:
        whole = text_of(told().baseline()).encode()
        with a_file() as file:
            file.write_bytes(whole[:at] + junk + (b"" if cut else whole[at + len(junk) :]))
            with contextlib.suppress(UsageError):
                Baseline.load(file)

    VALUES = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda some: st.lists(some, max_size=3),
    )

    @given(st.sampled_from(["kind", "frames", "size", "shape", "objects", "direct_bytes"]), VALUES)
    def test_any_value_in_it_is_taken_or_refused(self, name: str, value: Any) -> None:
        document = json.loads(text_of(told().baseline()))
        document["groups"][1][name] = value
        with a_file() as file:
            file.write_text(json.dumps(document))
            with contextlib.suppress(UsageError):
                told().against(file).to_dict()

    @pytest.mark.parametrize(
        "text",
        ["", "[]", "{}", "[" * 100_000, '{"schema": "kmemleak-baseline", "version": 2}',
         '{"schema": "kmemleak-baseline", "version": 1, "groups": [3]}', "1" * 5000],
    )  # fmt: skip
    def test_what_is_none_is_refused_with_its_name(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "known.json").write_text(text)
        with pytest.raises(UsageError, match=r"known\.json: this is no baseline"):
            Baseline.load(tmp_path / "known.json")

    def test_one_that_is_not_there_or_no_text_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="cannot be read"):
            Baseline.load(tmp_path / "none")
        (tmp_path / "bytes").write_bytes(b"\xff\xfe")
        with pytest.raises(UsageError, match="it is no text"):
            Baseline.load(tmp_path / "bytes")


@contextlib.contextmanager
def a_file() -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "known.json"


class TestComparison:
    def test_nothing_is_new_beside_itself(self) -> None:
        report = told().against(told().baseline())
        document = report.to_dict()
        assert (document["leaks"], document["groups"]) == ([], [])
        assert document["baseline"]["known_objects"] == 5
        assert report.counted().objects == 0
        assert "nothing new, 5 known (240 B)" in report.report(width=200)
        assert report.report("list").splitlines()[1:] == ["# 5 known"]

    def test_a_notebook_shows_new_groups_only(self) -> None:
        assert told().against(without(told(), 3))._repr_html_().count("<tr>") == 2

    def test_everything_is_new_beside_nothing(self) -> None:
        report = told().against(Baseline())
        assert len(report.to_dict()["leaks"]) == 5
        assert report.counted().objects == 5
        assert report.counted() == told().counted()

    def test_a_new_group_is_shown_alone(self) -> None:
        report = told().against(without(told(), 3))
        assert [leak["address"] for leak in report.to_dict()["leaks"]] == ["0x10300"]
        assert "1 new (32 B), 4 known (208 B)" in report.report(width=200)
        assert "(were" not in report.report()

    def test_a_group_that_has_grown_is_shown_with_what_it_was(self) -> None:
        report = told().against(without(told(), 2))
        document = report.to_dict()
        jsonschema.validate(json.loads(json.dumps(document)), schema())
        (group,) = document["groups"]
        assert (group["objects"], group["earlier_objects"], group["earlier_bytes"]) == (2, 1, 32)
        assert (document["baseline"]["new_objects"], document["baseline"]["new_bytes"]) == (1, 32)
        assert "2 objects of 32 bytes, 64 B (were 1)" in report.report()

    def test_groups_that_are_gone_are_counted(self) -> None:
        report = told().suppress(Suppressions.parse("addr:0x10300")).against(told().baseline())
        assert report.to_dict()["baseline"]["gone_groups"] == 1
        assert "1 group gone" in report.report()
        assert report.counted().objects == 0

    def test_filters_and_other_groups_go_with_it(self) -> None:
        report = told().against(without(told(), 3)).regroup("size")
        assert [g["objects"] for g in report.to_dict()["groups"]] == [1]
        document = report.to_dict(types=("kmalloc-*",))
        assert document["leaks"] == []
        assert document["hidden"] == {"objects": 1, "bytes": 32}

    def test_suppressing_later_goes_as_well(self) -> None:
        report = told().against(without(told(), 3)).suppress(Suppressions.parse("leak:read"))
        assert report.to_dict()["leaks"] == []

    @given(st.sets(st.integers(1, 5)))
    def test_growth_is_what_the_earlier_report_lacks(self, rows: set[int]) -> None:
        lines = "\n".join(f"addr:{BASE + 0x100 * row:#x}" for row in rows)
        earlier = told().suppress(Suppressions.parse(lines))
        new = told().against(earlier.baseline()).counted()
        assert new.objects == earlier.summary.suppressed_objects
        assert new.nbytes == earlier.summary.suppressed_bytes


class TestGate:
    @pytest.mark.parametrize(
        ("text", "gate"),
        [
            ("any", Gate("any", 1, False)),
            ("direct:100", Gate("direct", 100, False)),
            ("indirect:1MB", Gate("indirect", 1 << 20, True)),
            ("any:64B", Gate("any", 64, True)),
            ("any:0x40", Gate("any", 64, True)),
        ],
    )
    def test_it_is_of_objects_or_with_a_unit_of_bytes(self, text: str, gate: Gate) -> None:
        assert Gate.parse(text) == gate
        assert Gate.parse(str(gate)) == gate

    @given(st.text() | st.text().map("any:{}".format))
    def test_any_text_is_one_or_a_value_error(self, text: str) -> None:
        with contextlib.suppress(ValueError):
            assert Gate.parse(text).least > 0

    @pytest.mark.parametrize("text", ["", "some", "any:", "any:0", "any:x", "direct:-1", "any:1:2"])
    def test_others_are_none(self, text: str) -> None:
        with pytest.raises(ValueError, match="is no"):
            Gate.parse(text)

    @pytest.mark.parametrize(
        ("text", "fails"),
        [("any:5", True), ("any:6", False), ("direct:3", True), ("direct:4", False),
         ("indirect:144B", True), ("indirect:145B", False), ("any:240B", True)],
    )  # fmt: skip
    def test_it_fails_from_so_much_on(self, text: str, fails: bool) -> None:
        assert a_report().counted().fails(Gate.parse(text)) == fails

    def test_what_is_filtered_out_does_not_count(self) -> None:
        amounts = a_report().counted(RenderOptions(min_size=40))
        assert (amounts.objects, amounts.direct_objects, amounts.nbytes) == (2, 0, 144)


class TestCommand:
    def test_a_run_after_the_baseline_is_clean(
        self, core: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        known = tmp_path / "known.json"
        assert main(["scan", str(core), "-q", "--write-baseline", str(known)]) == 1
        assert main(["scan", str(core), "--baseline", str(known)]) == 0
        assert "nothing new, 492 known" in " ".join(capsys.readouterr().out.split())
        assert main(["scan", str(core), "-q", "--write-baseline", str(known)]) == 2
        both = ["--baseline", str(known), "--write-baseline", str(known), "--force"]
        assert main(["scan", str(core), "-q", *both]) == 0

    def test_a_group_less_in_it_fails_the_run(
        self, core: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        known = tmp_path / "known.json"
        known.write_text(text_of(scan(core).baseline()))
        document = json.loads(known.read_text())
        lost = document["groups"].pop()
        known.write_text(json.dumps(document))
        assert main(["scan", str(core), "--json", "--baseline", str(known)]) == 1
        report = json.loads(capsys.readouterr().out)
        jsonschema.validate(report, schema())
        assert report["baseline"]["new_objects"] == len(report["leaks"]) == lost["objects"]

    @pytest.mark.parametrize(
        ("gates", "code"),
        [(["any:492"], 1), (["any:493"], 0), (["any:493", "direct"], 1), (["none"], 0),
         (["any:1G"], 0), (["nonsense"], 2)],
    )  # fmt: skip
    def test_a_gate_lets_so_much_through(
        self, core: Path, gates: list[str], code: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        how = [word for gate in gates for word in ("--fail-on", gate)]
        assert main(["scan", str(core), "--list", *how]) == code
        assert ("--fail-on" in capsys.readouterr().err) == (code != 0)

    def test_a_baseline_that_is_none_is_wrong_usage(
        self, core: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "bad").write_text("{}")
        assert main(["scan", str(core), "--baseline", str(tmp_path / "bad")]) == 2
        assert "this is no baseline" in capsys.readouterr().err
