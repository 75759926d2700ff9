"""Turns the mapped modules' program headers into the size of a thread's static TLS."""

from __future__ import annotations

import struct

from .dump import Dump
from .errors import FaultError

_PT_TLS = 7
#: A module has a handful of program headers.
_MOST_HEADERS = 256


def static_tls_size(dump: Dump) -> int | None:
    """Add up the thread-local storage of every module whose ELF header the dump holds.

    Modules that were loaded later have theirs elsewhere: the sum is an upper bound. Layouts:
    System V gABI, chapter 5.

    Parameters
    ----------
    dump
        Its mapped files name the modules.

    Returns
    -------
    int or None
        Bytes; None where no module's header can be read.
    """
    total, seen = 0, False
    for file in dump.files:
        if file.file_offset:
            continue
        size = _tls_of(dump, file.address)
        if size is not None:
            seen = True
            total += size
    return total if seen else None


def _tls_of(dump: Dump, base: int) -> int | None:
    image = dump.image
    order = "<" if image.byteorder == "little" else ">"
    wide = image.word_size == 8
    try:
        head = image.read(base, 64 if wide else 52)
        if head[:4] != b"\x7fELF":
            return None
        if wide:
            (offset,) = struct.unpack_from(order + "Q", head, 32)
            size, count = struct.unpack_from(order + "HH", head, 54)
        else:
            (offset,) = struct.unpack_from(order + "I", head, 28)
            size, count = struct.unpack_from(order + "HH", head, 42)
        if size != (56 if wide else 32) or count > _MOST_HEADERS:
            return None
        table = image.read(base + offset, size * count)
    except FaultError:
        return None
    total = 0
    for at in range(0, len(table), size):
        (kind,) = struct.unpack_from(order + "I", table, at)
        if kind == _PT_TLS:
            if wide:
                memory, alignment = struct.unpack_from(order + "QQ", table, at + 40)
            else:
                (memory,) = struct.unpack_from(order + "I", table, at + 20)
                (alignment,) = struct.unpack_from(order + "I", table, at + 28)
            alignment = max(1, min(alignment, 4096))
            total += -(-memory // alignment) * alignment
    return total
