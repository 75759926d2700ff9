"""Reads memory that changes while it is read: buffers, this very process, a callback."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import FaultError, KmemleakError
from .image import ByteOrder, MemoryImage, Segment

#: Ranges that lie closer together than this are read in one go, the gap included.
_NEAR = 512
_PAGE = 4096
#: Only an object of an absurd size makes a longer span: the rest of it is taken as missing, ...
_LONGEST_SPAN = 64 << 20
#: ... as is what follows so many faults in a row, more than a piece of usual length can have.
_MOST_FAULTS = 257


class LiveMemory(Protocol):
    """Memory that a detector scans; every method may be called from any thread."""

    word_size: int
    byteorder: ByteOrder

    def window(self, start: NDArray[np.uint64], size: NDArray[np.uint64]) -> MemoryImage:
        """Return an image that holds at least what can be read of some ranges.

        What cannot be read is missing from it; that is never an error.
        """
        ...

    def write(self, address: int, data: bytes) -> None:
        """Change memory; raises `FaultError` where that cannot be done."""
        ...


class BufferMemory:
    """Live buffers at base addresses: scanned in place, without a copy.

    Parameters
    ----------
    image
        Its segments are views of buffers that the program goes on writing to.
    """

    def __init__(self, image: MemoryImage) -> None:
        self.image = image
        self.word_size = image.word_size
        self.byteorder = image.byteorder

    def window(self, start: NDArray[np.uint64], size: NDArray[np.uint64]) -> MemoryImage:
        """Return the whole image."""
        return self.image

    def write(self, address: int, data: bytes) -> None:
        """Change memory; see `LiveMemory`."""
        view = self.image.view(address, len(data))
        if not view.flags.writeable or self.image.find(address) is not self.image.find(
            address + len(data) - 1
        ):
            raise FaultError(address, f"the memory at {address:#x} cannot be written to")
        view[:] = np.frombuffer(data, dtype=np.uint8)


#: Fills a buffer from an address on and returns how many bytes it could read.
ReadInto = Callable[[int, "NDArray[np.uint8]"], int]


class _CopiedMemory:
    """Memory that is copied, a few ranges at a time, before it is scanned."""

    def __init__(self, word_size: int, byteorder: ByteOrder) -> None:
        self.word_size = word_size
        self.byteorder: ByteOrder = byteorder

    def read_into(self, address: int, out: NDArray[np.uint8]) -> int:
        """Fill a buffer from an address on; return how many bytes came before a fault."""
        raise NotImplementedError

    def window(self, start: NDArray[np.uint64], size: NDArray[np.uint64]) -> MemoryImage:
        """Return a copy of what can be read of the ranges; see `LiveMemory`."""
        segments: list[Segment] = []
        for low, high in _spans(start, size):
            segments.extend(self._read_span(low, high))
        return MemoryImage(segments, word_size=self.word_size, byteorder=self.byteorder)

    def _read_span(self, low: int, high: int) -> list[Segment]:
        high = min(high, low + _LONGEST_SPAN)
        copy = np.empty(high - low, dtype=np.uint8)
        found = []
        begin = at = low
        faults = 0
        while at < high and faults < _MOST_FAULTS:
            got = self.read_into(at, copy[at - low :])
            if got > 0:
                at += got
                faults = 0
                continue
            faults += 1
            if at > begin:
                found.append(Segment(begin, copy[begin - low : at - low]))
            # A fault: what can be read again begins at a page.
            begin = at = (at // _PAGE + 1) * _PAGE
        if begin < at <= high:
            found.append(Segment(begin, copy[begin - low : at - low]))
        return found


class ProcessMemory(_CopiedMemory):
    """The memory of this very process, read so that an unmapped page is a fault and never a crash.

    Reads go through ``process_vm_readv(2)`` on the process itself.

    Parameters
    ----------
    pid
        Another process that may be traced; this one if None.
    """

    def __init__(self, pid: int | None = None) -> None:
        super().__init__(ctypes.sizeof(ctypes.c_void_p), "little" if _little() else "big")
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            self._readv, self._writev = libc.process_vm_readv, libc.process_vm_writev
        except AttributeError:
            raise KmemleakError(
                "this system has no process_vm_readv", hint="describe the memory as buffers"
            ) from None
        for function in (self._readv, self._writev):
            function.restype = ctypes.c_ssize_t
            function.argtypes = [
                ctypes.c_int,
                ctypes.POINTER(_Iovec),
                ctypes.c_ulong,
                ctypes.POINTER(_Iovec),
                ctypes.c_ulong,
                ctypes.c_ulong,
            ]
        self.pid = os.getpid() if pid is None else pid

    def read_into(self, address: int, out: NDArray[np.uint8]) -> int:
        """Fill a buffer from an address on; return how many bytes came before a fault."""
        local = _Iovec(out.ctypes.data, out.size)
        remote = _Iovec(address, out.size)
        got = int(self._readv(self.pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0))
        if got < 0:
            code = ctypes.get_errno()
            if code in (errno.EFAULT, errno.EINVAL):
                return 0
            raise KmemleakError(
                f"reading the memory of process {self.pid}: {os.strerror(code)}",
                hint="the process must be this one, or one that this user may trace",
            )
        return got

    def write(self, address: int, data: bytes) -> None:
        """Change memory; see `LiveMemory`."""
        buffer = ctypes.create_string_buffer(data, len(data))
        local = _Iovec(ctypes.addressof(buffer), len(data))
        remote = _Iovec(address, len(data))
        done = int(self._writev(self.pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0))
        if done != len(data):
            raise FaultError(address, f"the memory at {address:#x} cannot be written to")


class CallbackMemory(_CopiedMemory):
    """Memory behind a function: an emulator's, a debugger's, another machine's.

    Parameters
    ----------
    read
        ``read(address, size)`` returns up to so many bytes; none, or `FaultError`, where it faults.
    write
        ``write(address, data)``; None if memory cannot be changed.
    word_size, byteorder
        As in `MemoryImage`.
    """

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        write: Callable[[int, bytes], None] | None = None,
        *,
        word_size: int = 8,
        byteorder: ByteOrder = "little",
    ) -> None:
        super().__init__(word_size, byteorder)
        self._read = read
        self._write = write

    def read_into(self, address: int, out: NDArray[np.uint8]) -> int:
        """Fill a buffer from an address on; return how many bytes came before a fault."""
        try:
            data = self._read(address, out.size)
        except FaultError:
            return 0
        got = min(len(data), out.size)
        out[:got] = np.frombuffer(data, dtype=np.uint8, count=got)
        return got

    def write(self, address: int, data: bytes) -> None:
        """Change memory; see `LiveMemory`."""
        if self._write is None:
            raise FaultError(address, "this memory cannot be written to: there is no callback")
        self._write(address, data)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _little() -> bool:
    return np.dtype("=u8") == np.dtype("<u8")


def _spans(start: NDArray[np.uint64], size: NDArray[np.uint64]) -> list[tuple[int, int]]:
    """Join ranges that overlap or nearly touch; each span is whole."""
    order = np.argsort(start, kind="stable")
    order = order[size[order] > 0]
    if not order.size:
        return []
    start = start[order]
    end = start + size[order]
    reach = np.maximum.accumulate(end)
    later, before = start[1:], reach[:-1]  # a sum could leave the address space
    apart = np.flatnonzero(later - np.minimum(later, before) > np.uint64(_NEAR))
    first = np.concatenate(([0], apart + 1))
    last = np.append(apart, start.size - 1)
    return list(zip(start[first].tolist(), reach[last].tolist(), strict=True))
