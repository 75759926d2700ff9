"""The control file over the real detector: what each command does to what is reported."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kmemleak_core import Kmemleak, MemoryImage, UsageError
from kmemleak_core.control import ControlError, ControlFile
from kmemleak_core.serve import request, serve
from kmemleak_core.serve.fuse_file import mount

BASE = 0x10000
ROOT = BASE
HELD, LOST, LATER = BASE + 0x100, BASE + 0x200, BASE + 0x300


class Program:
    """A program whose root holds HELD and LATER; LOST has leaked."""

    def __init__(self, *, strict: bool = False) -> None:
        self.memory = bytearray(0x1000)
        image = MemoryImage.from_segments([(BASE, self.memory)])
        self.detector = Kmemleak(image, min_age=0, checksums=False, strict_kernel=strict)
        self.detector.add_root(ROOT, 16)
        self.hold(0, HELD)
        self.hold(8, LATER)
        for address in (HELD, LOST, LATER):
            self.detector.alloc(address, 64)
        self.control = ControlFile(self.detector)

    def hold(self, offset: int, address: int) -> None:
        self.memory[offset : offset + 8] = address.to_bytes(8, "little")

    def listed(self) -> list[int]:
        return _listed(self.control.read().decode())


def _listed(report: str) -> list[int]:
    return [int(line.split()[2], 16) for line in report.splitlines() if "unreferenced obj" in line]


@pytest.fixture(params=[False, True], ids=["default", "strict_kernel"])
def program(request: pytest.FixtureRequest) -> Program:
    return Program(strict=request.param)


class TestCommands:
    def test_scan_reports_what_leaked(self, program: Program) -> None:
        assert program.listed() == []
        program.control.execute(b"scan\n")
        assert program.listed() == [LOST]

    def test_clear_then_scan_shows_new_leaks_only(self, program: Program) -> None:
        program.control.execute(b"scan\n")
        program.control.execute(b"clear\n")
        assert program.listed() == []
        program.hold(8, 0)
        program.control.execute(b"scan\n")
        assert program.listed() == [LATER]

    def test_leaks_are_in_the_order_of_their_allocation(self, program: Program) -> None:
        program.detector.alloc(BASE + 0x80, 64)
        program.control.execute(b"scan\n")
        assert program.listed() == [LOST, BASE + 0x80]

    def test_off_keeps_the_report_until_clear(self, program: Program) -> None:
        program.control.execute(b"scan\n")
        program.control.execute(b"off\n")
        assert program.listed() == [LOST]
        program.control.execute(b"clear\n")
        assert program.listed() == []
        with pytest.raises(ControlError) as caught:
            program.control.execute(b"scan\n")
        assert caught.value.errno == errno.EPERM

    def test_dump_tells_of_an_object(self, program: Program) -> None:
        reply = program.control.execute(f"dump={HELD:#x}\n".encode())
        assert "min_count = 1" in reply

    def test_dump_of_nothing_is_einval(self, program: Program) -> None:
        with pytest.raises(ControlError, match="Unknown object") as caught:
            program.control.execute(b"dump=0x1\n")
        assert caught.value.errno == errno.EINVAL

    def test_scan_starts_and_stops_the_thread(self, program: Program) -> None:
        program.control.execute(b"scan=3600\n")
        assert program.detector.scan_period == 3600
        assert "kmemleak" in [thread.name for thread in threading.enumerate()]
        program.control.execute(b"scan=off\n")
        assert "kmemleak" not in [thread.name for thread in threading.enumerate()]

    def test_a_bad_period_leaves_the_thread_alone(self, program: Program) -> None:
        program.control.execute(b"scan=3600\n")
        with pytest.raises(ControlError):
            program.control.execute(b"scan=soon\n")
        assert "kmemleak" in [thread.name for thread in threading.enumerate()]
        program.control.execute(b"scan=0\n")
        assert "kmemleak" not in [thread.name for thread in threading.enumerate()]

    def test_an_interrupted_scan_reports_nothing_new(self, program: Program) -> None:
        ask: Callable[[], str] = lambda: program.control.execute(  # noqa: E731
            b"scan", interrupted=lambda: True
        )
        if program.detector.strict_kernel:
            ask()
        else:
            with pytest.raises(ControlError) as caught:
                ask()
            assert caught.value.errno == errno.EINTR
        assert program.listed() == []

    def test_the_python_channel_takes_turns_with_the_others(self, program: Program) -> None:
        assert program.detector.control("scan") == ""
        assert program.listed() == [LOST]


def test_clear_all_greys_what_is_not_yet_reported() -> None:
    program = Program()
    program.detector.min_unref_scans = 2
    program.control.execute(b"scan")
    assert program.listed() == []
    program.control.execute(b"clear all")
    program.control.execute(b"scan")
    program.control.execute(b"scan")
    assert program.listed() == []


def test_stats_tells_figures() -> None:
    assert "objects: 3\n" in Program().control.execute(b"stats")


class TestCallbacks:
    def test_a_listener_of_the_automatic_scan_may_command_while_the_thread_is_stopped(self) -> None:
        """With one lock for all commands, as in the kernel, the two would wait for each other."""
        program = Program()
        called, go_on = threading.Event(), threading.Event()

        def listener(_: object) -> None:
            called.set()
            assert go_on.wait(20)
            program.control.execute(b"clear")

        program.detector.on_new_leaks(listener)
        program.detector.start_scanning(3600, first=0.0)
        assert called.wait(20)
        stopping = threading.Thread(target=program.control.execute, args=(b"scan=off",))
        stopping.start()
        go_on.set()
        stopping.join(20)
        assert not stopping.is_alive()
        assert program.listed() == []


class TestChannels:
    def test_the_socket(self, tmp_path: Path) -> None:
        program = Program()
        with serve(program.detector, tmp_path / "s") as server:
            assert request(server.path, "scan").errno == 0
            assert _listed(request(server.path, "read").text) == [LOST]
            assert request(server.path, "scanner").errno == errno.EINVAL

    def test_the_file(self, tmp_path: Path) -> None:
        program = Program()
        try:
            file = mount(program.detector, tmp_path)
        except UsageError as error:
            pytest.skip(f"FUSE: {error}")
        with file:
            out = subprocess.check_output(
                ["/bin/sh", "-c", "echo scan > kmemleak; cat kmemleak"],
                cwd=tmp_path,
                text=True,
                timeout=60,
                env={**os.environ, "LC_ALL": "C"},
            )
        assert _listed(out) == [LOST]
        assert out == program.detector.read()
