"""Turns the first blocks of a compressed kernel dump into its header, bitmaps and descriptors.

Layouts: makedumpfile's ``diskdump_mod.h`` (``disk_dump_header``, ``kdump_sub_header``,
``page_desc``) for 64-bit machines of little-endian order, versions 1 to 6.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...errors import DumpError
from ..elf_headers import Bytes

MAGIC = b"KDUMP   "

#: Methods of packing, of a whole dump (in its status) and of a page (in its descriptor).
ZLIB, LZO, SNAPPY, ZSTD = 1, 2, 4, 0x20
INCOMPLETE = 8

_MACHINE_AT, _MACHINE_SIZE = 12 + 4 * 65, 65  # new_utsname.machine
_GEOMETRY = struct.Struct("<IiiII")  # status, block_size, sub_hdr_size, bitmap_blocks, max_mapnr
_GEOMETRY_AT = 424
_SUB = struct.Struct("<QiiQQQQQQQQQQQ")
#: Bytes of a bitmap that are decoded at a time.
_BITMAP = 1 << 20
_DESCRIPTOR = np.dtype([("offset", "<u8"), ("size", "<u4"), ("flags", "<u4"), ("page", "<u8")])


@dataclass(frozen=True, slots=True)
class KdumpHeader:
    """What the header says.

    Parameters
    ----------
    version, status
        Of the format; flags.
    machine
        ``uname -m``; empty or ``"Unknown"`` where the writer left it out.
    block_size
        Bytes of what is packed as a page: QEMU's is 64 KiB on ARM, whatever the kernel's is.
    bitmaps, bitmap_size
        Where the two bitmaps are, bytes of both.
    descriptors
        Where the table of the pages is.
    frames
        Page frames that the bitmaps tell of.
    pieces
        First and last frame (exclusive) of this file, of a dump that was split into several.
    phys_base
        Where an x86-64 kernel lies (modulo 2**64).
    notes, vmcoreinfo
        Offset and size of the ELF notes, and of VMCOREINFO alone; zeros if there are none.
    """

    version: int
    status: int
    machine: str
    block_size: int
    bitmaps: int
    bitmap_size: int
    descriptors: int
    frames: int
    pieces: tuple[int, int] | None
    phys_base: int
    notes: tuple[int, int]
    vmcoreinfo: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages that the file holds; columns, ``(n,)``, by `frame`.

    Parameters
    ----------
    frame
        Page frame number.
    offset, size, flags
        Where its data are, how long, how they are packed.
    absent
        Page frames that exist and that the file does not hold.
    lost
        Pages whose descriptors lie beyond the end of the file.
    """

    frame: NDArray[np.int64]
    offset: NDArray[np.uint64]
    size: NDArray[np.uint32]
    flags: NDArray[np.uint32]
    absent: int
    lost: int


def read_kdump_header(data: Bytes, path: str) -> KdumpHeader:
    """Decode the header.

    Raises
    ------
    DumpError
        Cut off inside it, or it contradicts itself.
    """
    head = data[: _GEOMETRY_AT + _GEOMETRY.size].tobytes()
    if len(head) < _GEOMETRY_AT + _GEOMETRY.size:
        raise _damaged("ends inside its header", path)
    (version,) = struct.unpack_from("<i", head, 8)
    status, block_size, sub_blocks, bitmap_blocks, frames = _GEOMETRY.unpack_from(
        head, _GEOMETRY_AT
    )
    if block_size not in (4096, 16384, 65536) or not 1 <= sub_blocks <= 1 << 16:
        raise _damaged(
            f"has a header of unknown layout (blocks of {block_size} bytes, {sub_blocks} for the "
            "sub-header): of a 32-bit or big-endian machine, or damaged",
            path,
        )
    raw = data[block_size : block_size + _SUB.size].tobytes()
    if len(raw) < _SUB.size:
        raise _damaged("ends inside its sub-header", path)
    phys_base, _, split, begin, end, *rest = _SUB.unpack(raw)
    vmcoreinfo, notes, begin_64, end_64, frames_64 = rest[:2], rest[2:4], *rest[6:]
    if version >= 6:
        begin, end, frames = begin_64, end_64, frames_64
    bitmap_size = bitmap_blocks * block_size
    bitmaps = block_size * (1 + sub_blocks)
    if bitmaps + bitmap_size > data.size:
        raise _damaged(f"ends inside its bitmaps ({data.size:,} bytes)", path)
    if frames > bitmap_size * 4:
        raise _damaged(f"has bitmaps too small for {frames:,} page frames", path)
    return KdumpHeader(
        version,
        status,
        head[_MACHINE_AT : _MACHINE_AT + _MACHINE_SIZE].split(b"\0")[0].decode("latin-1"),
        block_size,
        bitmaps,
        bitmap_size,
        bitmaps + bitmap_size,
        frames,
        (begin, end) if version >= 2 and split > 0 else None,
        phys_base,
        (notes[0], notes[1]) if version >= 4 else (0, 0),
        (vmcoreinfo[0], vmcoreinfo[1]) if version >= 3 else (0, 0),
    )


def read_pages(data: Bytes, header: KdumpHeader) -> Pages:
    """Decode the bitmaps and the descriptors of the pages."""
    room = max(0, data.size - header.descriptors) // _DESCRIPTOR.itemsize
    first, last = header.pieces or (0, header.frames)
    half = header.bitmap_size // 2
    found: list[NDArray[np.int64]] = []
    kept = absent = 0
    # Some at a time: a bitmap of ones alone would make arrays 64 times as large as the file.
    for begin in range(0, min(half, -(-header.frames // 8)), _BITMAP):
        end = min(begin + _BITMAP, half)
        exists, dumped = (
            np.unpackbits(data[at + begin : at + end], bitorder="little").view(bool)
            for at in (header.bitmaps, header.bitmaps + half)
        )
        frame = np.flatnonzero(dumped) + 8 * begin
        # Of a dump in several files, the bitmaps tell of all, the descriptors of this file's.
        mine = frame[(frame >= first) & (frame < last)]
        absent += int(np.count_nonzero(exists & ~dumped)) + frame.size - mine.size
        found.append(mine[: max(0, room - kept)])
        kept += mine.size
    frame = np.concatenate([np.zeros(0, np.int64), *found])
    held = frame.size
    end = header.descriptors + held * _DESCRIPTOR.itemsize
    table = data[header.descriptors : end].view(_DESCRIPTOR)
    offset, size, flags = (np.ascontiguousarray(table[n]) for n in ("offset", "size", "flags"))
    return Pages(frame, offset, size, flags, absent, kept - held)


def _damaged(what: str, path: str) -> DumpError:
    return DumpError(what, path=path, hint="the dump was cut off or damaged: copy it again")
