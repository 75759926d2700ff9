"""Turns a file into an array of its bytes: mapped, its holes as zeros, read ahead.

The kernel fills the page cache with zeros for a hole that is read: 1.4 s a gigabyte here, and
everything else is evicted. Anonymous memory that was never written to is one shared page (a huge
one where it can be) instead.

Pages are mapped ahead by threads of their own, MADV_POPULATE_READ: of a core of 2.1 GB in the page
cache one maps all in 0.13 s, two in 0.07 s, where touching each page takes 0.17 s; of a cold one
they gain nothing. MADV_SEQUENTIAL and MADV_WILLNEED gave nothing, or took longer, in either case.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import threading
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .. import workers
from ..errors import DumpError
from .source import open_regular

#: A shorter hole is not worth a mapping of its own.
_SHORTEST = 1 << 20
#: Looking for holes ends after so many system calls.
_MOST_SEEKS = 1 << 16
#: What is mapped ahead with one call; smaller files are not.
_AHEAD = 8 << 20
#: More threads than these have to wait for each other.
_MOST_THREADS = 4
_MAP_FIXED = 0x10
_POPULATE_READ = 22  # Linux 5.14; an older kernel refuses it


def map_file(descriptor: int) -> NDArray[np.uint8]:
    """Map a whole file, read-only; an empty file gives an empty array.

    Raises
    ------
    OSError
        The file cannot be mapped.
    """
    state = os.fstat(descriptor)
    if state.st_size == 0:
        return np.empty(0, dtype=np.uint8)
    mapped = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    data = np.frombuffer(mapped, dtype=np.uint8)
    taken = state.st_blocks * 512
    if state.st_size - taken >= _SHORTEST:
        _fill_holes(descriptor, data)
    # What does not fit into memory must not be there before it is used.
    if data.size > _AHEAD and taken < _available() // 2:
        helpers = min(_MOST_THREADS, workers.available())
        with contextlib.suppress(RuntimeError):  # no thread can be had
            for first in range(helpers):
                part = (data, first * _AHEAD, helpers * _AHEAD)
                threading.Thread(
                    target=_map_ahead, args=part, name="kmemleak-read-ahead", daemon=True
                ).start()
    return data


def map_readable(path: str | None) -> NDArray[np.uint8] | None:
    """Map a file that is a help, not a need; None without a path, or where it cannot be read."""
    if path is None:
        return None
    try:
        descriptor = open_regular(path)
    except DumpError:
        return None
    try:
        return map_file(descriptor)
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)


def _map_ahead(data: NDArray[np.uint8], first: int, step: int) -> None:
    """Map pieces of a file: the one at an offset, and those at each step behind it."""
    madvise = _libc().madvise  # mmap.madvise() would hold the interpreter's lock
    base = int(data.ctypes.data)
    for at in range(first, data.size, step):
        if madvise(base + at, min(_AHEAD, data.size - at), _POPULATE_READ) != 0:
            return


def _fill_holes(descriptor: int, data: NDArray[np.uint8]) -> None:
    """Map zeros over the holes of a file, the longest ones if there are too many."""
    holes = []
    with contextlib.suppress(OSError):  # a file system that does not tell
        holes = [h for h in _holes(descriptor, data.size) if h[1] - h[0] >= _SHORTEST]
    holes.sort(key=lambda hole: hole[0] - hole[1])
    libc = _libc()
    base = int(data.ctypes.data)
    fixed = mmap.MAP_PRIVATE | _MAP_FIXED
    failed = ctypes.c_void_p(-1).value
    # A hole cuts a mapping in three; a process may have so many, and others want some.
    for begin, end in holes[: _limit("/proc/sys/vm/max_map_count", 1 << 16) // 4]:
        at, size = base + begin, end - begin
        if libc.mmap(at, size, mmap.PROT_READ, fixed | mmap.MAP_ANONYMOUS, -1, 0) != failed:
            libc.madvise(at, size, mmap.MADV_HUGEPAGE)
        elif libc.mmap(at, size, mmap.PROT_READ, fixed, descriptor, begin) != failed:
            return
        else:
            raise OSError(ctypes.get_errno() or errno.ENOMEM, "its holes cannot be mapped")


def _holes(descriptor: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield runs of whole pages that no data were written to, in order."""
    page = mmap.PAGESIZE
    at = 0
    for _ in range(_MOST_SEEKS // 2):
        if at >= size:
            return
        hole = os.lseek(descriptor, at, os.SEEK_HOLE)
        try:
            at = os.lseek(descriptor, hole, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no data behind the hole
                raise
            at = size + -size % page  # the last page is mapped as a whole
        yield hole + -hole % page, at - at % page


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return libc


def _available() -> int:
    """Return how many bytes of memory can be had, page cache included."""
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 0


def _limit(path: str, default: int) -> int:
    with contextlib.suppress(OSError, ValueError), open(path) as file:
        return int(file.read())
    return default
