r"""Turns lines that come in at a Unix socket into commands for a detector, and replies into JSON.

A request is one line: a command of the control file, ``read`` for the report, or an object
``{"command": "scan", "wait": false}``. The reply is one line: ``{"errno": 0, "message": "",
"text": ""}``, where ``text`` is the report or what the command told. A connection carries any
number of requests, one after the other: ``printf 'scan\nread\n' | nc -N -U kmemleak.sock``.
"""

from __future__ import annotations

import atexit
import errno
import json
import logging
import os
import select
import socket
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from ..control import MAX_COMMAND, ControlFile, Detector
from ..errors import ControlError
from ..report.escape import printable
from .socket_path import default_path, listen, remove, short

__all__ = ["Reply", "SocketServer", "default_path", "request", "serve"]

log = logging.getLogger("kmemleak_core")

#: Longest request, in bytes: a command, with what JSON puts around it.
MAX_REQUEST = 8 * MAX_COMMAND
#: Longest reply that `request` reads, in bytes.
MAX_REPLY = 1 << 30
#: Clients at once; one more is told EBUSY.
MAX_CLIENTS = 64
#: Seconds after which a client that neither ends its request nor takes its reply is dropped.
CLIENT_TIMEOUT = 60.0

_PIECE = 1 << 16
#: Seconds that closing waits for each client's thread.
_CLOSE_TIMEOUT = 5.0


@dataclass(frozen=True)
class Reply:
    """What became of one command."""

    errno: int = 0
    """0, or the error number that a write to the file would have given."""
    message: str = ""
    """What went wrong, in words."""
    text: str = ""
    """The report, or what the command told."""


def serve(
    detector: Detector | ControlFile,
    path: str | os.PathLike[str] | None = None,
    *,
    timeout: float = CLIENT_TIMEOUT,
    max_clients: int = MAX_CLIENTS,
) -> SocketServer:
    """Serve a detector's control file at a Unix socket, in threads, until the server is closed.

    Parameters
    ----------
    detector
        The detector, or its control file.
    path
        The socket, mode 0600; None for `default_path`. A dead socket is replaced.
    timeout
        Seconds after which a client that neither ends its request nor takes its reply is dropped.
    max_clients
        Clients at once; one more is told EBUSY.

    Returns
    -------
    SocketServer
        Serving already; close it, or use it as a context manager.

    Raises
    ------
    UsageError
        The path is taken, or its folder cannot be written.
    """
    control = detector if isinstance(detector, ControlFile) else ControlFile(detector)
    where = default_path() if path is None else Path(path)
    return SocketServer(control, where, timeout=timeout, max_clients=max_clients)


class SocketServer:
    """A control file at a Unix socket; see `serve`."""

    def __init__(
        self, control: ControlFile, path: Path, *, timeout: float, max_clients: int
    ) -> None:
        self.path = path.absolute()
        self._control = control
        self._timeout = timeout
        self._max_clients = max_clients
        self._lock = threading.Lock()
        self._clients: dict[socket.socket, threading.Thread] = {}
        self._closing = threading.Event()
        self._listener, self._made = listen(self.path, backlog=max_clients)
        self._closed = False
        self._process = os.getpid()
        atexit.register(self.close)
        self._thread = threading.Thread(target=self._accept, name="kmemleak-socket", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop: the socket's file goes, scans that clients asked for are interrupted."""
        if self._closed or self._process != os.getpid():  # a forked child leaves it alone
            return
        self._closed = True
        atexit.unregister(self.close)
        self._closing.set()
        remove(self.path, self._made)
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
        _join(self._thread)
        self._listener.close()
        with self._lock:
            clients = dict(self._clients)
        for client in clients:
            _shut(client)
        for thread in clients.values():
            _join(thread)

    def __enter__(self) -> SocketServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SocketServer at {printable(str(self.path))}>"

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._closing.wait(0.1)  # until some file is closed
                elif error.errno not in (errno.ECONNABORTED, errno.EINTR):
                    return  # the listener is closed
                continue
            self._admit(client)

    def _admit(self, client: socket.socket) -> None:
        thread = threading.Thread(
            target=self._talk, args=(client,), name="kmemleak-client", daemon=True
        )
        with self._lock:
            full = len(self._clients) >= self._max_clients
            if not full:
                self._clients[client] = thread
        if not full:
            try:
                thread.start()
            except RuntimeError:  # no thread to be had
                full = True
                with self._lock:
                    del self._clients[client]
        if full:
            with client:
                client.setblocking(False)
                _try_send(client, _encode(Reply(errno.EBUSY, "too many clients at once")))

    def _talk(self, client: socket.socket) -> None:
        try:
            with client:
                client.settimeout(self._timeout)
                self._serve_requests(client)
        except OSError:
            pass  # the client has gone, or is stuck: that is its own affair
        except Exception:
            log.exception("serving a client of %r failed", self)
        finally:
            with self._lock:
                self._clients.pop(client, None)

    def _serve_requests(self, client: socket.socket) -> None:
        buffer = bytearray()
        while not self._closing.is_set():
            line = _receive_line(client, buffer, self._timeout)
            if line is None:
                return
            if len(line) > MAX_REQUEST:
                reply = Reply(errno.EMSGSIZE, f"a request has at most {MAX_REQUEST} bytes")
                _send(client, _encode(reply))
                return
            _send(client, _encode(self._answer(line, client)))

    def _answer(self, line: bytes, client: socket.socket) -> Reply:
        def interrupted() -> bool:
            return self._closing.is_set() or _has_gone(client)

        try:
            command, wait = _decode(line)
            if command.strip() == b"read":
                report = self._control.read(wait=wait, interrupted=interrupted)
                return Reply(text=report.decode("utf-8", "surrogateescape"))
            return Reply(text=self._control.execute(command, wait=wait, interrupted=interrupted))
        except ControlError as error:
            return Reply(error.errno, str(error))
        except Exception as error:
            log.exception("a command that came in at %r failed", self)
            return Reply(errno.EIO, f"the detector failed: {type(error).__name__}: {error}")


def request(
    path: str | os.PathLike[str] | None,
    command: str,
    *,
    wait: bool = True,
    timeout: float | None = None,
) -> Reply:
    """Send one command to a server, and return its reply.

    Parameters
    ----------
    path
        The socket; None for `default_path`.
    command
        A command of the control file, or ``"read"`` for the report.
    wait
        Wait while another command or scan goes on; otherwise that is EBUSY in the reply.
    timeout
        Seconds until an answer that does not come is an error; None: for ever.

    Raises
    ------
    ControlError
        There is no server, or it does not answer: with the number that the system gave.
    """
    where = default_path() if path is None else Path(path)
    shown = printable(os.fspath(where))
    question = json.dumps({"command": command, "wait": wait}).encode() + b"\n"
    buffer = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
            server.settimeout(timeout)
            with short(where) as name:
                server.connect(name)
            # A server that has enough of a request says so and hangs up: hear what it says.
            _try_send(server, question)
            line = _receive_line(server, buffer, timeout, MAX_REPLY)
    except TimeoutError:
        raise ControlError(errno.ETIMEDOUT, f"{shown}: no answer in {timeout} s") from None
    except OSError as error:
        raise ControlError(
            error.errno or errno.EIO,
            f"{shown}: no detector answers: {error.strerror or error}",
            hint="kmemleak_core.serve.serve(detector, path) in the program with the detector",
        ) from error
    try:
        fields = json.loads(line or b"")
        return Reply(int(fields["errno"]), str(fields["message"]), str(fields["text"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ControlError(errno.EPROTO, f"{shown}: the answer is none of a detector") from error


def _encode(reply: Reply) -> bytes:
    return json.dumps(asdict(reply)).encode() + b"\n"


def _decode(line: bytes) -> tuple[bytes, bool]:
    """Return the command of a request, and whether it wants to wait."""
    if not line.startswith(b"{"):  # no command does
        return line, True
    try:
        fields = json.loads(line)
        command, wait = fields["command"], fields.get("wait", True)
        if isinstance(command, str) and isinstance(wait, bool):
            return command.encode("utf-8", "surrogateescape"), wait
    except (ValueError, KeyError, RecursionError):
        pass
    raise ControlError(errno.EINVAL, 'a request is a command, or {"command": "...", "wait": true}')


def _receive_line(
    peer: socket.socket, buffer: bytearray, timeout: float | None, limit: int = MAX_REQUEST
) -> bytes | None:
    """Return the next line without its end, None at the end; longer than `limit`: as it is."""
    deadline = None if timeout is None else time.monotonic() + timeout
    searched = 0
    peer.settimeout(timeout)
    while (end := buffer.find(b"\n", searched)) < 0:
        searched = len(buffer)
        if searched > limit:
            return bytes(buffer)
        if deadline is not None:
            # For the line, not for each piece: one byte a minute is stuck, too.
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            peer.settimeout(remaining)
        piece = peer.recv(_PIECE)
        if not piece:
            line = bytes(buffer)
            buffer.clear()
            return line or None
        buffer += piece
    peer.settimeout(timeout)
    line = bytes(buffer[:end])
    del buffer[: end + 1]
    return line


def _send(client: socket.socket, data: bytes) -> None:
    """Send all, in pieces that each have the socket's timeout: slow is not stuck."""
    rest = memoryview(data)
    while rest:
        rest = rest[client.send(rest[:_PIECE]) :]


def _try_send(peer: socket.socket, data: bytes) -> None:
    try:
        peer.sendall(data)
    except (BrokenPipeError, ConnectionResetError, BlockingIOError):
        return


def _has_gone(client: socket.socket) -> bool:
    """Whether nobody is there to hear a reply; one who only ended its own sending is."""
    try:
        poll = select.poll()
        poll.register(client, 0)  # a hang-up and errors are told without being asked for
        return bool(poll.poll(0))
    except (OSError, ValueError):
        return True


def _shut(client: socket.socket) -> None:
    try:
        client.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # closed already


def _join(thread: threading.Thread) -> None:
    if thread is not threading.current_thread():
        thread.join(_CLOSE_TIMEOUT)
