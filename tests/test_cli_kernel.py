"""kmemleak kernel: the ritual around a command, on a file that behaves as the kernel's does."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kmemleak_core import UsageError, kernel
from kmemleak_core.cli import main
from kmemleak_core.kernel import KernelFile, KernelFileError, check_kernel
from kmemleak_core.kernel_record import KernelFrame, KernelRecord
from kmemleak_core.report.kernel_json import kernel_schema
from kmemleak_core.report.kernel_layouts import format_record


class FakeKernel:
    """A kernel with kmemleak: objects leak, age as time goes by, and are reported by scans."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []
        self.leaks: dict[int, float] = {}  # address → time of its allocation
        self.seen: set[int] = set()  # in an earlier scan: its checksum is known
        self.reported: set[int] = set()
        self.gray: set[int] = set()
        self.found_again: set[int] = set()  # referenced again at the scan after they are reported
        self.commands: dict[bytes, int] = {}  # → errno
        self.opening: dict[str, int] = {}  # mode → errno
        self.piece = 1 << 20

    def leak(self, address: int) -> None:
        self.leaks[address] = self.now

    def sleep(self, seconds: float) -> None:
        self.log.append(f"wait {seconds:g}")
        self.now += seconds

    def open(self, path: str, mode: str) -> FakeFile:
        if mode in self.opening:
            raise OSError(self.opening[mode], os.strerror(self.opening[mode]), path)
        return FakeFile(self)

    def write(self, data: bytes) -> None:
        self.log.append(data.decode())
        if data in self.commands:
            raise OSError(self.commands[data], os.strerror(self.commands[data]))
        if data == b"clear":
            self.gray |= self.reported
        elif data == b"scan":
            for address in self.reported & self.found_again:
                self.leaks.pop(address, None)
                self.reported.discard(address)
            for address, born in self.leaks.items():
                if address in self.seen and born + 5 <= self.now:
                    self.reported.add(address)
                self.seen.add(address)
        else:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def report(self) -> bytes:
        lines = []
        for address in self.leaks:
            if address in self.reported - self.gray:
                frame = KernelFrame(None, "make+0x1/0x2 [mod]")
                lines += format_record(KernelRecord(address, 8, frames=(frame,)), "6.8")
        return "".join(f"{line}\n" for line in lines).encode()


class FakeFile:
    def __init__(self, fake: FakeKernel) -> None:
        self.fake = fake
        self.at = 0
        self.closed = False

    def read(self, size: int, /) -> bytes:
        if self.at == 0:
            self.fake.log.append("read")
        piece = self.fake.report()[self.at : self.at + min(size, self.fake.piece)]
        self.at += len(piece)
        return piece

    def write(self, data: bytes, /) -> int:
        self.fake.write(data)
        self.at += len(data)
        return len(data)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fake() -> FakeKernel:
    return FakeKernel()


def check(fake: FakeKernel, run: Callable[[], int] | None = None, **more: Any) -> kernel.KernelRun:
    return check_kernel(KernelFile(opener=fake.open), run, sleep=fake.sleep, **more)


class TestRitual:
    def test_without_leaks(self, fake: FakeKernel) -> None:
        def command() -> int:
            fake.log.append("run")
            return 0

        result = check(fake, command)
        assert fake.log == ["scan", "clear", "run", "scan", "wait 5", "scan", "read"]
        assert (result.report.records, result.status, result.cleared) == ((), 0, True)

    def test_what_the_command_leaks_is_found(self, fake: FakeKernel) -> None:
        def command() -> int:
            fake.leak(0x1000)
            return 3

        result = check(fake, command)
        assert [r.address for r in result.report.records] == [0x1000]
        assert result.status == 3

    def test_what_leaked_before_is_cleared(self, fake: FakeKernel) -> None:
        fake.leak(0x1000)
        fake.write(b"scan")
        fake.sleep(10)
        result = check(fake, lambda: 0)
        assert result.report.records == ()

    def test_or_left_alone_and_left_out(self, fake: FakeKernel) -> None:
        fake.leak(0x1000)
        fake.write(b"scan")
        fake.sleep(10)
        result = check(fake, lambda: 0, clear=False)
        assert "clear" not in fake.log
        assert result.before is not None
        assert [r.address for r in result.before.records] == [0x1000]

    def test_leaks_are_looked_at_once_more(self, fake: FakeKernel) -> None:
        def command() -> int:
            fake.leak(0x1000)
            fake.leak(0x2000)
            fake.found_again.add(0x2000)
            return 0

        result = check(fake, command)
        assert [r.address for r in result.report.records] == [0x1000]
        assert result.transient == 1
        assert [note.code for note in result.report.coverage] == ["kernel.transient"]
        assert fake.log[-3:] == ["wait 1", "scan", "read"]

    def test_without_a_command_nothing_is_cleared(self, fake: FakeKernel) -> None:
        fake.leak(0x1000)
        result = check(fake)
        assert fake.log[:4] == ["scan", "wait 5", "scan", "read"]
        assert [r.address for r in result.report.records] == [0x1000]

    def test_the_wait_can_be_given(self, fake: FakeKernel) -> None:
        check(fake, wait=0)
        assert fake.log == ["scan", "scan", "read"]

    def test_a_disabled_kmemleak_keeps_its_last_report_and_nothing_runs(
        self, fake: FakeKernel
    ) -> None:
        fake.commands[b"scan"] = errno.EPERM
        with pytest.raises(KernelFileError, match="is disabled"):
            check(fake, lambda: pytest.fail("it ran"))
        assert fake.log == ["scan"]

    def test_a_report_in_small_pieces_is_one(self, fake: FakeKernel) -> None:
        for n in range(50):
            fake.leak(0x1000 * (n + 1))
        fake.piece = 7
        assert len(check(fake).report.records) == 50


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "message"),
        [
            (errno.EPERM, "is disabled\n  try: dmesg"),
            (errno.EBUSY, "is disabled\n  try: dmesg"),
            (errno.EINVAL, "'scan' is not known there\n  try: Linux knows it since"),
            (errno.EACCES, "permission denied\n  try: run it as root"),
            (errno.EIO, "Input/output error"),
        ],
    )
    def test_a_command_that_is_refused(self, fake: FakeKernel, code: int, message: str) -> None:
        fake.commands[b"scan"] = code
        with pytest.raises(KernelFileError, match=message) as caught:
            KernelFile(opener=fake.open).command("scan")
        assert caught.value.errno == code

    @pytest.mark.parametrize("mode", ["r", "w"])
    @pytest.mark.parametrize(
        ("code", "message"),
        [
            (errno.EACCES, "permission denied\n  try: run it as root: sudo"),
            (errno.EPERM, "does not permit it\n  try: a locked-down kernel"),
            (errno.EBUSY, "is disabled"),
            (errno.EMFILE, "Too many open files"),
        ],
    )
    def test_a_file_that_cannot_be_opened(
        self, fake: FakeKernel, mode: str, code: int, message: str
    ) -> None:
        fake.opening[mode] = code
        file = KernelFile(opener=fake.open)
        with pytest.raises(KernelFileError, match=message):
            file.read() if mode == "r" else file.command("scan")

    @pytest.mark.parametrize(
        ("mounted", "message"),
        [
            (False, "debugfs is not mounted\n  try: mount -t debugfs"),
            (True, "has no kmemleak\n  try: boot one that is built with CONFIG_DEBUG_KMEMLEAK"),
        ],
    )
    def test_a_missing_file_tells_why(
        self, fake: FakeKernel, monkeypatch: pytest.MonkeyPatch, mounted: bool, message: str
    ) -> None:
        monkeypatch.setattr("os.path.isdir", lambda path: True)
        monkeypatch.setattr("os.path.ismount", lambda path: mounted)
        fake.opening["w"] = errno.ENOENT
        with pytest.raises(KernelFileError, match=message):
            KernelFile(opener=fake.open).command("scan")

    def test_another_path_that_is_missing_names_the_kernel_s(self, tmp_path: Path) -> None:
        with pytest.raises(KernelFileError, match=r"there is no such file\n.*/sys/kernel/debug"):
            KernelFile(tmp_path / "none").command("scan")

    def test_a_saved_report_is_not_written_over(self, tmp_path: Path) -> None:
        file = tmp_path / "report"
        with file.open("w") as stream:
            stream.write("unreferenced object 0x1 (size 1):\n" * 1000)
            stream.flush()
            os.fsync(stream.fileno())  # only then does it take room on every file system
        with pytest.raises(UsageError, match="ordinary file"):
            KernelFile(file).command("scan")
        assert file.read_text().startswith("unreferenced")

    def test_a_pipe_that_nobody_reads_is_not_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UsageError, match="is a device, socket or pipe"):
            KernelFile(tmp_path / "pipe").command("scan")


class TestCommand:
    @pytest.fixture(autouse=True)
    def use_the_fake(self, fake: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kernel, "_open", fake.open)
        original = kernel.check_kernel
        monkeypatch.setattr(
            kernel, "check_kernel", lambda *a, **k: original(*a, sleep=fake.sleep, **k)
        )

    def leaking(self, fake: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let each command that is run leak."""
        import subprocess

        run = subprocess.run

        def leak_and_run(*arguments: Any, **more: Any) -> Any:
            fake.leak(0x1000)
            return run(*arguments, **more)

        monkeypatch.setattr("subprocess.run", leak_and_run)

    def test_0_if_nothing_leaks(self) -> None:
        assert main(["kernel", "--", "true"]) == 0

    def test_1_if_something_does(
        self,
        fake: FakeKernel,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        self.leaking(fake, monkeypatch)
        assert main(["kernel", "--", "echo", "hello"]) == 1
        out = capfd.readouterr().out
        assert out.startswith("hello\n")
        assert "make+0x1/0x2 [mod]" in out

    def test_a_command_that_fails_is_told(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["kernel", "--", "sh", "-c", "exit 7"]) == 4
        assert "sh failed with exit status 7" in capfd.readouterr().err
        assert main(["kernel", "--", "sh", "-c", "kill -9 $$"]) == 4
        assert "sh was killed by signal 9" in capfd.readouterr().err

    def test_leaks_weigh_more_than_its_failure(
        self, fake: FakeKernel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.leaking(fake, monkeypatch)
        assert main(["kernel", "-q", "--", "false"]) == 1

    def test_options_of_the_command_are_its_own(self, capfd: pytest.CaptureFixture[str]) -> None:
        assert main(["kernel", "--wait", "0", "echo", "--json", "-q"]) == 0
        assert capfd.readouterr().out.startswith("--json -q\n")

    def test_a_command_that_is_not_there_is_wrong_usage(
        self, fake: FakeKernel, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["kernel", "--", "no-such-command-anywhere"]) == 2
        assert "there is no such command" in capsys.readouterr().err
        assert fake.log == []

    def test_json_stands_alone_and_follows_the_schema(
        self,
        fake: FakeKernel,
        monkeypatch: pytest.MonkeyPatch,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        self.leaking(fake, monkeypatch)
        assert main(["kernel", "--json", "--", "echo", "hello"]) == 1
        captured = capfd.readouterr()
        document = json.loads(captured.out)
        jsonschema.validate(document, kernel_schema())
        assert captured.err == "hello\n"
        assert document["run"] == {
            "command": ["echo", "hello"],
            "exit_status": 0,
            "wait": 5.0,
            "cleared": True,
            "known_before": 0,
            "transient": 0,
        }

    def test_without_clear_only_what_is_new_counts(
        self, fake: FakeKernel, capfd: pytest.CaptureFixture[str]
    ) -> None:
        fake.leak(0x9000)
        fake.write(b"scan")
        fake.now += 10
        assert main(["kernel", "--no-clear", "--", "true"]) == 0
        assert "compared with before the command" in capfd.readouterr().out
        assert main(["kernel"]) == 1

    def test_suppressions_count(
        self, fake: FakeKernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        self.leaking(fake, monkeypatch)
        known = tmp_path / "known.txt"
        known.write_text("leak:make\n")
        assert main(["kernel", "--suppressions", str(known), "--", "true"]) == 0

    def test_wrong_suppressions_are_told_before_anything_runs(
        self, fake: FakeKernel, tmp_path: Path
    ) -> None:
        assert main(["kernel", "--suppressions", str(tmp_path / "none"), "--", "true"]) == 2
        assert fake.log == []

    def test_3_if_the_kernel_has_no_kmemleak(
        self, fake: FakeKernel, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fake.opening["w"] = errno.EACCES
        assert main(["kernel", "--", sys.executable, "--version"]) == 3
        assert "permission denied" in capsys.readouterr().err

    @pytest.mark.parametrize("wait", ["x", "-1", "1e9", "nan", "100000"])
    def test_a_wait_that_is_none_is_wrong_usage(self, wait: str) -> None:
        assert main(["kernel", f"--wait={wait}"]) == 2
