"""Turns pieces of memory into a sparse file: blocks of zeros take no room."""

from __future__ import annotations

import os

import numpy as np

BLOCK = 4096


def write_sparse(descriptor: int, piece: bytes | bytearray | memoryview, at: int) -> int:
    """Write what is not zero.

    Parameters
    ----------
    descriptor
        A file that holds zeros, or nothing, there.
    piece
        The bytes.
    at
        Offset in the file.

    Returns
    -------
    int
        Bytes written.
    """
    view = memoryview(piece)
    data = np.frombuffer(view, dtype=np.uint8)
    whole = data.size // BLOCK * BLOCK
    words = data[:whole].view(np.uint64).reshape(-1, BLOCK // 8)
    # Hardly a block begins with zeros that is not all zeros: only those are looked through.
    used = words[:, 0] != 0
    doubtful = np.flatnonzero(~used)
    used[doubtful] = words[doubtful].any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], used, [0])).astype(np.int8)))
    written = 0
    for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        written += write_all(descriptor, view[begin * BLOCK : end * BLOCK], at + begin * BLOCK)
    if whole < data.size:
        written += write_all(descriptor, view[whole:], at + whole)
    return written


def write_all(descriptor: int, piece: bytes | memoryview, at: int) -> int:
    """Write all bytes at an offset; returns how many."""
    view = memoryview(piece)
    while view:
        done = os.pwrite(descriptor, view, at)
        view, at = view[done:], at + done
    return len(piece)
