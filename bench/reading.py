"""Turns memory into the seconds that merely reading it takes: what a scan is held against."""

from __future__ import annotations

import ctypes
import time
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .building import build_library

#: Bytes that tell a machine's bandwidth: far more than its caches hold.
YARDSTICK = 1 << 28


@cache
def _reader() -> Any:
    function = ctypes.CDLL(str(build_library("reading.c", "-O3"))).read_all
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    function.restype = ctypes.c_uint64
    return function


def seconds_to_read(memory: NDArray[Any]) -> float:
    """Read an array once, from its first byte to its last, by one thread; return the seconds."""
    read = _reader()
    began = time.perf_counter()
    read(memory.ctypes.data, memory.nbytes)
    return time.perf_counter() - began


@cache
def _yardstick() -> NDArray[np.uint64]:
    return np.ones(YARDSTICK // 8, dtype=np.uint64)


def bandwidth(passes: int) -> float:
    """Return the bytes a second at which this machine reads right now: the best pass of some."""
    memory = _yardstick()
    return memory.nbytes / min(seconds_to_read(memory) for _ in range(passes))
