"""Turns gzip files into their members, and members into bytes.

How long a member is stands nowhere but in BGZF (bgzip, samtools), which notes it in each header:
only that is cut into units. A member's header is read here, so that what came before a
damaged end is not lost with it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

from . import DamagedError, Unit

_MAGIC = b"\x1f\x8b\x08"
_HCRC, _EXTRA, _NAME, _COMMENT = 2, 4, 8, 16
#: Deflate unpacks to 1032 times its size at most.
_PIECE = 32 << 10
_LONGEST_NAME = 64 << 10


class Gzip:
    """See `Packing`."""

    name = "gzip"

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """See `Packing`."""
        return (zlib.error,)

    def matches(self, head: bytes) -> bool:
        """See `Packing`."""
        return head.startswith(_MAGIC)

    def units(self, data: memoryview) -> Iterator[Unit]:
        """See `Packing`."""
        at = 0
        while size := _bgzf_size(data, at):
            yield Unit(at, at + size, int.from_bytes(data[at + size - 4 : at + size], "little"))
            at += size
        if at < len(data):
            yield Unit(at, len(data))

    def unpack(self, data: memoryview, unit: Unit) -> Iterator[bytes]:
        """See `Packing`."""
        data = data[: unit.end]
        at = unit.begin
        while at < unit.end:
            at = _body(data, at)
            body = zlib.decompressobj(-zlib.MAX_WBITS)
            check = size = 0
            while not body.eof:
                raw = data[at : at + _PIECE]
                if not raw:
                    raise EOFError("the last member is incomplete")
                at += len(raw)
                piece = body.decompress(raw)
                check = zlib.crc32(piece, check)
                size += len(piece)
                yield piece
            at += 8 - len(body.unused_data)
            if at > unit.end:
                raise EOFError("the last member is incomplete")
            if struct.unpack("<II", data[at - 8 : at]) != (check, size & 0xFFFFFFFF):
                raise DamagedError("its checksum is wrong")
            # Zeros between members, and after the last one, are padding.
            while at < unit.end and data[at] == 0:
                at += 1


def _bgzf_size(data: memoryview, at: int) -> int:
    """Return the length of a member that tells it in its header; 0 for any other."""
    head = bytes(data[at : at + 18])
    if len(head) < 18 or not head.startswith(_MAGIC + b"\x04") or head[12:16] != b"BC\x02\x00":
        return 0
    size = int.from_bytes(head[16:18], "little") + 1
    most = int.from_bytes(data[at + size - 4 : at + size], "little")
    return size if size > 26 and at + size <= len(data) and most <= 1 << 16 else 0


def _body(data: memoryview, at: int) -> int:
    """Return where the deflated data of a member begin (RFC 1952)."""
    head = bytes(data[at : at + 10])
    if not _MAGIC.startswith(head[:3]):
        raise DamagedError("what follows is no gzip member")
    if len(head) < 10:
        raise EOFError("the header of the last member is incomplete")
    flags = head[3]
    at += 10
    if flags & _EXTRA:
        at += 2 + int.from_bytes(data[at : at + 2], "little")
    for flag in (_NAME, _COMMENT):
        if flags & flag:
            length = bytes(data[at : at + _LONGEST_NAME]).find(b"\0")
            if length < 0:
                raise EOFError("the header of the last member is incomplete")
            at += length + 1
    return at + 2 if flags & _HCRC else at
