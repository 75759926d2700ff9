"""Turns a dump as QEMU writes it into one as kdump does: whole pages, memory alone, e_ehsize 64.

makedumpfile takes no other: ``python -m tests.vmcore.rig.aligned vmcore.elf aligned.elf``.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import BinaryIO

#: e_phoff, e_shoff at 32; e_ehsize to e_shstrndx at 52; a program header (elf.h).
HEADER, OFFSETS, COUNTS, PROGRAM = 64, "<QQ", "<6H", "<IIQQQQQQ"
LOAD, NOTE = 1, 4
PAGE = 4096


def align(source: Path, target: Path) -> None:
    """Write the dump anew; what is smaller than a megabyte (firmware) is left out."""
    with source.open("rb") as file, target.open("wb") as out:
        head = bytearray(file.read(HEADER))
        (table,) = struct.unpack_from("<Q", head, 32)
        (count,) = struct.unpack_from("<H", head, 56)
        file.seek(table)
        size = struct.calcsize(PROGRAM)
        programs = [struct.unpack(PROGRAM, file.read(size)) for _ in range(count)]
        kept = [p for p in programs if p[0] == NOTE or (p[0] == LOAD and p[5] >= 1 << 20)]
        struct.pack_into(OFFSETS, head, 32, HEADER, 0)
        struct.pack_into(COUNTS, head, 52, HEADER, size, len(kept), 64, 0, 0)
        out.write(head)
        at = HEADER + size * len(kept)
        for kind, flags, _, virtual, physical, length, memory, _ in kept:
            at = at if kind == NOTE else -(-at // PAGE) * PAGE
            step = 4 if kind == NOTE else PAGE
            out.write(
                struct.pack(PROGRAM, kind, flags, at, virtual, physical, length, memory, step)
            )
            at += length
        for program in kept:
            if program[0] == LOAD:
                out.seek(-(-out.tell() // PAGE) * PAGE)
            file.seek(program[2])
            _copy(file, out, program[5])


def _copy(file: BinaryIO, out: BinaryIO, length: int) -> None:
    while length:
        piece = file.read(min(length, 1 << 22))
        if not piece:
            raise EOFError("the dump ends early")
        out.write(piece)
        length -= len(piece)


if __name__ == "__main__":
    align(Path(sys.argv[1]), Path(sys.argv[2]))
