"""Turns an npz file into arrays, without believing what it says about its size."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DumpError
from .source import Source

#: An npz file may say that it unpacks to this many times its size.
_MAX_EXPANSION = 1100


def read_arrays(source: Source, choose: Callable[[str], str | None]) -> dict[str, NDArray[Any]]:
    """Read the arrays of an npz file that are wanted.

    Parameters
    ----------
    source
        The file.
    choose
        Gets the name of an array and returns the name to give it, None to pass it over.

    Returns
    -------
    dict
        Arrays of one dimension and equal length.

    Raises
    ------
    DumpError
        No npz file, damaged, with pickled objects, or with arrays that differ in shape.
    """

    def fail(error: object) -> DumpError:
        return DumpError(f"is no npz file that numpy can read: {error}", path=source.path)

    arrays: dict[str, NDArray[Any]] = {}
    try:
        # The stream must be buffered: zipfile reads a few bytes at a time.
        with zipfile.ZipFile(io.BufferedReader(_MapReader(source.data))) as archive:
            size = sum(info.file_size for info in archive.infolist())
            if size > _MAX_EXPANSION * source.data.size:
                raise fail(f"it would unpack to {size:,} bytes")
            for info in archive.infolist():
                name = choose(info.filename.removesuffix(".npy"))
                if name is not None:
                    with archive.open(info) as member:
                        arrays[name] = _read_array(member, info.file_size, _stored(source, info))
    except DumpError:
        raise
    except _FAILURES as error:
        raise fail(error) from None
    if len({a.size for a in arrays.values()}) > 1 or any(a.ndim != 1 for a in arrays.values()):
        shapes = ", ".join(f"{name} {a.shape}" for name, a in arrays.items())
        raise fail(f"its arrays differ in shape ({shapes})")
    return arrays


_FAILURES: tuple[type[Exception], ...] = (
    ValueError, TypeError, OSError, EOFError, MemoryError, OverflowError, RuntimeError,
    SyntaxError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError,
)  # fmt: skip


def _stored(source: Source, info: zipfile.ZipInfo) -> NDArray[np.uint8] | None:
    """Return a member as it lies in the file; None if it is compressed or encrypted."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        return None
    # archive.open() has read this header already and found it right.
    header = source.data[info.header_offset : info.header_offset + 30].tobytes()
    name, extra = struct.unpack_from("<HH", header, 26)
    begin = info.header_offset + 30 + name + extra
    return source.data[begin : begin + info.file_size]


def _read_array(member: Any, size: int, stored: NDArray[np.uint8] | None) -> NDArray[Any]:
    """Read one array, in place where it is stored plainly: a column can be gigabytes."""
    version = np.lib.format.read_magic(member)
    read: Callable[[Any], Any] = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read(member)
    count = int(np.prod(shape, dtype=object))
    # The header is not to be believed: it decides on an allocation.
    if dtype.hasobject or count < 0 or count * max(1, dtype.itemsize) > size:
        raise ValueError(f"an array of {shape} {dtype} in {size} bytes")
    if stored is not None:
        # Its checksum stays unread: whatever the numbers are, they are checked where they are used.
        begin = member.tell()
        raw = stored[begin : begin + count * dtype.itemsize].data
    else:
        raw = member.read(count * dtype.itemsize)
    return np.frombuffer(raw, dtype=dtype, count=count).reshape(shape)


class _MapReader(io.RawIOBase):
    """The bytes of a source as a seekable file, without a copy."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._at, int(self._data.size))[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        piece = self._data[self._at : self._at + len(view)]
        view[: piece.size] = piece.tobytes()
        self._at += int(piece.size)
        return int(piece.size)
