"""Turns writes to the kernel's ``kmemleak`` file into calls of a detector, reads into reports.

One language for three channels: `Kmemleak.control`, the Unix socket and the FUSE file
(`kmemleak_core.serve`) all end in `ControlFile.execute`.
"""

from __future__ import annotations

import errno
import logging
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .control_language import (
    COMMANDS,
    Command,
    Detector,
    Interrupted,
    Request,
    accepted_words,
    help_text,
    shown,
)
from .errors import ControlError, KmemleakError

__all__ = [
    "COMMANDS",
    "Command",
    "ControlError",
    "ControlFile",
    "Detector",
    "OpenFile",
    "accepted_words",
    "help_text",
]

log = logging.getLogger("kmemleak_core")

#: Longest command in bytes, outside `strict_kernel`.
MAX_COMMAND = 1024

#: The kernel's buffer has 64 bytes, the last of which is the terminator: the rest is not seen.
_KERNEL_BYTES = 63
#: Seconds between two looks at whether a waiting caller has gone.
_WAIT_STEP = 0.05


@dataclass
class _Turns:
    """The locks of one detector, shared by all its channels."""

    objects: threading.Lock = field(default_factory=threading.Lock)
    """Held while objects are read or changed: the kernel's ``scan_mutex``."""
    thread: threading.Lock = field(default_factory=threading.Lock)
    """Held while the automatic thread is started or stopped. It is another lock because the
    kernel, which joins the thread with ``scan_mutex`` held, can wait for itself that way."""


_turns: weakref.WeakKeyDictionary[Any, _Turns] = weakref.WeakKeyDictionary()
_turns_lock = threading.Lock()


def _turns_of(detector: Detector) -> _Turns:
    with _turns_lock:
        return _turns.setdefault(detector, _Turns())


class ControlFile:
    """The ``kmemleak`` file of one detector; any number of them share one order of commands.

    Parameters
    ----------
    detector
        What the commands act upon.
    strict_kernel
        Read commands as the kernel does: the first 63 bytes, up to a NUL, compared by their
        beginning and in the kernel's order, without trimming; None: as the detector is.
    """

    def __init__(self, detector: Detector, *, strict_kernel: bool | None = None) -> None:
        self.detector = detector
        self._strict = strict_kernel
        self._turns = _turns_of(detector)

    @property
    def strict_kernel(self) -> bool:
        """Whether commands are read as the kernel reads them."""
        return bool(self.detector.strict_kernel if self._strict is None else self._strict)

    def execute(
        self, data: bytes, *, wait: bool = True, interrupted: Interrupted | None = None
    ) -> str:
        """Execute what was written to the file.

        Parameters
        ----------
        data
            One command; one newline behind it and blanks around it do not matter.
        wait
            Wait while another command or scan goes on; otherwise that is EBUSY.
        interrupted
            Asked while waiting and while scanning whether to give up.

        Returns
        -------
        str
            The reply: empty but for ``dump=``, ``stats`` and ``help``.

        Raises
        ------
        ControlError
            With the error number that the kernel's file would give: EINVAL, ERANGE, EPERM after
            ``off``, EBUSY, EINTR; EIO for what the kernel cannot meet with.
        """
        strict = self.strict_kernel
        text = _kernel_text(data) if strict else _text(data)
        command = next((c for c in COMMANDS if c.matches(text, prefix=strict)), None)
        lock = self._turns.thread if command and command.joins else self._turns.objects
        if command is None:
            self._check_enabled()
            raise ControlError(
                errno.EINVAL,
                f"{shown(text)} is no command; accepted are: {accepted_words(strict=strict)}",
            )
        request = Request(self.detector, text[len(command.word) :], strict, interrupted)
        with self._turn(lock, wait, interrupted), self._numbered():
            if not command.after_off:
                self._check_enabled()
            return command.run(request)

    def read(self, *, wait: bool = True, interrupted: Interrupted | None = None) -> bytes:
        """Return the report: a copy that later commands do not change.

        Parameters
        ----------
        wait, interrupted
            As for `execute`.

        Raises
        ------
        ControlError
            EBUSY or EINTR.
        """
        with self._turn(self._turns.objects, wait, interrupted), self._numbered():
            report = self.detector.read()
        try:
            return report.encode("utf-8", "surrogateescape")  # names hold whatever bytes they held
        except UnicodeEncodeError:
            return report.encode("utf-8", "backslashreplace")

    def open(self, *, wait: bool = True) -> OpenFile:
        """Open the file, for channels whose reads have an offset."""
        return OpenFile(self, wait=wait)

    def _check_enabled(self) -> None:
        if not self.detector.enabled:
            reason = self.detector.disable_reason
            raise ControlError(
                errno.EPERM, f"kmemleak is disabled ({reason}) for good; accepted is: clear"
            )

    @contextmanager
    def _turn(
        self, lock: threading.Lock, wait: bool, interrupted: Interrupted | None
    ) -> Iterator[None]:
        if not lock.acquire(blocking=False):
            if not wait:
                raise ControlError(errno.EBUSY, "another scan or command is being executed")
            if interrupted is None:
                lock.acquire()
            else:
                while not lock.acquire(timeout=_WAIT_STEP):
                    if interrupted():
                        raise ControlError(errno.EINTR, "interrupted while waiting for a scan")
        try:
            if not wait and lock is self._turns.objects and self._scanning():
                raise ControlError(errno.EBUSY, "the automatic scan is going on")
            yield
        finally:
            lock.release()

    def _scanning(self) -> bool:
        return bool(getattr(self.detector, "scanning", False))

    @contextmanager
    def _numbered(self) -> Iterator[None]:
        """Give every error of the detector a number."""
        try:
            yield
        except ControlError:
            raise
        except KmemleakError as error:
            # Somebody switched it off after this command had been let through.
            number = errno.EIO if self.detector.enabled else errno.EPERM
            raise ControlError(number, str(error)) from error
        except MemoryError as error:
            raise ControlError(errno.ENOMEM, "there is not enough memory") from error


class OpenFile:
    """The control file as one opener sees it: reads have offsets, as those of a ``seq_file``.

    A read at offset 0 takes the report anew (so does the kernel's after ``lseek(fd, 0)``), reads
    behind it go on in that same report: whoever reads it in pieces sees each record once and
    whole, whatever is freed meanwhile. (The kernel walks its list anew for each piece.)
    """

    def __init__(self, control: ControlFile, *, wait: bool = True) -> None:
        self._control = control
        self._wait = wait
        self._lock = threading.Lock()
        self._report: bytes | None = None

    def read(self, size: int, offset: int, *, interrupted: Interrupted | None = None) -> bytes:
        """Return at most `size` bytes of the report from `offset`; empty at its end."""
        with self._lock:
            report = self._report
        if report is None or offset == 0:
            report = self._control.read(wait=self._wait, interrupted=interrupted)
            with self._lock:
                self._report = report
        return report[offset : offset + size]

    def write(self, data: bytes, *, interrupted: Interrupted | None = None) -> int:
        """Execute a command, and return how many bytes it took: all, whatever their number.

        As in the kernel a write moves the position of its file: a reader of the same descriptor
        has to ``lseek`` to 0 to see the report from its start.
        """
        reply = self._control.execute(data, wait=self._wait, interrupted=interrupted)
        with self._lock:
            self._report = None  # whoever reads next wants to see what the command did
        for line in reply.splitlines():  # a write has no answer: as in the kernel, the log has it
            log.info("%s", line)
        return len(data)


def _text(data: bytes) -> str:
    """Return the command that the bytes hold, trimmed."""
    if len(data) > MAX_COMMAND:
        raise ControlError(errno.EINVAL, f"a command has at most {MAX_COMMAND} bytes")
    data = data.removesuffix(b"\0")  # a C string, written with its terminator
    return data.removesuffix(b"\n").strip(b" \t").decode("utf-8", "surrogateescape")


def _kernel_text(data: bytes) -> str:
    """Return what the kernel sees of the bytes."""
    return data[:_KERNEL_BYTES].split(b"\0", 1)[0].decode("latin-1")
