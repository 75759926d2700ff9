"""Turns a path into a Unix socket that only its owner can connect to, and finds such sockets."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UsageError
from ..report.escape import printable

#: ``sun_path`` has 108 bytes, the terminator included (unix(7)).
_MAX_PATH = 107


def default_path() -> Path:
    """Return where the socket is unless the user says otherwise.

    That is ``$KMEMLEAK_SOCKET``, else ``kmemleak.sock`` in ``$XDG_RUNTIME_DIR``, else in
    ``/run/user/UID``, else (for root alone) in ``/run``: folders in which nobody else can put a
    socket of his own.

    Raises
    ------
    UsageError
        There is no such folder.
    """
    named = os.environ.get("KMEMLEAK_SOCKET")
    if named:
        return Path(named)
    user = os.getuid()
    folders = [os.environ.get("XDG_RUNTIME_DIR"), f"/run/user/{user}", "/run" if not user else None]
    for folder in folders:
        if folder and os.path.isdir(folder):
            return Path(folder) / "kmemleak.sock"
    raise UsageError(
        "there is no folder for the socket: $XDG_RUNTIME_DIR is not set",
        hint="name the socket with --socket or $KMEMLEAK_SOCKET",
    )


@contextmanager
def short(path: Path) -> Iterator[str]:
    """Give a name of at most 107 bytes for `path`, which lasts as long as the context."""
    if len(os.fsencode(path)) <= _MAX_PATH:
        yield os.fspath(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        name = f"/proc/self/fd/{folder}/{path.name}"
        if len(os.fsencode(name)) > _MAX_PATH:
            raise UsageError(f"{printable(path.name)}: too long a name for a socket")
        yield name
    finally:
        os.close(folder)


def listen(path: Path, backlog: int) -> tuple[socket.socket, tuple[int, int]]:
    """Return a socket that listens at `path`, mode 0600, with the device and inode of the file.

    A socket that nobody listens at is replaced; anything else that is there stays.

    Raises
    ------
    UsageError
        Something else is there, a detector answers there, or the folder cannot be written.
    """
    shown = printable(os.fspath(path))
    try:
        with _locked(path.parent):
            replace = _is_dead_socket(path)
            # The process's umask belongs to all its threads: it is left alone, and the socket is
            # made in a folder that nobody else can enter until its own mode is right.
            private = Path(tempfile.mkdtemp(prefix=".kmemleak-", dir=path.parent))
            try:
                listener, made = _bind(private / "s", backlog)
                try:
                    if replace:
                        path.unlink(missing_ok=True)
                    os.link(private / "s", path)  # unlike a rename, never over another's file
                except BaseException:
                    listener.close()
                    raise
            finally:
                shutil.rmtree(private, ignore_errors=True)
    except FileExistsError:
        raise UsageError(f"{shown}: something else is there now") from None
    except OSError as error:
        raise UsageError(f"{shown}: cannot make the socket: {error.strerror or error}") from error
    return listener, made


def remove(path: Path, made: tuple[int, int]) -> None:
    """Remove the socket at `path` if it is still the one that was made."""
    try:
        with _locked(path.parent):
            found = path.lstat()
            if (found.st_dev, found.st_ino) == made:
                path.unlink()
    except OSError:
        return  # gone already, with its folder perhaps


def _bind(path: Path, backlog: int) -> tuple[socket.socket, tuple[int, int]]:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with short(path) as name:
            listener.bind(name)
        path.chmod(0o600)
        listener.listen(backlog)
        found = path.lstat()
    except BaseException:
        listener.close()
        raise
    return listener, (found.st_dev, found.st_ino)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other servers from replacing sockets in `folder` meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_dead_socket(path: Path) -> bool:
    """Whether a socket is there that nobody listens at; False where nothing is."""
    shown = printable(os.fspath(path))
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{shown} is there, and no socket: it is left as it is")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, short(path) as name:
        probe.setblocking(False)
        code = probe.connect_ex(name)
    if code == errno.ECONNREFUSED:
        return True
    raise UsageError(
        f"{shown}: a server answers there already",
        hint="end that one, or name another socket",
    )
