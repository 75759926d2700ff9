"""kmemleak parse: what it prints, and what its exit code says."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kmemleak_core.cli import main
from kmemleak_core.kernel_record import KernelFrame, KernelRecord
from kmemleak_core.report.kernel_json import SCHEMA_VERSION, kernel_schema
from kmemleak_core.report.kernel_layouts import format_record


def leak(address: int, function: str, size: int = 8, comm: str = "prog") -> KernelRecord:
    return KernelRecord(
        address,
        size,
        comm=comm,
        pid=12,
        jiffies=address,
        hex_bytes=b"secret \x1b[31m"[: min(32, size)],
        frames=(
            KernelFrame("1", "kmalloc_trace+0x11/0x20"),
            KernelFrame("2", f"{function}+0x1/0x20 [things]"),
            KernelFrame("3", "do_syscall_64+0x2b/0x50"),
        ),
    )


def write(file: Path, *records: KernelRecord, layout: str = "6.1") -> str:
    text = "".join(f"{line}\n" for r in records for line in format_record(r, layout))
    file.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    return str(file)


@pytest.fixture
def report(tmp_path: Path) -> str:
    return write(
        tmp_path / "report.txt",
        leak(0x1000, "big", 4096),
        leak(0x2000, "small"),
        leak(0x3000, "small", comm="\x1b]0;x\x07\n[red]\u202e"),
    )


class TestExitCodes:
    def test_1_with_leaks(self, report: str) -> None:
        assert main(["parse", report]) == 1

    def test_0_without(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["parse", write(tmp_path / "empty")]) == 0
        assert "no leaks in 0 lines" in capsys.readouterr().out

    def test_0_if_all_are_suppressed(self, report: str, tmp_path: Path) -> None:
        known = tmp_path / "known.txt"
        known.write_text("leak:^things$\n")
        assert main(["parse", report, "--suppressions", str(known)]) == 0

    def test_with_an_older_report_only_new_ones_count(self, report: str, tmp_path: Path) -> None:
        old = write(tmp_path / "old", leak(0x1000, "big", 4096))
        assert main(["parse", report, "--diff", report]) == 0
        assert main(["parse", old, "--diff", report]) == 0
        assert main(["parse", report, "--diff", old]) == 1

    @pytest.mark.parametrize(
        "more",
        [
            [],
            ["--limit", "x"],
            ["--json", "--list"],
            ["--suppressions", "none"],
            ["-", "--diff", "-"],
        ],
    )
    def test_2_for_wrong_usage(self, report: str, more: list[str]) -> None:
        assert main(["parse", *(more if not more or more[0] == "-" else [report, *more])]) == 2

    def test_3_for_what_cannot_be_read(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["parse", str(tmp_path / "none")]) == 3
        (tmp_path / "core").write_bytes(b"\x7fELF\0\0\0\0")
        assert main(["parse", str(tmp_path / "core")]) == 3
        assert "no report of leaks" in capsys.readouterr().err

    def test_a_damaged_report_is_no_error(
        self, report: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = Path(report)
        file.write_text(file.read_text().replace('comm "prog", pid', "comm \x1bbroken", 1))
        assert main(["parse", report]) == 1
        out = capsys.readouterr().out
        assert "1 object has lost a part (line 1)" in out
        assert r'line 2 (does not go on with the object before it): "  comm \x1bbroken' in out


class TestText:
    def test_it_tells_each_place_once_the_largest_first(
        self, report: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        main(["parse", report])
        out = capsys.readouterr().out
        assert "3 objects (4.1 kB) leaked, allocated at 2 places" in out
        assert out.count("small+0x1/0x20 [things]") == 1
        assert out.index("big+0x1/0x20") < out.index("small+0x1/0x20")
        assert "2 objects of 8 bytes, 16 B" in out
        assert "through kmalloc_trace+0x11/0x20" in out
        assert 'oldest 0x2000, comm "prog", pid 12, jiffies 8192' in out

    def test_no_control_character_reaches_the_terminal(
        self, report: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for how in ([], ["--list"], ["--json"]):
            main(["parse", report, "--limit", "0", *how])
            out = capsys.readouterr().out
            assert "\x1b" not in out
            assert "\u202e" not in out
            assert "[red]" in out

    def test_the_limit_tells_what_it_leaves_out(
        self, report: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["parse", report, "--limit", "1"]) == 1
        assert "and 1 more place: 2 objects, 16 B (--limit 0 shows all)" in capsys.readouterr().out

    def test_redacted_it_shows_no_content(
        self, report: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        main(["parse", report])
        assert "73 65 63 72 65 74" in capsys.readouterr().out
        main(["parse", report, "--redact"])
        assert "73 65 63 72 65 74" not in capsys.readouterr().out

    def test_suppressions_that_do_nothing_are_told(
        self, report: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        known = tmp_path / "known.txt"
        known.write_text("# two\nleak:small\nleak:unheard_of\n")
        assert main(["parse", report, "--suppressions", str(known)]) == 1
        out = capsys.readouterr().out
        assert "2 leaks (16 B) suppressed" in out
        assert "suppression 'unheard_of' in line 3 was not used" in out

    def test_several_files_of_suppressions_are_told_apart(
        self, report: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first, second = tmp_path / "first", tmp_path / "second"
        first.write_text("size:8\n")
        second.write_text("module:other\naddr:0x1000\n")
        both = ["--suppressions", str(first), "--suppressions", str(second)]
        assert main(["parse", report, *both]) == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "3 leaks (4.1 kB) suppressed" in out
        assert "suppression 'module:other' in line 1 of" in out

    def test_a_frame_can_be_skipped(self, report: str, capsys: pytest.CaptureFixture[str]) -> None:
        main(["parse", report, "--skip-frame", "smal*"])
        assert "through kmalloc_trace+0x11/0x20, small+0x1/0x20 [things]" in capsys.readouterr().out

    def test_a_comparison_tells_new_and_gone(
        self, report: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        old = write(tmp_path / "old.txt", leak(0x2000, "small"), leak(0x9000, "lost", 64))
        main(["parse", report, "--diff", old])
        out = " ".join(capsys.readouterr().out.split())
        assert "2 new leaks (4.1 kB), 1 gone (64 B), 1 still there, compared with" in out
        assert "1 object of 8 bytes [more of a known one]" in out
        assert out.index("New leaks") < out.index("big+0x1") < out.index("Gone leaks")
        assert out.index("Gone leaks") < out.index("lost+0x1")


class TestList:
    def test_one_leak_a_line(self, report: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["parse", report, "--list"]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "# address size group pid jiffies caller comm"
        assert lines[1] == '0x1000 4096 0 12 4096 big+0x1/0x20[things] "prog"'
        assert len(lines) == 4

    def test_of_a_comparison_with_signs(
        self, report: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        old = write(tmp_path / "old.txt", leak(0x2000, "small"), leak(0x9000, "lost", 64))
        main(["parse", report, "--diff", old, "--list"])
        lines = capsys.readouterr().out.splitlines()[1:]
        assert [line.split()[:2] for line in lines] == [
            ["+", "0x1000"],
            ["+", "0x3000"],
            ["-", "0x9000"],
        ]


class TestJson:
    def document(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
        assert main(["parse", "--json", *arguments]) in (0, 1)
        text = capsys.readouterr().out
        document: dict[str, Any] = json.loads(text)
        jsonschema.validate(document, kernel_schema())
        assert document["version"] == SCHEMA_VERSION
        return document

    def test_it_follows_its_schema(
        self, report: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        old = write(tmp_path / "old.txt", leak(0x9000, "lost", 64), layout="3.2")
        known = tmp_path / "known.txt"
        known.write_text("leak:x\n")
        self.document(capsys, report)
        self.document(capsys, write(tmp_path / "empty"))
        both = self.document(
            capsys, report, "--diff", old, "--suppressions", str(known), "--redact", "--limit", "1"
        )
        assert both["diff"]["new_leaks"] == 3
        assert both["leaks_left_out"] == 2

    def test_it_holds_everything(self, report: str, capsys: pytest.CaptureFixture[str]) -> None:
        document = self.document(capsys, report)
        assert document["summary"]["leaks"] == 3
        assert document["groups"][0]["frames"][0] == "big+0x1/0x20 [things]"
        assert document["groups"][0]["skipped_frames"] == ["kmalloc_trace+0x11/0x20"]
        assert [entry["group"] for entry in document["leaks"]] == [0, 1, 1]
        assert document["leaks"][2]["comm"] == "\x1b]0;x\x07\n[red]\u202e"
        assert bytes.fromhex(document["leaks"][0]["content"]) == b"secret \x1b[31m"

    def test_lines_that_were_not_understood_are_in_it(
        self, report: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = Path(report)
        file.write_text("  backtrace:\nhello\n" + file.read_text())
        document = self.document(capsys, report)
        assert [line["line"] for line in document["malformed"]] == [1]
        assert document["summary"]["foreign_lines"] == 1
        assert {note["code"] for note in document["coverage"]} == {
            "log.malformed-line",
            "log.foreign-line",
        }

    @pytest.mark.parametrize("name", ["snap1", "snap2", "big"])
    def test_real_reports_follow_the_schema(
        self, shared_data: Path, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = shared_data / "vmcore" / name / "kernel_report.txt"
        if not file.is_file():
            pytest.skip(f"no kernel report at {file}")
        document = self.document(capsys, str(file))
        assert document["summary"]["leaks"] == {"snap1": 41, "snap2": 67, "big": 1271}[name]


class TestInputAndOutput:
    def test_standard_input_is_read(
        self, report: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stream = io.TextIOWrapper(io.BytesIO(Path(report).read_bytes()))
        monkeypatch.setattr(sys, "stdin", stream)
        assert main(["parse", "-"]) == 1
        assert capsys.readouterr().out.startswith("standard input\n")

    def test_through_a_pipe_as_well(self, report: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "kmemleak_core", "parse", "-", "--list"],
            input=Path(report).read_bytes(),
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (1, b"")
        assert done.stdout.count(b"\n") == 4

    def test_the_output_is_never_replaced_unasked(self, report: str, tmp_path: Path) -> None:
        out = tmp_path / "out.json"
        assert main(["parse", report, "--json", "-o", str(out)]) == 1
        assert json.loads(out.read_text())["summary"]["leaks"] == 3
        assert main(["parse", report, "-o", str(out)]) == 2
        assert main(["parse", report, "-o", str(out), "--force"]) == 1

    def test_quiet_says_nothing(self, report: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["parse", report, "-q"]) == 1
        assert capsys.readouterr().out == ""

    def test_bytes_that_are_no_text_do_no_harm(
        self, report: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = Path(report)
        file.write_bytes(file.read_bytes().replace(b"prog", b"\xff\xfe"))
        for how in ([], ["--list"], ["--json"]):
            assert main(["parse", report, *how]) == 1
        assert "udcff" in capsys.readouterr().out
