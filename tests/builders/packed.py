"""Packs bytes in every compressed format, in one unit and in many, as the formats' tools do."""

from __future__ import annotations

import gzip
import lzma
import struct
import zlib
from collections.abc import Callable

import lz4.frame
import zstandard

#: Format → first bytes.
MAGIC = {
    "zstd": b"\x28\xb5\x2f\xfd",
    "gzip": b"\x1f\x8b\x08",
    "xz": b"\xfd7zXZ\x00",
    "lz4": b"\x04\x22\x4d\x18",
}
_SKIPPABLE = 0x184D2A50


def _zstd_streamed(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(raw)


def zstd_frames(raw: bytes, size: int = 300_000) -> bytes:
    """Many frames that do not tell their sizes, each behind a skippable one: as ``pzstd``."""
    packed = b""
    for at in range(0, len(raw), size):
        frame = _zstd_streamed(raw[at : at + size])
        packed += struct.pack("<III", _SKIPPABLE, 4, len(frame)) + frame
    return packed


def zstd_checked_frames(raw: bytes, size: int = 2_000_000) -> bytes:
    """Many frames with their sizes and checksums."""
    packer = zstandard.ZstdCompressor(write_checksum=True)
    return b"".join(packer.compress(raw[at : at + size]) for at in range(0, len(raw), size))


def bgzf(raw: bytes, size: int = 65280) -> bytes:
    """Members of at most 64 KiB that tell their length, and an empty one: as ``bgzip``."""
    packed = b""
    for at in [*range(0, len(raw), size), len(raw)]:
        piece = raw[at : at + size]
        packer = zlib.compressobj(6, wbits=-15)
        body = packer.compress(piece) + packer.flush()
        head = b"\x1f\x8b\x08\x04" + bytes(6) + struct.pack("<H2sHH", 6, b"BC", 2, len(body) + 25)
        packed += head + body + struct.pack("<II", zlib.crc32(piece), len(piece))
    return packed


def gzip_with_every_field(raw: bytes) -> bytes:
    """One member whose header has all that a header can have."""
    packer = zlib.compressobj(6, wbits=-15)
    body = packer.compress(raw) + packer.flush()
    head = b"\x1f\x8b\x08\x1f" + bytes(6) + struct.pack("<H", 5) + b"extra" + b"name\0" + b"words\0"
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    return head + body + struct.pack("<II", zlib.crc32(raw), len(raw)) + bytes(7)


def _number(value: int) -> bytes:
    raw = b""
    while value >= 0x80:
        raw, value = raw + bytes([value & 0x7F | 0x80]), value >> 7
    return raw + bytes([value])


def xz_blocks(raw: bytes, size: int = 500_000) -> bytes:
    """One stream of many blocks: as ``xz -T2 --block-size``."""
    records = []
    blocks = b""
    header = b""
    for at in range(0, len(raw), size):
        piece = raw[at : at + size]
        single = lzma.compress(piece, preset=0)
        header = single[:12]
        index_size = (int.from_bytes(single[-8:-4], "little") + 1) * 4
        block = single[12 : -12 - index_size]
        # The unpadded size stands in the index of the single file, after two one-byte numbers.
        value = shift = 0
        for byte in single[len(single) - 12 - index_size + 2 :]:
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        records.append((value, len(piece)))
        blocks += block
    index = b"\0" + _number(len(records)) + b"".join(_number(a) + _number(b) for a, b in records)
    index += bytes(-len(index) % 4)
    index += struct.pack("<I", zlib.crc32(index))
    footer = struct.pack("<I", len(index) // 4 - 1) + header[6:8]
    footer = struct.pack("<I", zlib.crc32(footer)) + footer + b"YZ"
    return header + blocks + index + footer


def lz4_checked(raw: bytes) -> bytes:
    """Independent blocks with checksums of each and of all: as ``lz4 -BX``."""
    packed: bytes = lz4.frame.compress(
        raw, block_linked=False, block_checksum=True, content_checksum=True
    )
    return packed


#: What tools make of one file, in one unit.
SINGLE: dict[str, Callable[[bytes], bytes]] = {
    "zstd": zstandard.ZstdCompressor().compress,
    "zstd-streamed": _zstd_streamed,
    "gzip": gzip.compress,
    "gzip-fields": gzip_with_every_field,
    "xz": lzma.compress,
    "lz4": lz4.frame.compress,
    "lz4-checked": lz4_checked,
}
#: The same in units that can be unpacked apart.
MANY: dict[str, Callable[[bytes], bytes]] = {
    "zstd-frames": zstd_frames,
    "zstd-checked-frames": zstd_checked_frames,
    "bgzf": bgzf,
    "xz-blocks": xz_blocks,
}
