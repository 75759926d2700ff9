"""Turns a description into the bytes of an ELF core: any class, byte order and machine.

Written from the ELF specification and Linux's headers, apart from the package's own reader and
writer, so that a mistake in those shows.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

EM_386, EM_PPC64, EM_S390, EM_ARM, EM_X86_64, EM_AARCH64 = 3, 21, 22, 40, 62, 183
R, W, X = 4, 2, 1

NT_PRSTATUS, NT_FPREGSET, NT_PRPSINFO, NT_AUXV = 1, 2, 3, 6
NT_FILE = 0x46494C45
PN_XNUM = 0xFFFF


@dataclass
class Load:
    """One PT_LOAD; offset and sizes follow from the data unless they are forged."""

    address: int
    data: bytes
    memsz: int
    flags: int
    offset: int | None
    filesz: int | None


class CoreBuilder:
    """Collects segments and notes; `build` returns the file."""

    def __init__(
        self, bits: int = 64, byteorder: str = "little", machine: int = EM_X86_64, kind: int = 4
    ) -> None:
        self.bits = bits
        self.order = "<" if byteorder == "little" else ">"
        self.word = "I" if bits == 32 else "Q"
        self.machine = machine
        self.kind = kind
        self.loads: list[Load] = []
        self.notes: list[bytes] = []
        self.phentsize = 32 if bits == 32 else 56

    def pack(self, layout: str, *values: int) -> bytes:
        """Pack in the core's byte order; ``w`` stands for a word."""
        return struct.pack(self.order + layout.replace("w", self.word), *values)

    def load(
        self,
        address: int,
        data: bytes = b"",
        *,
        memsz: int | None = None,
        flags: int = R | W,
        offset: int | None = None,
        filesz: int | None = None,
    ) -> CoreBuilder:
        memsz = len(data) if memsz is None else memsz
        self.loads.append(Load(address, data, memsz, flags, offset, filesz))
        return self

    def note(self, name: bytes, kind: int, desc: bytes) -> CoreBuilder:
        name += b"\0"
        self.notes.append(
            self.pack("III", len(name), len(desc), kind)
            + name.ljust(-(-len(name) // 4) * 4, b"\0")
            + desc.ljust(-(-len(desc) // 4) * 4, b"\0")
        )
        return self

    def thread(self, tid: int, registers: list[int], signal: int = 0) -> CoreBuilder:
        """Add an NT_PRSTATUS."""
        desc = self.pack("iii", signal, 0, 0) + self.pack("hh", signal, 0)
        desc += self.pack("ww", 0, 0) + self.pack("iiii", tid, 1, 1, 1) + self.pack("8w", *[0] * 8)
        desc += self.pack(f"{len(registers)}w", *registers) + self.pack("i", 1)
        return self.note(b"CORE", NT_PRSTATUS, desc + bytes(-len(desc) % (self.bits // 8)))

    def files(self, entries: list[tuple[int, int, int, str]], page_size: int = 4096) -> CoreBuilder:
        """Add an NT_FILE: start, end, offset in pages, path."""
        desc = self.pack("ww", len(entries), page_size)
        desc += b"".join(self.pack("www", *entry[:3]) for entry in entries)
        desc += b"".join(entry[3].encode() + b"\0" for entry in entries)
        return self.note(b"CORE", NT_FILE, desc)

    def auxv(self, pairs: dict[int, int]) -> CoreBuilder:
        flat = [n for pair in (*pairs.items(), (0, 0)) for n in pair]
        return self.note(b"CORE", NT_AUXV, self.pack(f"{len(flat)}w", *flat))

    def prpsinfo(self, pid: int, name: bytes, arguments: bytes, wide_ids: bool) -> CoreBuilder:
        head = bytes(8) + bytes(8) if self.bits == 64 else bytes(4) + bytes(4)
        head += bytes(8) if wide_ids else bytes(4)
        desc = head + self.pack("iiii", pid, 1, 1, 1)
        desc += name.ljust(16, b"\0") + arguments.ljust(80, b"\0")
        return self.note(b"CORE", NT_PRPSINFO, desc)

    def build(self) -> bytes:
        """Lay out as the kernel does: headers, notes, memory page by page, section 0 last."""
        count = len(self.loads) + 1
        ehsize = 52 if self.bits == 32 else 64
        notes = b"".join(self.notes)
        at = ehsize + count * (32 if self.bits == 32 else 56)
        headers = [self._header(4, 0, at, 0, len(notes), 0)]
        body = bytearray(notes)
        begin = at
        body += bytes(-(begin + len(body)) % 4096)
        for load in self.loads:
            offset = begin + len(body)
            body += load.data
            body += bytes(-len(body) % 8)
            headers.append(
                self._header(
                    1,
                    load.flags,
                    offset if load.offset is None else load.offset,
                    load.address,
                    len(load.data) if load.filesz is None else load.filesz,
                    load.memsz,
                )
            )
        shoff = 0
        if count >= PN_XNUM:
            shoff = begin + len(body)
            # name, type, flags, addr, offset, size, link, info = the true count, align, entsize
            body += self.pack("IIwwwwIIww", 0, 0, 0, 0, 0, 1, 0, count, 0, 0)
        ident = b"\x7fELF" + bytes([self.bits // 32, 1 if self.order == "<" else 2, 1]) + bytes(9)
        header = ident + self.pack(
            "HHIwwwIHHHHHH",
            self.kind,
            self.machine,
            1,
            0,
            ehsize,
            shoff,
            0,
            ehsize,
            self.phentsize,
            min(count, PN_XNUM),
            64 if shoff else 0,
            1 if shoff else 0,
            0,
        )
        return header + b"".join(headers) + bytes(body)

    def _header(
        self, kind: int, flags: int, offset: int, address: int, filesz: int, memsz: int
    ) -> bytes:
        if self.bits == 64:
            return self.pack("IIQQQQQQ", kind, flags, offset, address, 0, filesz, memsz, 4096)
        return self.pack("IIIIIIII", kind, offset, address, 0, filesz, memsz, flags, 4096)
