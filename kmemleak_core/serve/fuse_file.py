"""Turns a folder into one that holds a detector's control file, as debugfs does (FUSE).

``echo scan > folder/kmemleak; cat folder/kmemleak``: error numbers come back from ``write``, the
words that go with them, and what ``dump=``, ``stats`` and ``help`` tell, go to the log
``kmemleak_core``, for a write has no answer. Needs the extra ``[fuse]`` (mfusepy) and libfuse.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import importlib
import itertools
import logging
import os
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from ..control import ControlFile, Detector, OpenFile
from ..errors import ControlError, UsageError
from ..report.escape import printable

log = logging.getLogger("kmemleak_core")

#: The name of the file in the folder.
NAME = "kmemleak"

#: Seconds until a mount that does not come, or go, is an error.
_TIMEOUT = 10.0
#: Requests at once: each command that waits for its turn takes one.
_MAX_THREADS = 64
_IDLE_THREADS = 4
#: umount2(2): out of the tree at once, closed when the last user has closed it.
_MNT_DETACH = 2


def mount(detector: Detector | ControlFile, folder: str | os.PathLike[str]) -> FuseFile:
    """Mount a folder with one file, ``kmemleak`` (mode 0600), until the mount is closed.

    Parameters
    ----------
    detector
        The detector, or its control file.
    folder
        An empty folder. What a server that was killed left mounted there is unmounted first.

    Returns
    -------
    FuseFile
        Mounted already; close it, or use it as a context manager.

    Raises
    ------
    UsageError
        mfusepy or libfuse is missing, FUSE may not be used here, or the folder is none.
    """
    library = _library()
    control = detector if isinstance(detector, ControlFile) else ControlFile(detector)
    where = Path(folder).absolute()
    _check(where)
    return FuseFile(control, where, library)


class FuseFile:
    """A control file in a mounted folder; see `mount`."""

    def __init__(self, control: ControlFile, folder: Path, library: Any) -> None:
        self.folder = folder
        self._operations = _Operations(control, library)
        self._process = os.getpid()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(
            target=self._loop, args=(library,), name="kmemleak-fuse", daemon=True
        )
        # libfuse takes these signals for itself where nobody has; they are given back.
        taken = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
        self._thread.start()
        deadline = time.monotonic() + _TIMEOUT
        while not self._operations.ready.wait(0.05):
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self.close()
                raise UsageError(
                    f"{printable(str(folder))}: cannot mount: libfuse gives {self._failure!r}",
                    hint="its own message is on the standard error",
                )
        _give_back(taken)
        atexit.register(self.close)

    @property
    def path(self) -> Path:
        """The control file."""
        return self.folder / NAME

    def close(self) -> None:
        """Unmount; commands that go on are interrupted, files that are open become useless."""
        if self._process != os.getpid():  # a forked child leaves it alone
            return
        atexit.unregister(self.close)
        self._operations.closing.set()
        if self._thread.is_alive():
            # A request in whose answer the loop is told to end. It is asked in a thread: if all
            # workers are taken, nobody answers.
            threading.Thread(target=_poke, args=(self.folder,), daemon=True).start()
            self._thread.join(_TIMEOUT)
        if self._thread.is_alive():
            _unmount(self.folder)
            self._thread.join(_TIMEOUT)

    def __enter__(self) -> FuseFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<FuseFile at {printable(str(self.path))}>"

    def _loop(self, library: Any) -> None:
        # direct_io: the size, 0 as in debugfs, does not bound a read, and nothing is cached.
        options: dict[str, Any] = {"direct_io": True, "default_permissions": True}
        version = (library.fuse_version_major, library.fuse_version_minor)
        if version >= (3, 12):
            # libfuse 3.14 complains on stderr about its own default of the second.
            options |= {"max_threads": _MAX_THREADS, "max_idle_threads": _IDLE_THREADS}
        try:
            library.FUSE(
                self._operations,
                os.fspath(self.folder),
                foreground=True,
                fsname=NAME,
                attr_timeout=0,
                **options,
            )
        except BaseException as error:
            self._failure = error


class _Operations:
    """What libfuse asks, each call in a thread of its own."""

    use_ns = True

    def __init__(self, control: ControlFile, library: Any) -> None:
        self.ready = threading.Event()
        self.closing = threading.Event()
        self._control = control
        self._library = library
        self._files: dict[int, OpenFile] = {}
        self._numbers = itertools.count(1)
        self._born = time.time_ns()

    def init(self, path: str) -> None:
        self.ready.set()

    def statfs(self, path: str) -> dict[str, int]:
        if self.closing.is_set():
            self._library.fuse_exit()
        return {"f_bsize": 4096, "f_namemax": 255}

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        modes = {"/": stat.S_IFDIR | 0o700, f"/{NAME}": stat.S_IFREG | 0o600}
        if path not in modes:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        times = dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), self._born)
        owner = {"st_uid": os.getuid(), "st_gid": os.getgid()}
        return {"st_mode": modes[path], "st_nlink": 2 if path == "/" else 1, **owner, **times}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", NAME]

    def open(self, path: str, flags: int) -> int:
        number = next(self._numbers)
        self._files[number] = self._control.open(wait=not flags & os.O_NONBLOCK)
        return number

    def release(self, path: str, fh: int) -> int:
        self._files.pop(fh, None)
        return 0

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        return 0  # the shell's ">" does it

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        with _numbered(f"reading {NAME}"):
            return self._files[fh].read(size, offset, interrupted=self._interrupted())

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        with _numbered(f"writing {NAME}"):
            return self._files[fh].write(data, interrupted=self._interrupted())

    def _refuse(self, *_: object) -> int:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    create = mkdir = mknod = rename = rmdir = symlink = link = unlink = _refuse

    def _interrupted(self) -> Callable[[], bool]:
        """Return what tells whether the client of the present request was interrupted or killed."""
        libfuse = getattr(self._library, "_libfuse", None)
        asked = getattr(libfuse, "fuse_interrupted", None)
        thread = threading.get_ident()

        def interrupted() -> bool:
            if self.closing.is_set():
                return True
            # libfuse knows the request by its thread, and crashes in any other.
            return asked is not None and threading.get_ident() == thread and bool(asked())

        return interrupted


@contextmanager
def _numbered(what: str) -> Iterator[None]:
    """Turn whatever goes wrong into an error number; the words go to the log."""
    try:
        yield
    except ControlError as error:
        log.info("%s: %s", what, error)
        raise OSError(error.errno, str(error)) from None
    except Exception as error:
        log.exception("%s failed", what)
        raise OSError(errno.EIO, str(error)) from None


_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)


def _give_back(numbers: list[signal.Signals]) -> None:
    """Make signals end the process again; Python's own call works in the main thread only."""
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes = (ctypes.c_int, ctypes.c_void_p)
    set_handler.restype = ctypes.c_void_p
    for number in numbers:
        set_handler(int(number), None)  # None: NULL, which is SIG_DFL


def _library() -> Any:
    try:
        return importlib.import_module("mfusepy")
    except ImportError as error:
        raise UsageError(
            "the control file as a real file needs the package mfusepy",
            hint="pip install 'kmemleak-core[fuse]'",
        ) from error
    except (OSError, AttributeError) as error:  # that is how it says that libfuse is missing
        raise UsageError(
            f"the control file as a real file needs libfuse: {error}",
            hint="apt-get install fuse3",
        ) from error


def _check(folder: Path) -> None:
    """See that the folder can be mounted upon; take away what a killed server left there."""
    shown = printable(str(folder))
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise UsageError(
            f"/dev/fuse: {error.strerror}: FUSE cannot be used here",
            hint="modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN",
        ) from error
    try:
        if os.path.ismount(folder):
            raise UsageError(f"{shown}: something is mounted there already")
        names = os.listdir(folder)
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            _unmount(folder)
            return
        raise UsageError(f"{shown}: {error.strerror}", hint="name an empty folder") from error
    if names:
        raise UsageError(f"{shown}: not empty", hint="name an empty folder")


def _poke(folder: Path) -> None:
    try:
        os.statvfs(folder)
    except OSError:
        return


def _unmount(folder: Path) -> None:
    """Take the mount out of the tree, whoever uses it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(folder), _MNT_DETACH) == 0:
        return
    command = shutil.which("fusermount3") or shutil.which("fusermount")
    if command:
        subprocess.run([command, "-u", "-z", "--", folder], check=False, capture_output=True)
