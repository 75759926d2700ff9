"""Turns a command into the leaks that it left in the kernel, by way of the kernel's kmemleak file.

What test projects write by hand: clear, run, scan, wait until objects are old enough to be
reported, scan again, read. Any file that speaks the same language serves as well.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .errors import KmemleakError, UsageError

if TYPE_CHECKING:
    from .logs.kernel_report import KernelReport

#: Where the kernel has it, if debugfs is mounted where it usually is.
KMEMLEAK_FILE = Path("/sys/kernel/debug/kmemleak")
#: Seconds: the kernel reports no object that was younger when a scan began.
MIN_AGE = 5.0
#: Seconds before leaks are looked at once more.
CONFIRM = 1.0

#: The kernel finds its place again by counting records: between two reads, objects that are
#: freed make it skip others. So much at a time, as syzkaller does.
_PIECE = 128 << 10
_MAX_REPORT = 1 << 30


class KernelFileError(KmemleakError):
    """The kernel's kmemleak file cannot be used.

    Parameters
    ----------
    errno
        What the kernel said.
    message
        What was being done, on which file.
    hint
        What the user can try.
    """

    def __init__(self, errno: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.errno = errno


class RawFile(Protocol):
    """An open file without buffers."""

    def read(self, size: int, /) -> bytes | None:
        """Return some bytes; none at the end."""
        ...

    def write(self, data: bytes, /) -> int | None:
        """Write bytes in one go."""
        ...

    def close(self) -> None:
        """Close the file; errors of a write can come here, too."""
        ...


#: Opens a path for reading (``"r"``) or writing (``"w"``); raises OSError.
Opener = Callable[[str, str], RawFile]


class KernelFile:
    """The file through which the kernel's kmemleak is told what to do, and tells.

    Parameters
    ----------
    path
        Where it is.
    opener
        How it is opened; for tests.
    """

    def __init__(self, path: Path | str = KMEMLEAK_FILE, *, opener: Opener | None = None) -> None:
        self.path = str(path)
        self._open = opener or _open

    def command(self, text: str) -> None:
        """Write one command: ``"scan"``, ``"clear"``, ….

        Raises
        ------
        KernelFileError
            The file is missing, may not be written, or kmemleak refuses.
        """
        # A file of its own each time: writing moves the place at which the next read begins.
        doing = f"{text!r} cannot be written"
        stream = self._opened("w", doing)
        try:
            try:
                stream.write(text.encode())
            finally:
                stream.close()
        except OSError as error:
            raise _refused(self.path, error, text) from None

    def read(self) -> KernelReport:
        """Read the report as it stands; this does not scan.

        Raises
        ------
        KernelFileError
            The file is missing or may not be read.
        """
        from .logs.kernel_report import parse_kernel_report

        stream = self._opened("r", "it cannot be read")
        pieces, size = [], 0
        try:
            while piece := stream.read(_PIECE):
                pieces.append(piece)
                size += len(piece)
                if size > _MAX_REPORT:
                    raise KernelFileError(
                        errno.EFBIG, f"{self.path}: the report is larger than {_MAX_REPORT:,} bytes"
                    )
        except OSError as error:
            raise _not_opened(self.path, error, "it cannot be read") from None
        finally:
            stream.close()
        return parse_kernel_report(io.BytesIO(b"".join(pieces)), path=self.path)

    def _opened(self, mode: str, doing: str) -> RawFile:
        try:
            return self._open(self.path, mode)
        except OSError as error:
            raise _not_opened(self.path, error, doing) from None


@dataclass(slots=True)
class KernelRun:
    """What a run of the ritual gave.

    Parameters
    ----------
    report
        The leaks, and what of the kernel's report was not understood.
    before
        The report from before the command, where it was not cleared; its leaks are not the
        command's.
    status
        The command's exit status; negative: the signal that killed it; None without a command.
    cleared
        Whether what had leaked before was cleared.
    transient
        Objects that were reported, and had references again when scanned once more.
    """

    report: KernelReport
    before: KernelReport | None = None
    status: int | None = None
    cleared: bool = False
    transient: int = 0


def check_kernel(
    file: KernelFile,
    run: Callable[[], int] | None = None,
    *,
    wait: float = MIN_AGE,
    clear: bool = True,
    confirm: float = CONFIRM,
    sleep: Callable[[float], None] = time.sleep,
    tell: Callable[[str], None] | None = None,
) -> KernelRun:
    """Run something, and find what it left behind in the kernel.

    Without anything to run, what leaks now is found, and nothing is cleared.

    Parameters
    ----------
    file
        The kernel's file.
    run
        What to run; returns its exit status.
    wait
        Seconds between the two scans: the first finds what changes, the second reports what is
        old enough and did not.
    clear
        Whether to clear what had leaked before; if not, it is read before, to be left out.
    confirm
        Seconds after which leaks are looked for once more: pointers that were on their way
        between two places have arrived by then.
    sleep, tell
        How to wait; whom to tell what is being done.

    Raises
    ------
    KernelFileError
        The file cannot be used.
    """
    from .logs.kernel_report import KernelReport

    def step(text: str) -> None:
        if tell is not None:
            tell(text)

    result = KernelRun(KernelReport())
    if run is not None:
        step("scanning for what leaks already")
        # Before all else: this tells whether kmemleak works at all, and of one that is disabled
        # clear would throw its last report away. What it finds is cleared, too.
        file.command("scan")
        if clear:
            file.command("clear")
            result.cleared = True
        else:
            result.before = file.read()
        step("running the command")
        result.status = run()
    step("scanning")
    file.command("scan")
    if wait > 0:
        step(f"waiting {wait:g} s until objects are old enough to be reported")
        sleep(wait)
    step("scanning again")
    file.command("scan")
    result.report = file.read()
    if result.report.records and confirm > 0:
        step("scanning once more")
        sleep(confirm)
        file.command("scan")
        first, result.report = result.report, file.read()
        still = {(r.space, r.address, r.size, r.jiffies) for r in result.report.records}
        result.transient = sum(
            (r.space, r.address, r.size, r.jiffies) not in still for r in first.records
        )
        if result.transient:
            result.report.coverage.add(
                "kernel.transient",
                f"{result.transient:,} objects had no references for a moment only",
                count=result.transient,
            )
    if result.before is not None:
        result.before.path = "before the command"
    return result


def _open(path: str, mode: str) -> RawFile:
    found = os.stat(path)
    # A file of the kernel's takes no room.
    if stat.S_ISREG(found.st_mode) and found.st_size and found.st_blocks:
        raise UsageError(
            f"{path} is an ordinary file, not a kernel's kmemleak",
            hint=f"kmemleak parse {path} reads a report that was saved",
        )
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        # Opening a pipe that nobody reads would wait for ever. O_NONBLOCK is no way out: it would
        # also mean not to wait for another's scan.
        raise UsageError(f"{path} is a device, socket or pipe, not a kernel's kmemleak")
    # Nothing is created or cut off: the path may be a wrong one.
    flags = os.O_WRONLY if mode == "w" else os.O_RDONLY
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    return os.fdopen(descriptor, "wb" if mode == "w" else "rb", buffering=0)


def _not_opened(path: str, error: OSError, doing: str) -> KernelFileError:
    """Word why the file cannot be opened or read."""
    code = error.errno or errno.EIO
    if code in (errno.ENOENT, errno.ENOTDIR):
        message, hint = _missing(path)
    elif code == errno.EACCES:
        message, hint = "permission denied", "run it as root: sudo kmemleak kernel …"
    elif code == errno.EPERM:
        message = "the kernel does not permit it"
        hint = "a locked-down kernel (Secure Boot) closes debugfs: boot with lockdown off"
    elif code == errno.EBUSY:
        message, hint = _DISABLED
    elif code == errno.EISDIR:
        message, hint = "is a directory", f"--file {path.rstrip('/')}/kmemleak"
    else:
        message, hint = str(error.strerror or error), ""
    return KernelFileError(code, f"{path}: {doing}: {message}", hint=hint)


def _refused(path: str, error: OSError, command: str) -> KernelFileError:
    """Word why a command is refused by a file that could be opened."""
    code = error.errno or errno.EIO
    if code in (errno.EPERM, errno.EBUSY):
        message, hint = _DISABLED
    elif code == errno.EINVAL:
        message = f"the command {command!r} is not known there"
        hint = "Linux knows it since 2.6.32; is this a kmemleak file at all?"
    else:
        return _not_opened(path, error, f"{command!r} failed")
    return KernelFileError(code, f"{path}: {message}", hint=hint)


_DISABLED = (
    "kmemleak is disabled",
    "dmesg | grep kmemleak tells why (kmemleak=off, an error, no memory left, or off was written "
    "to it); only a reboot, with kmemleak=on on the kernel's command line, turns it on again",
)


def _missing(path: str) -> tuple[str, str]:
    folder = os.path.dirname(path) or "."
    if path != str(KMEMLEAK_FILE):
        return "there is no such file", f"the kernel has it at {KMEMLEAK_FILE}"
    if not os.path.isdir(folder) or not os.path.ismount(folder):
        return "debugfs is not mounted", f"mount -t debugfs nodev {folder} (as root)"
    return (
        "this kernel has no kmemleak",
        "boot one that is built with CONFIG_DEBUG_KMEMLEAK=y (grep DEBUG_KMEMLEAK "
        "/boot/config-$(uname -r) tells)",
    )
