"""The kmemleak command: exit codes, what it prints where, and what it refuses."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmemleak_core import DumpError, __version__, pipeline
from kmemleak_core.cli import main
from kmemleak_core.process_roots import ROOT_KINDS
from kmemleak_core.report import renderer_names

BASE = 0x10000


class Memory:
    """Plain memory with objects at BASE, +0x100, +0x200: the root holds what `held` tells."""

    def __init__(self, folder: Path, held: str = "start") -> None:
        memory = bytearray(0x300)
        memory[0x200:0x208] = (BASE + 0x100).to_bytes(8, "little")
        memory[0x110:0x11D] = b"top secret \x1b["
        (folder / "memory.bin").write_bytes(memory)
        (folder / "objects.csv").write_text("address,size\n0x10000,32\n0x10200,64\n0x10100,96\n")
        root = {"start": "0x10000", "interior": "0x10008", "end": "0x10020"}[held]
        (folder / "roots.csv").write_text(f"kind,value\nregisters,{root}\nspare,0x10200\n")
        self.folder = folder
        self.arguments = [
            "--memory",
            f"0x10000:{folder / 'memory.bin'}",
            "--objects",
            str(folder / "objects.csv"),
            "--roots",
            str(folder / "roots.csv"),
        ]

    def scan(self, *more: str) -> int:
        return main(["scan", *self.arguments, *more])


@pytest.fixture
def clean(tmp_path: Path) -> Memory:
    """Everything is held."""
    return Memory(tmp_path)


@pytest.fixture
def leaky(tmp_path: Path) -> Memory:
    """The object at +0x200 leaks, and with it the one at +0x100, which only it holds."""
    memory = Memory(tmp_path)
    memory.arguments += ["--no-roots", "spare"]
    return memory


class TestFormats:
    def test_the_help_names_every_format_those_of_other_packages_too(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Entry:
            name = "from-elsewhere"

        monkeypatch.setattr(
            "importlib.metadata.entry_points",
            lambda group: [Entry()] if group == "kmemleak_core.reports" else [],
        )
        assert main(["scan", "--help"]) == 0
        _, _, shown = capsys.readouterr().out.partition("how it is shown:")
        text, _, _ = shown.partition("--list")
        assert all(re.search(rf"\b{name}\b", text) for name in renderer_names())
        assert "from-elsewhere" in renderer_names()


class TestExitCodes:
    def test_0_without_leaks(self, clean: Memory) -> None:
        assert clean.scan() == 0

    def test_1_with_leaks(self, leaky: Memory) -> None:
        assert leaky.scan() == 1

    def test_leaks_below_the_minimum_size_do_not_count(self, leaky: Memory) -> None:
        assert leaky.scan("--min-size", "97") == 0
        assert leaky.scan("--min-size", "96") == 1

    def test_a_limit_does_not_hide_leaks_from_the_exit_code(self, leaky: Memory) -> None:
        assert leaky.scan("--limit", "1") == 1

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["frobnicate"],
            ["scan"],
            ["scan", "--lim", "3", "core"],
            ["scan", "--memory", "0x10:memory"],
            ["scan", "--objects", "objects.csv"],
            ["scan", "core", "--memory", "0x10:memory"],
            ["scan", "core", "--word-size", "4"],
            ["scan", "core", "--word-size", "3"],
            ["scan", "core", "--alignment", "3"],
            ["scan", "core", "--pointer-mask", "0"],
            ["scan", "core", "--pointer-mask", "xyz"],
            ["scan", "core", "--min-size", "1X"],
            ["scan", "core", "--limit", "-1"],
            ["scan", "core", "--no-roots", ","],
            ["scan", "core", "--end-pointers", "maybe"],
            ["scan", "core", "--format", "xml"],
            ["scan", "core", "--list", "--json"],
            ["dump"],
            ["dump", "0", "-o", "core"],
            ["dump", "1"],
        ],
    )
    def test_2_for_wrong_usage(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "kmemleak" in captured.err
        assert "Traceback" not in captured.err

    def test_2_for_an_unknown_class_of_roots_which_names_the_known(
        self, leaky: Memory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert leaky.scan("--no-roots", "stacks") == 2
        assert "registers, spare" in capsys.readouterr().err

    def test_3_for_a_file_that_is_no_dump(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "core").write_bytes(bytes(100))
        assert main(["scan", str(tmp_path / "core")]) == 3
        assert "Traceback" not in capsys.readouterr().err

    def test_3_for_a_broken_table(self, leaky: Memory, capsys: pytest.CaptureFixture[str]) -> None:
        (leaky.folder / "objects.csv").write_text("address,size\nhello,world\n")
        assert leaky.scan() == 3
        assert "objects.csv" in capsys.readouterr().err

    def test_130_when_interrupted(
        self, leaky: Memory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(pipeline, "analyse", raising(KeyboardInterrupt()))
        assert leaky.scan() == 130
        assert capsys.readouterr().err == "kmemleak: interrupted\n"

    def test_a_bug_does_not_look_like_leaks(
        self, leaky: Memory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(pipeline, "analyse", raising(RuntimeError("oops")))
        assert leaky.scan() == 70
        assert "this is a bug in kmemleak" in capsys.readouterr().err

    def test_a_message_from_a_dump_is_escaped(
        self, leaky: Memory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        error = DumpError("no\x1b[2J", path="co\x1bre", hint="an\x1bother")
        monkeypatch.setattr(pipeline, "analyse", raising(error))
        assert leaky.scan() == 3
        assert capsys.readouterr().err == ("kmemleak: co\\x1bre: no\\x1b[2J\n  try: an\\x1bother\n")


def raising(error: BaseException) -> Any:
    def analyse(*_: object) -> None:
        raise error

    return analyse


class TestScan:
    def test_the_report_is_text_by_default(
        self, leaky: Memory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        leaky.scan()
        assert "2 objects (160 B) leaked of 3 (192 B) scanned" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("option", "begin"),
        [
            (["--list"], "# address size"),
            (["--json"], '{\n "schema": "kmemleak-report"'),
            (["--format", "kmemleak"], "unreferenced object 0x"),
            (["--format", "list"], "# address size"),
        ],
    )
    def test_other_formats_can_be_asked_for(
        self,
        leaky: Memory,
        option: list[str],
        begin: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        leaky.scan(*option)
        assert capsys.readouterr().out.startswith(begin)

    def addresses(self, capsys: pytest.CaptureFixture[str]) -> list[str]:
        lines = capsys.readouterr().out.splitlines()
        return [line.split()[0][-5:] for line in lines if line[0] != "#"]

    @pytest.mark.parametrize(
        ("order", "addresses"),
        [
            ("allocation", ["10200", "10100"]),
            ("address", ["10100", "10200"]),
            ("size", ["10100", "10200"]),
        ],
    )
    def test_leaks_come_in_the_order_asked_for(
        self,
        leaky: Memory,
        order: str,
        addresses: list[str],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        leaky.scan("--list", "--order", order)
        assert self.addresses(capsys) == addresses

    def test_small_leaks_can_be_left_out(
        self, leaky: Memory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        leaky.scan("--list", "--min-size", "80")
        assert self.addresses(capsys) == ["10100"]

    def test_the_limit_holds(self, leaky: Memory, capsys: pytest.CaptureFixture[str]) -> None:
        leaky.scan("--list", "--limit", "1")
        assert self.addresses(capsys) == ["10200"]

    def test_interior_pointers_hold_unless_only_starts_do(self, tmp_path: Path) -> None:
        memory = Memory(tmp_path, held="interior")
        assert memory.scan() == 0
        assert memory.scan("--starts-only") == 1

    def test_end_pointers_hold_when_asked_for(self, tmp_path: Path) -> None:
        memory = Memory(tmp_path, held="end")
        assert memory.scan() == 1
        assert memory.scan("--end-pointers", "yes") == 0
        assert memory.scan("--end-pointers", "no") == 1

    def test_the_pointer_mask_is_applied(self, clean: Memory) -> None:
        # Without its 17th bit no word is the address of an object any more.
        assert clean.scan("--pointer-mask", "0xffff") == 1

    def test_redaction_reaches_the_renderer(
        self, leaky: Memory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        leaky.scan("--hex", "64")
        assert "top secret" in capsys.readouterr().out
        leaky.scan("--hex", "64", "--redact")
        assert "top secret" not in capsys.readouterr().out

    def test_quiet_prints_nothing(self, leaky: Memory, capsys: pytest.CaptureFixture[str]) -> None:
        assert leaky.scan("--quiet") == 1
        assert capsys.readouterr() == ("", "")

    def test_a_core_is_scanned_end_to_end(
        self, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        core = shared_data / "usercore" / "core.zst"
        if not core.is_file():
            pytest.skip(f"no core with known answers at {core}")
        assert main(["scan", "--json", "--redact", str(core)]) == 1
        document = json.loads(capsys.readouterr().out)
        assert document["source"]["process"]["name"] == "leakgen"
        assert document["summary"]["leaked_objects"] == len(document["leaks"]) > 0
        assert "arguments" not in document["source"]["process"]


class TestProgress:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def test_none_where_standard_error_is_no_terminal(
        self, leaky: Memory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        leaky.scan()
        assert capsys.readouterr().err == ""

    def test_a_terminal_is_told_and_left_clean(
        self, leaky: Memory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        terminal = self.Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        leaky.scan()
        assert "scan …" in terminal.getvalue()
        assert terminal.getvalue().endswith("\r\x1b[2K")

    def test_quiet_tells_no_terminal(self, leaky: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = self.Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        leaky.scan("-q")
        assert terminal.getvalue() == ""


class TestOutputFile:
    def test_the_report_goes_there(self, leaky: Memory, capsys: pytest.CaptureFixture[str]) -> None:
        out = leaky.folder / "report.txt"
        assert leaky.scan("-o", str(out)) == 1
        assert "2 objects (160 B) leaked" in out.read_text(encoding="utf-8")
        assert capsys.readouterr().out == ""

    def test_quiet_still_writes_it(self, leaky: Memory) -> None:
        out = leaky.folder / "report.txt"
        leaky.scan("-q", "-o", str(out))
        assert out.read_text(encoding="utf-8")

    def test_a_file_that_is_there_stays(
        self, leaky: Memory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = leaky.folder / "report.txt"
        out.write_text("mine")
        assert leaky.scan("-o", str(out)) == 2
        assert out.read_text() == "mine"
        assert "--force" in capsys.readouterr().err

    def test_it_is_refused_before_the_scan(
        self, leaky: Memory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pipeline, "analyse", raising(AssertionError("scanned")))
        assert leaky.scan("-o", str(leaky.folder / "memory.bin")) == 2

    def test_a_link_to_nowhere_is_there_too(self, leaky: Memory) -> None:
        out = leaky.folder / "link"
        out.symlink_to(leaky.folder / "elsewhere")
        assert leaky.scan("-o", str(out)) == 2
        assert not (leaky.folder / "elsewhere").exists()

    def test_force_replaces_it(self, leaky: Memory) -> None:
        out = leaky.folder / "report.txt"
        out.write_text("mine")
        assert leaky.scan("-o", str(out), "--force") == 1
        assert "leaked" in out.read_text(encoding="utf-8")

    def test_a_missing_folder_is_wrong_usage(self, leaky: Memory) -> None:
        assert leaky.scan("-o", str(leaky.folder / "nowhere" / "report.txt")) == 2

    def test_a_failed_scan_leaves_no_file(self, leaky: Memory) -> None:
        out = leaky.folder / "report.txt"
        (leaky.folder / "objects.csv").write_text("nonsense")
        assert leaky.scan("-o", str(out)) == 3
        assert not out.exists()


class TestHelp:
    @pytest.mark.parametrize("arguments", [["--help"], ["scan", "--help"], ["dump", "--help"]])
    def test_it_has_examples_and_exit_codes(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(arguments) == 0
        text = capsys.readouterr().out
        assert "examples:" in text
        assert "exit codes:" in text

    def test_it_names_every_class_of_roots(self, capsys: pytest.CaptureFixture[str]) -> None:
        main(["scan", "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert ", ".join(ROOT_KINDS) in text

    def test_the_version_is_the_package_s(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == 0
        assert capsys.readouterr().out == f"kmemleak {__version__}\n"

    def test_it_loads_nothing_heavy(self) -> None:
        code = (
            "import sys; from kmemleak_core.cli import main; main(['scan', '--help'])\n"
            "print([m for m in ('scipy', 'rich', 'elftools', 'pandas', 'zstandard', 'lz4')"
            " if m in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "[]"


class TestAsAProcess:
    def test_a_reader_that_goes_away_is_no_error(self, leaky: Memory) -> None:
        read, write = os.pipe()
        os.close(read)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "kmemleak_core", "scan", *leaky.arguments],
                stdout=write,
                stderr=subprocess.PIPE,
                check=False,
            )
        finally:
            os.close(write)
        assert done.returncode == 141
        assert done.stderr == b""

    def test_an_encoding_without_the_characters_is_no_error(self, leaky: Memory) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "kmemleak_core", "scan", *leaky.arguments],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            check=False,
        )
        assert done.returncode == 1
        assert b"2 objects (160 B) leaked" in done.stdout


class TestDump:
    @pytest.fixture
    def sleeper(self) -> Iterator[subprocess.Popen[bytes]]:
        pipe = subprocess.PIPE
        with subprocess.Popen(["cat"], stdin=pipe, stdout=pipe) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(b"up\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"up\n"  # loaded, with a heap
            yield process
            process.kill()

    def test_a_running_process_becomes_a_core_that_scans(
        self,
        sleeper: subprocess.Popen[bytes],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        core = tmp_path / "core"
        code = main(["dump", str(sleeper.pid), "-o", str(core)])
        if code == 3 and "no permission" in capsys.readouterr().err:
            pytest.skip("this machine does not let a process be traced")
        assert code == 0
        assert core.read_bytes()[:4] == b"\x7fELF"
        assert sleeper.poll() is None
        assert main(["scan", "-q", str(core)]) in (0, 1)

    def test_a_file_that_is_there_stays(self, tmp_path: Path) -> None:
        core = tmp_path / "core"
        core.write_text("mine")
        assert main(["dump", str(os.getpid()), "-o", str(core)]) == 2
        assert core.read_text() == "mine"

    def test_a_process_that_is_not_there_is_an_error(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["dump", "4194305", "-o", str(tmp_path / "core")]) == 3
        assert "no process 4194305" in capsys.readouterr().err
