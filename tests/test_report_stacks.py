"""Stacks of a report: frames of backtraces, folded stacks, speedscope's file format."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmemleak_core import RawSource, Report, scan
from kmemleak_core.cli import main
from kmemleak_core.report.frames import Frame, parse_frame

from .real.glibcs import cache_folder
from .test_report_formats import a_report
from .test_suppressions import origins, regrouped

MAKE = ("kmalloc_trace+0x1/0x2", "make+0x1/0x2 [things]", "main+0x1/0x2")
#: The same way, from another place of the same function.
AGAIN = ("kmalloc_trace+0x1/0x2", "make+0x9/0x2 [things]", "main+0x1/0x2")
HOSTILE = ("operator;()\n\x1b[31m", "main")

SPEEDSCOPE = "speedscope@1.25.0"


def told() -> Report:
    """Return a report of five leaks: two made in one way, one hostile, a kind, and nothing."""
    rows = [("kmalloc-32", MAKE), ("", AGAIN), ("", HOSTILE), ("kmalloc-64", ()), ("", ())]
    return regrouped(a_report(provenance=origins(*rows)))


def folded(report: Report, **options: Any) -> dict[str, int]:
    lines = report.report("folded", **options).splitlines()
    return {stack: int(weight) for stack, _, weight in (line.rpartition(" ") for line in lines)}


class TestFrames:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("make+0x1/0x20 [things]", ("make", "things", "", 0)),
            ("make.cold+0x1/0x20", ("make", "", "", 0)),
            ("main", ("main", "", "", 0)),
            ("std::vector<int, A>::push(int)", ("std::vector<int, A>::push(int)", "", "", 0)),
            ("0xffffffff81000000", ("", "", "", 0)),
            ("./prog:[0x401156]", ("", "./prog", "", 0)),
            ("/lib/libc.so.6:(puts+0x1a)[0x7f0000401156]", ("puts", "/lib/libc.so.6", "", 0)),
            ("./prog(main+0x1a) [0x401156]", ("main", "./prog", "", 0)),
            ("make (src/a.c:12)", ("make", "", "src/a.c", 12)),
            ("make at /src/a.c:12", ("make", "", "/src/a.c", 12)),
            ("a.c:12", ("", "", "a.c", 12)),
            ("a::b:12", ("a::b:12", "", "", 0)),
            ("make (a.c:0)", ("make (a.c:0)", "", "", 0)),
        ],
    )
    def test_parts_are_told_apart(self, text: str, expected: tuple[str, str, str, int]) -> None:
        frame = parse_frame(text)
        assert (frame.function, frame.module, frame.file, frame.line) == expected
        assert frame.text == text

    @given(st.text())
    def test_any_text_is_a_frame_that_can_be_shown(self, text: str) -> None:
        frame = parse_frame(text)
        assert isinstance(frame, Frame)
        assert frame.label.isprintable()

    def test_a_long_one_takes_no_longer_than_it_is(self) -> None:
        for part in ("(", "[0x", ":(", " at ", " ("):
            parse_frame(part * 200_000 + "]")
            parse_frame(part * 200_000 + ")")


class TestFolded:
    def test_a_line_a_stack_from_the_outermost_frame_to_the_innermost(self) -> None:
        found = folded(told())
        assert found["main;make [things];kmalloc_trace"] == 64

    def test_leaks_without_a_backtrace_stand_under_what_they_are(self) -> None:
        found = folded(told())
        assert found["[no backtrace];kmalloc-64"] == 48
        assert found["[no backtrace];96 bytes [0×8 …]"] == 96

    def test_all_leaked_bytes_are_there_or_all_objects(self) -> None:
        report = told()
        assert sum(folded(report).values()) == report.summary.leaked_bytes
        objects = folded(report, weight="objects")
        assert sum(objects.values()) == report.summary.leaked_objects
        assert objects["main;make [things];kmalloc_trace"] == 2

    def test_filters_leave_stacks_out(self) -> None:
        assert list(folded(told(), modules=("things",))) == ["main;make [things];kmalloc_trace"]

    def test_a_limit_keeps_the_heaviest_and_the_sum(self) -> None:
        found = folded(told(), limit=1)
        assert found == {"[no backtrace];96 bytes [0×8 …]": 96, "[more stacks]": 144}
        objects = folded(told(), limit=1, weight="objects")
        assert objects == {"main;make [things];kmalloc_trace": 2, "[more stacks]": 3}

    def test_a_name_can_end_neither_its_frame_nor_its_line(self) -> None:
        assert folded(told())["main;operator:()\\x0a\\x1b[31m"] == 32

    def test_redacted_shapes_tell_nothing_of_data(self) -> None:
        report = a_report()
        assert any("text" in stack for stack in folded(report))
        assert not any("text" in stack for stack in folded(report, redact=True))

    def test_without_leaks_there_is_no_line(self) -> None:
        assert a_report(leaks=a_report().leaks[:0], groups=()).report("folded") == ""

    def test_other_groups_do_not_change_the_stacks(self) -> None:
        assert folded(told().regroup("trace")) == folded(told())

    def test_a_log_s_call_sites_are_the_stacks_of_its_leaks(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "memory").write_bytes(bytes(0x1000))
        log = tmp_path / "mtrace"
        log.write_text(
            "= Start\n@ ./prog:(make+0x12)[0x401156] + 0x1000 0x40\n"
            "@ ./prog:(make+0x19)[0x40115d] + 0x1100 0x40\n@ ./prog:[0x401170] + 0x1200 0x10\n"
            "@ ./prog:[0x401180] - 0x1200\n"
        )
        memory = f"0x1000:{tmp_path / 'memory'}"
        arguments = ["--memory", memory, "--events", str(log), "--format", "folded"]
        assert main(["scan", *arguments, "--weight", "objects"]) == 1
        assert capsys.readouterr().out == "make [./prog] 2\n"
        assert scan(RawSource((memory,), events=log)).report("folded") == "make [./prog] 128\n"


def profiles(report: Report, **options: Any) -> dict[str, dict[tuple[str, ...], int]]:
    """Return the stacks of each profile of the document, with their weights."""
    document = json.loads(report.report("speedscope", **options))
    names = [frame["name"] for frame in document["shared"]["frames"]]
    return {
        profile["unit"]: {
            tuple(names[i] for i in sample): weight
            for sample, weight in zip(profile["samples"], profile["weights"], strict=True)
        }
        for profile in document["profiles"]
    }


class TestSpeedscope:
    def test_bytes_and_objects_are_a_profile_each(self) -> None:
        found = profiles(told())
        way = ("main", "make [things]", "kmalloc_trace")
        assert found["bytes"][way] == 64
        assert found["none"][way] == 2
        assert sum(found["bytes"].values()) == 240
        assert sum(found["none"].values()) == 5

    def test_each_frame_is_told_once_with_its_place_in_the_source(self) -> None:
        report = a_report(provenance=origins(*[("", ("f (a.c:7)", "main"))] * 5))
        document = json.loads(report.report("speedscope"))
        assert document["shared"]["frames"] == [
            {"name": "main"},
            {"name": "f", "file": "a.c", "line": 7},
        ]

    def test_the_weight_chooses_the_profile_that_is_shown_first(self) -> None:
        shown = json.loads(told().report("speedscope", weight="objects"))
        assert shown["profiles"][shown["activeProfileIndex"]]["unit"] == "none"

    def test_it_is_as_speedscope_s_own_schema_tells(self) -> None:
        schema = json.loads(npm_file(SPEEDSCOPE, "dist/release/file-format-schema.json"))
        for report in (told(), a_report(), a_report(leaks=a_report().leaks[:0], groups=())):
            jsonschema.validate(json.loads(report.report("speedscope")), schema)
        broken = json.loads(told().report("speedscope"))
        del broken["profiles"][0]["weights"]
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)


def npm_file(package: str, name: str) -> bytes:
    """Return a file of an npm package, which is fetched into the cache; skips without npm."""
    npm = shutil.which("npm")
    folder = cache_folder() / "npm"
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{package.replace('@', '-')}.tgz"
    if not archive.exists():
        if npm is None:
            pytest.skip(f"needs npm, to fetch {package}")
        done = subprocess.run(
            [npm, "pack", "--silent", "--ignore-scripts", package],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "npm_config_update_notifier": "false"},
        )
        if done.returncode or not archive.exists():
            pytest.skip(f"npm cannot fetch {package}: {done.stderr[-300:]}")
    with tarfile.open(archive) as packed:
        member = packed.extractfile(f"package/{name}")
        assert member is not None
        return member.read()
