"""The control file as a real file: a mount, driven by the shell's own tools."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from kmemleak_core import UsageError
from kmemleak_core.control import ControlFile
from kmemleak_core.serve import fuse_file
from kmemleak_core.serve.fuse_file import FuseFile, mount

from .fake_detector import KNOWN, FakeDetector

#: Other shells' echo words every failed write as an input/output error.
BASH = shutil.which("bash") or ""


@pytest.fixture(scope="module")
def _fuse() -> None:
    """FUSE can be used here; where it cannot, the reason is the skip's."""
    if not BASH:
        pytest.skip("FUSE: no bash to drive the file with")
    try:
        fuse_file._library()
    except UsageError as error:
        pytest.skip(f"FUSE: {error}")
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"FUSE: /dev/fuse: {error.strerror}")


@pytest.fixture
def folder(_fuse: None, tmp_path: Path) -> Path:
    folder = tmp_path / "mnt"
    folder.mkdir()
    return folder


@pytest.fixture
def detector() -> FakeDetector:
    return FakeDetector()


@pytest.fixture
def file(detector: FakeDetector, folder: Path) -> Iterator[FuseFile]:
    try:
        file = mount(detector, folder)
    except UsageError as error:
        if "cannot mount" in str(error):  # a container without the right to mount
            pytest.skip(f"FUSE: {error}")
        raise
    with file:
        yield file


def shell(file: FuseFile, command: str, *, fails: bool = False) -> str:
    """Run a shell in the folder; its output, or, if it is to fail, its errors."""
    done = subprocess.run(
        [BASH, "-c", command],
        cwd=file.folder,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "LC_ALL": "C"},
    )
    assert (done.returncode != 0) == fails, done
    return done.stderr if fails else done.stdout


def until(condition: Callable[[], object]) -> None:
    """Wait for something that another thread or process does."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


class TestShell:
    def test_echo_scan_then_cat(self, file: FuseFile, detector: FakeDetector) -> None:
        assert shell(file, "echo scan > kmemleak; cat kmemleak") == detector.records[0]
        assert detector.calls == ["scan"]

    def test_the_documentations_test_of_a_section(self, file: FuseFile) -> None:
        shell(file, "echo scan > kmemleak")
        out = shell(file, "echo clear > kmemleak; echo scan > kmemleak; cat kmemleak")
        assert out.count("unreferenced object") == 1
        assert "0x00002000" in out

    def test_appending_is_writing_too(self, file: FuseFile, detector: FakeDetector) -> None:
        shell(file, "echo scan >> kmemleak; echo stack=off >> kmemleak")
        assert detector.calls == ["scan"]
        assert not detector.stack_scan

    def test_a_bad_command_is_invalid_argument(
        self, file: FuseFile, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, "kmemleak_core"):
            assert "Invalid argument" in shell(file, "echo scanner > kmemleak", fails=True)
        assert "clear all" in caplog.text  # the accepted words, which a write cannot carry

    def test_after_off_operation_not_permitted(self, file: FuseFile) -> None:
        shell(file, "echo off > kmemleak")
        assert "not permitted" in shell(file, "echo scan > kmemleak", fails=True)
        shell(file, "echo clear > kmemleak")

    def test_a_number_out_of_range(self, file: FuseFile) -> None:
        assert "out of range" in shell(file, "echo scan=99999999999 > kmemleak", fails=True)

    def test_dump_goes_to_the_log(self, file: FuseFile, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO, "kmemleak_core"):
            shell(file, f"echo dump={KNOWN:#x} > kmemleak")
        assert f"Object {KNOWN:#x}" in caplog.text

    def test_dd_reads_at_an_offset(self, file: FuseFile, detector: FakeDetector) -> None:
        shell(file, "echo scan > kmemleak")
        out = shell(file, "dd if=kmemleak bs=10 skip=2 count=3 2>/dev/null")
        assert out == detector.read()[20:50]

    def test_dd_writes_a_command(self, file: FuseFile, detector: FakeDetector) -> None:
        shell(file, "printf scan | dd of=kmemleak conv=notrunc 2>/dev/null")
        assert detector.calls == ["scan"]

    def test_dd_byte_by_byte_gives_the_same_report(
        self, file: FuseFile, detector: FakeDetector
    ) -> None:
        shell(file, "echo scan > kmemleak")
        assert shell(file, "dd if=kmemleak bs=1 2>/dev/null") == detector.read()

    def test_tail_head_grep_wc_and_cp(
        self, file: FuseFile, detector: FakeDetector, tmp_path: Path
    ) -> None:
        shell(file, "echo scan > kmemleak; echo scan > kmemleak")
        lines = detector.read().splitlines(keepends=True)
        assert shell(file, "tail -n 1 kmemleak") == lines[-1]
        assert shell(file, "tail -c 5 kmemleak") == detector.read()[-5:]
        assert shell(file, "head -n 1 kmemleak") == lines[0]
        assert shell(file, "grep -c unreferenced kmemleak") == "2\n"
        assert shell(file, "wc -c < kmemleak").strip() == str(len(detector.read()))
        shell(file, f"cp kmemleak {tmp_path}/copy")
        assert (tmp_path / "copy").read_text() == detector.read()

    def test_writing_moves_the_position_as_in_the_kernel(
        self, file: FuseFile, detector: FakeDetector
    ) -> None:
        out = shell(file, "exec 3<>kmemleak; echo scan >&3; cat <&3")
        assert out == detector.read()[5:]

    def test_lseek_to_0_reads_anew(self, file: FuseFile, detector: FakeDetector) -> None:
        descriptor = os.open(file.path, os.O_RDWR)
        try:
            assert os.read(descriptor, 1000) == b""
            os.write(descriptor, b"scan\n")
            os.lseek(descriptor, 0, os.SEEK_SET)
            assert os.read(descriptor, 1000).decode() == detector.read()
        finally:
            os.close(descriptor)

    def test_bytes_that_are_no_text_come_out(self, file: FuseFile, detector: FakeDetector) -> None:
        detector.records = ["comm \udcff\n"]
        assert file.path.read_bytes() == b"comm \xff\n"

    def test_a_report_of_megabytes_comes_out_whole(
        self, file: FuseFile, detector: FakeDetector
    ) -> None:
        detector.records = [f"{n:099}\n" for n in range(50_000)]
        assert file.path.read_text() == detector.read()


class TestTheFile:
    def test_it_is_the_only_one_and_its_owners_alone(self, file: FuseFile) -> None:
        assert os.listdir(file.folder) == ["kmemleak"]
        found = file.path.stat()
        assert stat.S_IMODE(found.st_mode) == 0o600
        assert (found.st_uid, found.st_gid, found.st_size) == (os.getuid(), os.getgid(), 0)

    def test_there_is_no_other(self, file: FuseFile) -> None:
        with pytest.raises(FileNotFoundError):
            (file.folder / "other").stat()

    def test_nothing_can_be_made_or_removed(self, file: FuseFile) -> None:
        for command in ("touch other", "mkdir other", "rm -f kmemleak", "mv kmemleak other"):
            assert "not permitted" in shell(file, command, fails=True)

    def test_strict_kernel_is_the_kernels_language(
        self, detector: FakeDetector, folder: Path
    ) -> None:
        with mount(ControlFile(detector, strict_kernel=True), folder) as file:
            shell(file, "echo scanner > kmemleak")
        assert detector.calls == ["scan"]


class TestSeveralAtOnce:
    def test_several_readers_each_get_the_whole_report(
        self, file: FuseFile, detector: FakeDetector
    ) -> None:
        detector.records = [f"{n:099}\n" for n in range(5_000)]
        readers = [
            subprocess.Popen(["cat", file.path], stdout=subprocess.PIPE, text=True)
            for _ in range(8)
        ]
        for reader in readers:
            assert reader.communicate(timeout=60)[0] == detector.read()

    def test_readers_and_writers_see_only_whole_records(
        self, file: FuseFile, detector: FakeDetector
    ) -> None:
        done = threading.Event()

        def write() -> None:
            while not done.is_set():
                for command in ("scan", "scan", "scan", "clear"):
                    file.path.write_text(command)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(10):
                out = shell(file, "dd if=kmemleak bs=17 2>/dev/null")
                lines = out.splitlines()
                assert len(lines) % 2 == 0
                assert all(line.startswith("unreferenced object 0x") for line in lines[::2])
                assert all(line.startswith('  comm "fake", pid ') for line in lines[1::2])
        finally:
            done.set()
            writer.join(20)

    def test_a_reader_who_must_not_wait_is_ebusy(
        self, file: FuseFile, detector: FakeDetector
    ) -> None:
        detector.hold = threading.Event()
        scanning = threading.Thread(target=file.path.write_text, args=("scan",))
        scanning.start()
        assert detector.scanning_now.wait(20)
        descriptor = os.open(file.path, os.O_RDWR | os.O_NONBLOCK)
        try:
            with pytest.raises(OSError, match="busy") as caught:
                os.read(descriptor, 10)
            assert caught.value.errno == errno.EBUSY
        finally:
            os.close(descriptor)
            detector.hold.set()
            scanning.join(20)

    def test_a_scan_that_goes_on_does_not_stop_who_only_looks(
        self, file: FuseFile, detector: FakeDetector
    ) -> None:
        detector.hold = threading.Event()
        scanning = threading.Thread(target=file.path.write_text, args=("scan",))
        scanning.start()
        try:
            assert detector.scanning_now.wait(20)
            assert shell(file, "ls") == "kmemleak\n"
        finally:
            detector.hold.set()
            scanning.join(20)

    def test_a_reader_waits_for_the_scan_that_goes_on(
        self, file: FuseFile, detector: FakeDetector
    ) -> None:
        detector.hold = threading.Event()
        scanning = threading.Thread(target=file.path.write_text, args=("scan",))
        scanning.start()
        try:
            assert detector.scanning_now.wait(20)
            reader = subprocess.Popen(["cat", file.path], stdout=subprocess.PIPE, text=True)
            with pytest.raises(subprocess.TimeoutExpired):
                reader.wait(0.2)
        finally:
            detector.hold.set()
            scanning.join(20)
        assert reader.communicate(timeout=20)[0] == detector.read() != ""

    def test_a_second_writer_waits_in_the_kernel_for_the_first(
        self, file: FuseFile, detector: FakeDetector
    ) -> None:
        """The kernel holds the inode's lock while a FUSE write lasts, even for O_NONBLOCK."""
        detector.hold = threading.Event()
        first, second = (
            subprocess.Popen([BASH, "-c", "echo scan > kmemleak"], cwd=file.folder)
            for _ in range(2)
        )
        assert detector.scanning_now.wait(20)
        time.sleep(0.2)
        assert detector.calls == ["scan"]
        detector.hold.set()
        assert (first.wait(20), second.wait(20)) == (0, 0)
        assert detector.calls == ["scan", "scan"]


class TestKilledClients:
    def start(self, file: FuseFile, command: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([BASH, "-c", f"exec 3>kmemleak; {command}"], cwd=file.folder)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
    def test_a_killed_clients_scan_is_interrupted(
        self, file: FuseFile, detector: FakeDetector, number: signal.Signals
    ) -> None:
        detector.hold = threading.Event()
        client = self.start(file, "echo scan >&3")
        assert detector.scanning_now.wait(20)
        client.send_signal(number)
        client.wait(20)
        until(lambda: not detector.scanning_now.is_set())
        detector.hold = None
        assert shell(file, "echo scan > kmemleak; grep -c unref kmemleak") == "1\n"

    def test_a_reader_killed_while_waiting_goes_at_once(
        self, file: FuseFile, detector: FakeDetector
    ) -> None:
        detector.hold = threading.Event()
        scanning = threading.Thread(target=file.path.write_text, args=("scan",))
        scanning.start()
        try:
            assert detector.scanning_now.wait(20)
            reader = subprocess.Popen(["cat", file.path], stdout=subprocess.PIPE)
            time.sleep(0.2)
            reader.kill()
            reader.communicate(timeout=10)
            assert detector.scanning_now.is_set()
        finally:
            detector.hold.set()
            scanning.join(20)

    def test_a_reader_killed_between_two_reads_leaves_nothing_behind(
        self, file: FuseFile, detector: FakeDetector
    ) -> None:
        detector.records = ["x" * 99 + "\n"] * 50_000
        reader = subprocess.Popen(["cat", file.path], stdout=subprocess.PIPE)
        assert reader.stdout is not None
        reader.stdout.read(10)
        reader.kill()
        reader.communicate(timeout=20)
        until(lambda: not file._operations._files)
        assert file.path.read_text() == detector.read()


class TestUnmounting:
    def mounted(self, folder: Path) -> bool:
        return f" {folder} " in Path("/proc/self/mountinfo").read_text()

    def test_closing_unmounts(self, detector: FakeDetector, folder: Path) -> None:
        file = mount(detector, folder)
        assert self.mounted(folder)
        file.close()
        file.close()
        assert not self.mounted(folder)
        assert os.listdir(folder) == []
        assert "kmemleak-fuse" not in [thread.name for thread in threading.enumerate()]

    def test_the_same_folder_can_be_mounted_again(
        self, detector: FakeDetector, folder: Path
    ) -> None:
        for _ in range(3):
            with mount(detector, folder) as file:
                shell(file, "echo scan > kmemleak")
        assert detector.calls == ["scan"] * 3

    def test_closing_does_not_wait_for_open_files(
        self, detector: FakeDetector, folder: Path
    ) -> None:
        file = mount(detector, folder)
        descriptor = os.open(file.path, os.O_RDONLY)
        file.close()
        try:
            assert not self.mounted(folder)
            with pytest.raises(OSError, match=r"."):
                os.read(descriptor, 10)
        finally:
            with suppress(OSError):  # closed, with the error of a file whose server has gone
                os.close(descriptor)

    def test_closing_interrupts_a_scan_that_goes_on(
        self, detector: FakeDetector, folder: Path
    ) -> None:
        detector.hold = threading.Event()
        file = mount(detector, folder)
        client = subprocess.Popen(
            [BASH, "-c", "echo scan > kmemleak"], cwd=folder, stderr=subprocess.PIPE
        )
        assert detector.scanning_now.wait(20)
        file.close()
        client.communicate(timeout=20)
        assert client.returncode != 0
        assert not detector.scanning_now.is_set()
        assert not self.mounted(folder)

    def start_program(self, folder: Path, end: str) -> subprocess.Popen[str]:
        program = (
            "import sys, time; from kmemleak_core.serve.fuse_file import mount\n"
            "from tests.fake_detector import FakeDetector\n"
            "file = mount(FakeDetector(), sys.argv[1]); print('ready', flush=True)\n" + end
        )
        started = subprocess.Popen(
            [sys.executable, "-c", program, str(folder)],
            cwd=Path(__file__).parent.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert started.stdout is not None
        assert started.stdout.readline() == "ready\n"
        return started

    def test_the_end_of_the_program_unmounts_without_a_word(self, folder: Path) -> None:
        program = self.start_program(folder, "")
        assert program.communicate(timeout=60) == ("", "")
        assert program.returncode == 0
        assert not self.mounted(folder)

    def test_what_a_killed_program_left_is_unmounted_by_the_next(
        self, detector: FakeDetector, folder: Path
    ) -> None:
        program = self.start_program(folder, "time.sleep(600)")
        program.kill()
        program.communicate(timeout=20)
        assert self.mounted(folder)
        with mount(detector, folder) as file:
            shell(file, "echo scan > kmemleak")
        assert not self.mounted(folder)

    def test_a_signal_still_ends_the_program(self, detector: FakeDetector, folder: Path) -> None:
        """libfuse takes SIGTERM for itself: it would only unmount."""
        program = self.start_program(folder, "time.sleep(600)")
        program.terminate()
        program.communicate(timeout=20)
        assert program.returncode == -signal.SIGTERM
        mount(detector, folder).close()


class TestRefusals:
    def test_without_the_package_the_error_names_the_extra(
        self, detector: FakeDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "mfusepy", None)
        with pytest.raises(UsageError, match=r"kmemleak-core\[fuse\]"):
            mount(detector, tmp_path)

    def test_without_libfuse_the_error_names_it(
        self, detector: FakeDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def import_module(name: str) -> None:
            raise OSError("Unable to find libfuse")

        monkeypatch.setattr("importlib.import_module", import_module)
        with pytest.raises(UsageError, match="fuse3"):
            mount(detector, tmp_path)

    def test_a_folder_that_is_not_there(self, detector: FakeDetector, folder: Path) -> None:
        with pytest.raises(UsageError, match="No such file"):
            mount(detector, folder / "missing")

    def test_a_file(self, detector: FakeDetector, folder: Path) -> None:
        (folder / "file").touch()
        with pytest.raises(UsageError, match="Not a directory"):
            mount(detector, folder / "file")

    def test_a_folder_that_is_not_empty(self, detector: FakeDetector, folder: Path) -> None:
        (folder / "file").touch()
        with pytest.raises(UsageError, match="not empty"):
            mount(detector, folder)

    def test_a_folder_that_is_mounted(self, file: FuseFile, detector: FakeDetector) -> None:
        with pytest.raises(UsageError, match="mounted there already"):
            mount(detector, file.folder)
