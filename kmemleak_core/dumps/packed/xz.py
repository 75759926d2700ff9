"""Turns xz files into their blocks, and blocks into bytes.

The index at the end of a stream tells how long its blocks are (the .xz file format 1.2.1,
section 4). A block, with a header before it and an index of its own behind it, is a file of its
own, whose check liblzma verifies as ever. ``xz -T`` writes many blocks, other writers one.
"""

from __future__ import annotations

import io
import lzma
import zlib
from collections.abc import Iterator
from typing import IO, Any, cast

from . import Unit

_MAGIC = b"\xfd7zXZ\x00"
_PIECE = 1 << 20
#: More blocks than that would be tiny ones: they are not worth a list.
_MOST_BLOCKS = 1 << 16


class Xz:
    """See `Packing`."""

    name = "xz"

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """See `Packing`."""
        return (lzma.LZMAError,)

    def matches(self, head: bytes) -> bool:
        """See `Packing`."""
        return head.startswith(_MAGIC)

    def units(self, data: memoryview) -> Iterator[Unit]:
        """See `Packing`."""
        streams = _streams(data)
        if not streams:
            yield Unit(0, len(data))
            return
        for begin, blocks in reversed(streams):
            header = bytes(data[begin : begin + 12])
            at = begin + 12
            for unpadded, size in blocks:
                end = at + (unpadded + 3 & ~3)
                yield Unit(at, end, size, header, _ending(header, unpadded, size))
                at = end

    def unpack(self, data: memoryview, unit: Unit) -> Iterator[bytes]:
        """See `Packing`."""
        with lzma.LZMAFile(cast(IO[bytes], _UnitReader(data, unit))) as stream:
            # Unlike read(), read1() hands out what there was before a damaged place.
            while piece := stream.read1(_PIECE):
                yield piece


class _UnitReader(io.RawIOBase):
    """A unit, with what belongs before and behind it, as a file."""

    def __init__(self, data: memoryview, unit: Unit) -> None:
        self._parts = [memoryview(unit.head), data[unit.begin : unit.end], memoryview(unit.tail)]

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._parts and not self._parts[0]:
            del self._parts[0]
        if not self._parts:
            return 0
        size = min(len(buffer), len(self._parts[0]))
        buffer[:size] = self._parts[0][:size]
        self._parts[0] = self._parts[0][size:]
        return size


def _streams(data: memoryview) -> list[tuple[int, list[tuple[int, int]]]]:
    """Find where each stream begins and how long its blocks are, the last stream first.

    Returns nothing where the file does not end with streams whose indices are right.
    """
    streams: list[tuple[int, list[tuple[int, int]]]] = []
    room = _MOST_BLOCKS
    at = len(data)
    while at:
        while at >= 4 and not any(data[at - 4 : at]):
            at -= 4
        footer = bytes(data[max(0, at - 12) : at])
        if len(footer) < 12 or footer[10:] != b"YZ" or footer[:4] != _crc(footer[4:10]):
            return []
        index_size = (int.from_bytes(footer[4:8], "little") + 1) * 4
        index_at = at - 12 - index_size
        if index_at < 12 or index_size > 20 * _MOST_BLOCKS:
            return []
        blocks = _index(bytes(data[index_at : index_at + index_size]))
        begin = index_at - 12 - sum(unpadded + 3 & ~3 for unpadded, _ in blocks)
        room -= len(blocks)
        if not blocks or room < 0 or begin < 0:
            return []
        header = bytes(data[begin : begin + 12])
        if not header.startswith(_MAGIC) or header[6:8] != footer[8:10]:
            return []
        streams.append((begin, blocks))
        at = begin
    return streams


def _index(raw: bytes) -> list[tuple[int, int]]:
    """Read the unpadded and the unpacked size of each block; nothing if the index is damaged."""
    if raw[:1] != b"\0" or raw[-4:] != _crc(raw[:-4]):
        return []
    numbers = []
    value = shift = 0
    for byte in raw[1:-4]:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
        elif shift > 56:
            return []
    count, sizes = numbers[0], numbers[1:]
    # What follows the records is padding of up to three zeros.
    if not 0 < count <= _MOST_BLOCKS or not 2 * count <= len(sizes) <= 2 * count + 3:
        return []
    return list(zip(sizes[: 2 * count : 2], sizes[1 : 2 * count : 2], strict=True))


def _ending(header: bytes, unpadded: int, size: int) -> bytes:
    """Make the index and the footer of a stream of one block."""
    index = b"\0\x01" + _number(unpadded) + _number(size)
    index += bytes(-len(index) % 4)
    index += _crc(index)
    footer = (len(index) // 4 - 1).to_bytes(4, "little") + header[6:8]
    return index + _crc(footer) + footer + b"YZ"


def _number(value: int) -> bytes:
    raw = bytearray()
    while value >= 0x80:
        raw.append(value & 0x7F | 0x80)
        value >>= 7
    raw.append(value)
    return bytes(raw)


def _crc(raw: bytes) -> bytes:
    return zlib.crc32(raw).to_bytes(4, "little")
