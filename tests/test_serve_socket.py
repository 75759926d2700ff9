"""The control file at a Unix socket: real sockets, real processes, clients that misbehave."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmemleak_core import UsageError
from kmemleak_core.cli import main
from kmemleak_core.control import ControlError
from kmemleak_core.serve import Reply, SocketServer, default_path, request, serve
from kmemleak_core.serve.unix_socket import MAX_REQUEST

from .fake_detector import KNOWN, FakeDetector


@pytest.fixture
def detector() -> FakeDetector:
    return FakeDetector()


@pytest.fixture
def server(detector: FakeDetector, tmp_path: Path) -> Iterator[SocketServer]:
    with serve(detector, tmp_path / "k.sock") as server:
        yield server


def connect(server: SocketServer) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(20)
    client.connect(os.fspath(server.path))
    return client


def until(condition: object, seconds: float = 20.0) -> None:
    """Wait for something that another thread or process does."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


class TestRequests:
    def test_a_command_is_executed_and_answered(
        self, server: SocketServer, detector: FakeDetector
    ) -> None:
        assert request(server.path, "scan") == Reply(0, "", "")
        assert detector.calls == ["scan"]

    def test_read_gives_the_report(self, server: SocketServer, detector: FakeDetector) -> None:
        request(server.path, "scan")
        assert request(server.path, "read").text == detector.read()

    def test_dump_gives_its_text(self, server: SocketServer) -> None:
        assert request(server.path, f"dump={KNOWN:#x}").text.startswith("Object 0x")

    def test_a_wrong_word_is_einval_and_names_the_accepted_ones(self, server: SocketServer) -> None:
        reply = request(server.path, "scanner")
        assert reply.errno == errno.EINVAL
        assert "clear all" in reply.message

    def test_after_off_it_is_eperm(self, server: SocketServer) -> None:
        request(server.path, "off")
        assert request(server.path, "scan").errno == errno.EPERM
        assert request(server.path, "clear").errno == 0

    def test_bytes_that_are_no_text_arrive(
        self, server: SocketServer, detector: FakeDetector
    ) -> None:
        detector.records = ["comm \udcff\u2028\n"]
        assert request(server.path, "read").text == detector.read()

    def test_a_large_report_arrives_whole(
        self, server: SocketServer, detector: FakeDetector
    ) -> None:
        detector.records = ["x" * 99 + "\n"] * 100_000
        assert request(server.path, "read").text == detector.read()

    def test_a_connection_carries_several_requests(self, server: SocketServer) -> None:
        with connect(server) as client, client.makefile("rwb") as lines:
            for line in (b"scan\n", b"bogus\n", b'{"command": "read"}\n'):
                lines.write(line)
            lines.flush()
            replies = [json.loads(lines.readline()) for _ in range(3)]
        assert [reply["errno"] for reply in replies] == [0, errno.EINVAL, 0]
        assert replies[2]["text"].startswith("unreferenced")
        assert all(set(reply) == {"errno", "message", "text"} for reply in replies)

    def test_a_line_may_end_with_the_connection(self, server: SocketServer) -> None:
        with connect(server) as client:
            client.sendall(b"read")
            client.shutdown(socket.SHUT_WR)
            assert json.loads(client.recv(1000))["errno"] == 0

    def test_one_who_only_ended_his_sending_still_gets_his_scan(
        self, server: SocketServer, detector: FakeDetector
    ) -> None:
        detector.hold = threading.Event()
        with connect(server) as client:
            client.sendall(b"scan\n")
            client.shutdown(socket.SHUT_WR)
            assert detector.scanning_now.wait(20)
            time.sleep(0.1)
            detector.hold.set()
            assert json.loads(client.recv(1000))["errno"] == 0

    @pytest.mark.parametrize(
        "line",
        [
            b"{",
            b"{}",
            b'{"command": 5}',
            b'{"command": "scan", "wait": 1}',
            b'{"command": "\\ud800"}',
            b'{"a":' * 1500,
            b"{\xff}",
            b"\xff\xfe\x00",
            b"",
        ],
    )
    def test_a_request_that_is_none_is_einval(self, server: SocketServer, line: bytes) -> None:
        with connect(server) as client:
            client.sendall(line + b"\n")
            assert json.loads(client.recv(5000))["errno"] == errno.EINVAL

    def test_an_oversize_request_is_refused_and_hung_up_on(self, server: SocketServer) -> None:
        reply = request(server.path, "x" * 50_000_000)
        assert reply.errno == errno.EMSGSIZE
        assert str(MAX_REQUEST) in reply.message
        assert request(server.path, "read").errno == 0

    def test_a_detector_that_fails_is_eio_and_serving_goes_on(
        self, server: SocketServer, detector: FakeDetector, caplog: pytest.LogCaptureFixture
    ) -> None:
        detector.failure = ZeroDivisionError("a callback's bug")
        reply = request(server.path, "scan")
        assert reply.errno == errno.EIO
        assert "a callback's bug" in reply.message
        assert "Traceback" in caplog.text
        assert request(server.path, "read").errno == 0


class TestManyClients:
    def test_many_clients_at_once_are_all_answered(
        self, server: SocketServer, detector: FakeDetector
    ) -> None:
        replies: list[Reply] = []
        threads = [
            threading.Thread(
                target=lambda: replies.extend(
                    request(server.path, word) for word in ("scan", "read", "clear", "read") * 5
                )
            )
            for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(replies) == 16 * 20
        assert {reply.errno for reply in replies} == {0}
        assert detector.calls.count("scan") == 80

    def test_a_client_that_says_nothing_stops_nobody(self, server: SocketServer) -> None:
        with connect(server), connect(server) as half:
            half.sendall(b"sca")
            assert request(server.path, "scan", timeout=20).errno == 0

    def test_a_client_that_takes_no_reply_stops_nobody(
        self, server: SocketServer, detector: FakeDetector
    ) -> None:
        detector.records = ["x" * 5_000_000]
        with connect(server) as stuck:
            stuck.sendall(b"read\n")
            until(lambda: len(stuck.recv(1, socket.MSG_PEEK)) == 1)
            assert request(server.path, "scan", timeout=20).errno == 0
            assert request(server.path, "clear", timeout=20).errno == 0

    def test_a_stuck_client_is_dropped_in_the_end(
        self, detector: FakeDetector, tmp_path: Path
    ) -> None:
        with serve(detector, tmp_path / "s", timeout=0.2) as server, connect(server) as stuck:
            stuck.sendall(b"sca")
            assert stuck.recv(100) == b""

    def test_a_client_that_drips_bytes_is_dropped_too(
        self, detector: FakeDetector, tmp_path: Path
    ) -> None:
        with serve(detector, tmp_path / "s", timeout=0.3) as server, connect(server) as stuck:
            with pytest.raises(OSError, match=r"Broken pipe|reset"):  # noqa: PT012
                for _ in range(2000):
                    stuck.send(b"s")
                    time.sleep(0.05)
            assert request(server.path, "read").errno == 0

    def test_one_client_too_many_is_ebusy(self, detector: FakeDetector, tmp_path: Path) -> None:
        with serve(detector, tmp_path / "s", max_clients=2) as server:
            with connect(server) as first, connect(server) as second:
                for client in (first, second):
                    client.sendall(b"read\n")
                    client.recv(1000)
                assert request(server.path, "read").errno == errno.EBUSY
            until(lambda: request(server.path, "read").errno == 0)

    def test_one_who_must_not_wait_is_ebusy(
        self, server: SocketServer, detector: FakeDetector
    ) -> None:
        detector.hold = threading.Event()
        with connect(server) as client:
            client.sendall(b"scan\n")
            assert detector.scanning_now.wait(20)
            assert request(server.path, "scan", wait=False).errno == errno.EBUSY
            detector.hold.set()
            client.recv(1000)

    def test_a_killed_clients_scan_is_interrupted(
        self, server: SocketServer, detector: FakeDetector
    ) -> None:
        detector.hold = threading.Event()
        command = [sys.executable, "-m", "kmemleak_core", "ctl", "--socket", str(server.path)]
        client = subprocess.Popen([*command, "scan"], stderr=subprocess.PIPE)
        assert detector.scanning_now.wait(60)
        client.kill()
        client.communicate(timeout=20)
        assert client.returncode == -signal.SIGKILL
        until(lambda: not detector.scanning_now.is_set())
        assert request(server.path, "read").text == ""

    def test_a_killed_client_that_waits_its_turn_never_gets_it(
        self, server: SocketServer, detector: FakeDetector
    ) -> None:
        detector.hold = threading.Event()
        with connect(server) as scanning:
            scanning.sendall(b"scan\n")
            assert detector.scanning_now.wait(20)
            with connect(server) as waiting:
                waiting.sendall(b"clear\n")
                time.sleep(0.1)
            time.sleep(0.2)
            detector.hold.set()
            scanning.recv(1000)
        assert request(server.path, "read").text != ""
        assert "clear" not in detector.calls


class TestTheSocketsFile:
    def test_only_the_owner_may_connect(self, server: SocketServer) -> None:
        found = server.path.lstat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o600

    def test_the_umask_is_neither_trusted_nor_touched(
        self, detector: FakeDetector, tmp_path: Path
    ) -> None:
        before = os.umask(0)
        try:
            with serve(detector, tmp_path / "s") as server:
                assert stat.S_IMODE(server.path.lstat().st_mode) == 0o600
            assert os.umask(0) == 0
        finally:
            os.umask(before)

    def test_nothing_else_is_left_in_the_folder(self, server: SocketServer) -> None:
        assert list(server.path.parent.iterdir()) == [server.path]

    def test_a_file_that_is_there_is_left_as_it_is(
        self, detector: FakeDetector, tmp_path: Path
    ) -> None:
        path = tmp_path / "precious"
        path.write_text("text")
        with pytest.raises(UsageError, match="no socket"):
            serve(detector, path)
        assert path.read_text() == "text"

    def test_a_link_is_not_followed(self, detector: FakeDetector, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UsageError, match="no socket"):
            serve(detector, tmp_path / "link")
        assert not (tmp_path / "elsewhere").exists()

    def test_a_live_socket_is_left_alone(
        self, server: SocketServer, detector: FakeDetector
    ) -> None:
        with pytest.raises(UsageError, match="answers there already"):
            serve(detector, server.path)
        assert request(server.path, "scan").errno == 0

    def test_a_dead_socket_is_replaced(self, detector: FakeDetector, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(tmp_path / "s"))
        with serve(detector, tmp_path / "s") as server:
            assert request(server.path, "scan").errno == 0

    def test_a_path_longer_than_a_socket_address_works(
        self, detector: FakeDetector, tmp_path: Path
    ) -> None:
        folder = tmp_path / ("x" * 120)
        folder.mkdir()
        with serve(detector, folder / "s") as server:
            assert request(server.path, "scan").errno == 0

    @pytest.mark.parametrize("name", ["missing/s", "x" * 200])
    def test_a_path_that_cannot_be_is_a_usage_error(
        self, detector: FakeDetector, tmp_path: Path, name: str
    ) -> None:
        with pytest.raises(UsageError):
            serve(detector, tmp_path / name)
        assert list(tmp_path.iterdir()) == []


class TestShutdown:
    def test_closing_removes_the_socket(self, detector: FakeDetector, tmp_path: Path) -> None:
        server = serve(detector, tmp_path / "s")
        server.close()
        server.close()
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(ControlError, match="no detector answers"):
            request(server.path, "scan")

    def test_closing_interrupts_scans_and_drops_clients(
        self, detector: FakeDetector, tmp_path: Path
    ) -> None:
        detector.hold = threading.Event()
        server = serve(detector, tmp_path / "s")
        with connect(server) as scanning, connect(server) as idle:
            idle.sendall(b"read\n")  # whoever is not yet accepted would be reset
            idle.recv(1000)
            scanning.sendall(b"scan\n")
            assert detector.scanning_now.wait(20)
            server.close()
            assert not detector.scanning_now.is_set()
            assert idle.recv(10) == b""
        names = [thread.name for thread in threading.enumerate()]
        assert "kmemleak-client" not in names
        assert "kmemleak-socket" not in names

    def test_closing_leaves_another_servers_socket(
        self, detector: FakeDetector, tmp_path: Path
    ) -> None:
        first = serve(detector, tmp_path / "s")
        first.path.unlink()
        with serve(detector, tmp_path / "s") as second:
            first.close()
            assert request(second.path, "scan").errno == 0

    def test_the_end_of_the_program_removes_the_socket(self, tmp_path: Path) -> None:
        program = (
            "import sys; from kmemleak_core.serve import serve\n"
            "from tests.fake_detector import FakeDetector\n"
            "server = serve(FakeDetector(), sys.argv[1])\n"
        )
        root = Path(__file__).parent.parent
        subprocess.run(
            [sys.executable, "-c", program, tmp_path / "s"], cwd=root, check=True, timeout=60
        )
        assert list(tmp_path.iterdir()) == []


class TestAnswersThatAreNone:
    @pytest.mark.parametrize("answer", [b"", b"what?\n", b"[]\n", b'{"errno": 0}\n'])
    def test_they_are_a_protocol_error(self, tmp_path: Path, answer: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "s"))
            listener.listen()

            def serve_one() -> None:
                client, _ = listener.accept()
                with client:
                    client.recv(1000)
                    client.sendall(answer)

            thread = threading.Thread(target=serve_one)
            thread.start()
            with pytest.raises(ControlError, match="none of a detector") as caught:
                request(tmp_path / "s", "scan")
            thread.join()
        assert caught.value.errno == errno.EPROTO

    def test_no_answer_in_time_is_etimedout(self, tmp_path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "s"))
            listener.listen()
            with pytest.raises(ControlError) as caught:
                request(tmp_path / "s", "scan", timeout=0.1)
        assert caught.value.errno == errno.ETIMEDOUT


class TestDefaultPath:
    def test_the_variable_names_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KMEMLEAK_SOCKET", "/some/where")
        assert default_path() == Path("/some/where")

    def test_else_the_users_runtime_folder(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("KMEMLEAK_SOCKET", raising=False)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        assert default_path() == tmp_path / "kmemleak.sock"

    def test_never_a_folder_that_all_may_write(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("KMEMLEAK_SOCKET", raising=False)
        monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
        monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
        with pytest.raises(UsageError, match="--socket"):
            default_path()


class TestCtl:
    """``kmemleak ctl``."""

    @pytest.fixture(autouse=True)
    def _default(self, server: SocketServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KMEMLEAK_SOCKET", str(server.path))

    def test_0_when_done(self, detector: FakeDetector) -> None:
        assert main(["ctl", "scan"]) == 0
        assert detector.calls == ["scan"]

    def test_read_prints_the_report(
        self, detector: FakeDetector, capfd: pytest.CaptureFixture[str]
    ) -> None:
        main(["ctl", "scan"])
        assert main(["ctl", "read"]) == 0
        assert capfd.readouterr().out == detector.read()

    def test_read_prints_bytes_as_they_are(self, detector: FakeDetector) -> None:
        detector.records = ["comm \udcff\x1b\n"]
        command = [sys.executable, "-m", "kmemleak_core", "ctl", "read"]
        assert subprocess.check_output(command, timeout=60) == b"comm \xff\x1b\n"

    def test_2_for_a_wrong_word_with_the_accepted_ones(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["ctl", "scanner"]) == 2
        error = capsys.readouterr().err
        assert "EINVAL" in error
        assert "clear all" in error

    def test_2_for_a_number_out_of_range(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["ctl", "scan=99999999999999999999"]) == 2
        assert "ERANGE" in capsys.readouterr().err

    def test_1_for_what_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["ctl", "off"]) == 0
        assert main(["ctl", "scan"]) == 1
        assert "EPERM" in capsys.readouterr().err

    def test_1_when_busy_and_not_to_wait(
        self, server: SocketServer, detector: FakeDetector, capsys: pytest.CaptureFixture[str]
    ) -> None:
        detector.hold = threading.Event()
        with connect(server) as client:
            client.sendall(b"scan\n")
            assert detector.scanning_now.wait(20)
            assert main(["ctl", "--no-wait", "scan"]) == 1
            detector.hold.set()
            client.recv(1000)
        assert "EBUSY" in capsys.readouterr().err

    def test_3_when_no_detector_answers(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["ctl", "--socket", str(tmp_path / "none"), "scan"]) == 3
        assert "no detector answers" in capsys.readouterr().err

    def test_words_may_be_arguments_of_their_own(self, detector: FakeDetector) -> None:
        assert main(["ctl", "clear", "all"]) == 0
        assert detector.calls == ["clear all"]

    def test_help_needs_no_detector(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["ctl", "--socket", str(tmp_path / "none"), "help"]) == 0
        assert "scan=SECS" in capsys.readouterr().out

    def test_the_help_of_the_subcommand_lists_the_language(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["ctl", "--help"]) == 0
        out = capsys.readouterr().out
        assert "dump=ADDR" in out
        assert "exit codes" in out
