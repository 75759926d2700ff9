"""Turns logs into leaks: one module a format, recognised by content."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from io import BufferedReader, RawIOBase
from typing import Any, BinaryIO, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..dumps.compressed import open_source
from ..dumps.packed import packing
from ..errors import DumpError, UsageError
from ..plugins import registered
from .kernel_report import KernelReport, SkippedLine, parse_kernel_report

__all__ = ["KernelReport", "LogFormat", "SkippedLine", "formats", "open_log", "parse_kernel_report"]

_HEAD = 4096


class LogFormat(Protocol):
    """One format of logs that tell of leaks.

    Third parties add theirs through the entry points ``kmemleak_core.logs``: each names a
    callable without parameters that returns such an object.
    """

    name: str

    def matches(self, head: bytes) -> bool:
        """Whether a log with these first bytes (up to 4096) is of this format."""
        ...

    def read(self, stream: BinaryIO, *, path: str = "") -> KernelReport:
        """Read the log to its end; `DumpError` where it is damaged beyond use."""
        ...


def formats() -> Iterator[LogFormat]:
    """Yield every known format: those of the entry points, then ours, which takes any text."""
    for entry in registered("kmemleak_core.logs"):
        yield entry.load()()
    from .kernel_report import KernelReportFormat

    yield KernelReportFormat()


def open_log(path: str | os.PathLike[str], *, format: str | None = None) -> KernelReport:
    """Read a log of any known format, compressed (zstd, gzip, xz, lz4) or not.

    Parameters
    ----------
    path
        The file; ``"-"`` for standard input. Pipes and the kernel's own files are read, too.
    format
        Name of the format; recognised by content if None.

    Raises
    ------
    DumpError
        The file cannot be read, or is no log.
    UsageError
        No format has that name.
    """
    name = os.fspath(path)
    if name == "-":
        return _read(_buffered(sys.stdin.buffer), "standard input", format)
    try:
        with open(name, "rb") as stream:
            packed = packing(stream.peek(_HEAD)[:_HEAD]) is not None
            if not packed or not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return _read(stream, name, format)
            coverage = Coverage()
            source = open_source(name, coverage)
            report = _read(_buffered(_ArrayStream(source.data)), name, format)
            report.coverage.extend(coverage)
            return report
    except FileNotFoundError:
        raise DumpError("no such file", path=name) from None
    except IsADirectoryError:
        raise DumpError("is a directory", path=name, hint="name the report itself") from None
    except PermissionError:
        raise DumpError("may not be read", path=name, hint="read it as root (sudo)") from None
    except (OSError, ValueError) as error:
        raise DumpError(f"cannot be read: {error}", path=name) from None


def _read(stream: BufferedReader, name: str, format: str | None) -> KernelReport:
    known = list(formats())
    if format is not None:
        chosen = next((f for f in known if f.name == format), None)
        if chosen is None:
            names = ", ".join(f.name for f in known)
            raise UsageError(f"no log format is called {format!r}", hint=f"one of: {names}")
        return chosen.read(stream, path=name)
    head = stream.peek(_HEAD)[:_HEAD]
    for candidate in known:
        if candidate.matches(head):
            return candidate.read(stream, path=name)
    raise DumpError(
        f"is no report of leaks (it begins with {head[:8].hex(' ')})",
        path=name,
        hint="give a kernel's /sys/kernel/debug/kmemleak or its console log; cores are read by "
        "kmemleak scan",
    )


def _buffered(stream: BinaryIO | RawIOBase) -> BufferedReader:
    return stream if isinstance(stream, BufferedReader) else BufferedReader(cast(RawIOBase, stream))


class _ArrayStream(RawIOBase):
    """Bytes of an array as a stream, without a copy of them all."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data = data.data
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        target = memoryview(buffer).cast("B")
        piece = self._data[self._at : self._at + len(target)]
        target[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)
