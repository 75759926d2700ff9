"""Turns a description of a small machine into the bytes of its dump, in every known layout.

Written from the formats' descriptions (Intel SDM, Arm ARM, makedumpfile's headers, QEMU's
dump.c), apart from the package's own readers, so that a mistake in those shows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

PAGE = 4096
KERNEL_MAP = 0xFFFFFFFF80000000
PRESENT, LARGE, TABLE = 0x63, 0xE3, 0x67


def note(name: bytes, kind: int, desc: bytes) -> bytes:
    name += b"\0"
    return (
        struct.pack("<III", len(name), len(desc), kind)
        + name.ljust(-(-len(name) // 4) * 4, b"\0")
        + desc.ljust(-(-len(desc) // 4) * 4, b"\0")
    )


def prstatus(pid: int, registers: list[int]) -> bytes:
    desc = bytes(32) + struct.pack("<i", pid) + bytes(76)
    return note(b"CORE", 1, desc + struct.pack(f"<{len(registers)}Q", *registers) + bytes(8))


@dataclass
class Machine:
    """A machine of a few pages, with page tables that `map` and `leaf` fill.

    Its kernel is mapped from KERNEL_MAP on at `phys_base`, its page tables begin at `root`.
    """

    size: int = 64 * PAGE
    levels: int = 4
    phys_base: int = 0x4000
    root: int = 0x8000
    memory: bytearray = field(default_factory=bytearray)
    next_table: int = 0
    info: dict[str, str] = field(default_factory=dict)
    machine: int = 62

    def __post_init__(self) -> None:
        self.memory = bytearray(self.size)
        self.next_table = self.root + PAGE
        top = f"{KERNEL_MAP + self.root - self.phys_base:x}"
        self.info = {
            "OSRELEASE": "6.1.0-test",
            "PAGESIZE": "4096",
            "SYMBOL(swapper_pg_dir)": top,
            "SYMBOL(init_top_pgt)": top,
            "SYMBOL(_stext)": f"{KERNEL_MAP:x}",
            "NUMBER(phys_base)": str(self.phys_base),
            "NUMBER(pgtable_l5_enabled)": str(int(self.levels == 5)),
        }
        self.map(KERNEL_MAP, self.phys_base, 2)
        self.write(self.phys_base, b"the kernel's code")

    def write(self, address: int, data: bytes) -> None:
        self.memory[address : address + len(data)] = data

    def entry(self, table: int, index: int, value: int | None = None) -> int:
        at = table + 8 * index
        if value is not None:
            struct.pack_into("<Q", self.memory, at, value)
        return int(struct.unpack_from("<Q", self.memory, at)[0])

    def leaf(self, virtual: int, shift: int, value: int) -> int:
        """Write the entry for an address at the level of this shift; return its table."""
        table = self.root
        for level in range(self.levels - 1, 0, -1):
            at = 12 + 9 * level
            if at == shift:
                break
            index = virtual >> at & 511
            if not self.entry(table, index):
                self.entry(table, index, self.next_table | TABLE)
                self.next_table += PAGE
            table = self.entry(table, index) & ~0xFFF
        self.entry(table, virtual >> shift & 511, value)
        return table

    def map(self, virtual: int, physical: int, pages: int = 1) -> None:
        for i in range(pages):
            self.leaf(virtual + i * PAGE, 12, physical + i * PAGE | PRESENT)

    def vmcoreinfo(self) -> bytes:
        return "".join(f"{k}={v}\n" for k, v in self.info.items()).encode()

    def notes(self, processors: int = 1) -> bytes:
        out = b"".join(prstatus(100 + i, [i] * 27) for i in range(processors))
        return out + (note(b"VMCOREINFO", 0, self.vmcoreinfo()) if self.info else b"")

    def elf(
        self,
        loads: list[tuple[int, int, int, int]] | None = None,
        *,
        notes: bytes | None = None,
        ehsize: int = 64,
        phoff: int = 64,
        aligned: bool = True,
        beyond: bytes = b"",
    ) -> bytes:
        """Lay out an ELF dump.

        `loads` are p_vaddr, p_paddr, p_filesz, p_memsz; the bytes are the memory's at p_paddr,
        zeros where the machine has none.
        """
        loads = [(0, 0, self.size, self.size)] if loads is None else loads
        text = self.notes() if notes is None else notes
        at = phoff + 56 * (1 + len(loads))
        headers = [struct.pack("<IIQQQQQQ", 4, 0, at, 0, 0, len(text), len(text), 0)]
        body = bytearray(text)
        for virtual, physical, filesz, memsz in loads:
            if aligned:
                body += bytes(-(at + len(body)) % PAGE)
            headers.append(
                struct.pack("<IIQQQQQQ", 1, 0, at + len(body), virtual, physical, filesz, memsz, 0)
            )
            where = physical if physical < 1 << 63 else 0
            body += bytes(self.memory[where : where + filesz]).ljust(filesz, b"\0")
        head = b"\x7fELF\2\1\1" + bytes(9)
        head += struct.pack(
            "<HHIQQQIHHHHHH",
            4,
            self.machine,
            1,
            0,
            phoff,
            0,
            0,
            ehsize,
            56,
            1 + len(loads),
            0,
            0,
            0,
        )
        return head.ljust(phoff, b"\0") + b"".join(headers) + bytes(body) + beyond

    def kdump(
        self,
        pack: Callable[[bytes], bytes] | None = None,
        flag: int = 0,
        *,
        left_out: frozenset[int] = frozenset(),
        version: int = 6,
        machine: bytes = b"x86_64",
        pieces: tuple[int, int] | None = None,
        share_zeros: bool = True,
    ) -> bytes:
        """Lay out a compressed dump; `left_out` are page frames, `flag` tells how it is packed."""
        frames = self.size // PAGE
        half = -(-frames // 8 // PAGE) * PAGE or PAGE
        bitmaps = [bytearray(half), bytearray(half)]
        for i in range(frames):
            bitmaps[0][i // 8] |= 1 << i % 8
            if i not in left_out:
                bitmaps[1][i // 8] |= 1 << i % 8
        first, last = pieces or (0, frames)
        kept = [i for i in range(first, min(last, frames)) if i not in left_out]
        info, notes = self.vmcoreinfo(), self.notes()
        at = 2 * PAGE + 2 * half + 24 * len(kept)
        told = PAGE + 112  # behind the sub-header, in its block
        descriptors, data, zeros = b"", bytearray(), -1
        for i in kept:
            page = bytes(self.memory[i * PAGE : (i + 1) * PAGE])
            if share_zeros and not any(page) and zeros >= 0:
                descriptors += struct.pack("<QIIQ", zeros, PAGE, 0, 0)
                continue
            packed, how = (pack(page), flag) if pack else (page, 0)
            if len(packed) >= PAGE or (share_zeros and not any(page)):
                packed, how = page, 0
            if share_zeros and not any(page):
                zeros = at + len(data)
            descriptors += struct.pack("<QIIQ", at + len(data), len(packed), how, 0)
            data += packed
        head = b"KDUMP   " + struct.pack("<i", version) + bytes(4 * 65) + machine.ljust(65, b"\0")
        head = head.ljust(424, b"\0") + struct.pack(
            "<IiiIIIIIIi", flag, PAGE, 1, 2 * half // PAGE, frames, 0, 0, 0, 0, 1
        )
        sub = struct.pack(
            "<QiiQQQQQQQQQQQ",
            self.phys_base,
            31,
            int(pieces is not None),
            first,
            last,
            told,
            len(info),
            told + len(info),
            len(notes),
            0,
            0,
            first,
            last,
            frames,
        )
        return (
            head.ljust(PAGE, b"\0")
            + (sub.ljust(112, b"\0") + info + notes).ljust(PAGE, b"\0")
            + bytes(bitmaps[0] + bitmaps[1])
            + descriptors
            + bytes(data)
        )


@dataclass
class ArmMachine(Machine):
    """A machine of 64-bit ARM; its memory begins at `start`, not at 0."""

    granule: int = PAGE
    bits: int = 48
    start: int = 0x40000000
    machine: int = 183

    def __post_init__(self) -> None:
        self.size *= self.granule // PAGE
        self.memory = bytearray(self.size)
        self.low = self.granule.bit_length() - 1
        # Accessed and, unless the highest bits of addresses stand there, shareable.
        self.flags = 0x400 if self.bits > 48 and self.low < 16 else 0x700
        self.code = 4 * self.granule
        self.root = 8 * self.granule
        self.next_table = 9 * self.granule
        self.kernel = (1 << 64) - (1 << self.bits - 1) + 0x80000000
        self.info = {
            "OSRELEASE": "6.1.0-test",
            "PAGESIZE": str(self.granule),
            "SYMBOL(swapper_pg_dir)": f"{self.kernel + self.root - self.code:x}",
            "SYMBOL(_stext)": f"{self.kernel:x}",
            "NUMBER(VA_BITS)": str(self.bits),
            "NUMBER(kimage_voffset)": hex(self.kernel - self.code - self.start),
        }
        self.map(self.kernel, self.code, 2)
        self.write(self.code, b"the kernel's code")

    def shifts(self) -> list[int]:
        """Say at which bits the indices begin, pages' first."""
        return list(range(self.low, self.bits, self.low - 3))

    def leaf(self, virtual: int, shift: int, value: int) -> int:
        virtual &= (1 << self.bits) - 1
        table = self.root
        for at in reversed(self.shifts()):
            index = virtual >> at & (1 << self.low - 3) - 1
            if at == shift:
                self.entry(table, index, value)
                break
            if not self.entry(table, index):
                self.entry(table, index, self.start + self.next_table | 3)
                self.next_table += self.granule
            table = (self.entry(table, index) & ~(self.granule - 1)) - self.start
        return table

    def map(self, virtual: int, physical: int, pages: int = 1) -> None:
        for i in range(pages):
            at = i * self.granule
            self.leaf(virtual + at, self.low, self.start + physical + at | self.flags | 3)

    def notes(self, processors: int = 1) -> bytes:
        out = b"".join(prstatus(100 + i, [i] * 34) for i in range(processors))
        return out + (note(b"VMCOREINFO", 0, self.vmcoreinfo()) if self.info else b"")

    def dump(self) -> bytes:
        """Lay out an ELF dump."""
        content = bytearray(self.elf([(0, 0, self.size, self.size)]))
        struct.pack_into("<Q", content, 64 + 56 + 24, self.start)
        return bytes(content)


def flattened(file: bytes, piece: int = 5000) -> bytes:
    """Lay a file out for a pipe: its pieces from the last to the first."""
    out = (b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", 1, 1)).ljust(PAGE, b"\0")
    for at in reversed(range(0, len(file), piece)):
        part = file[at : at + piece]
        out += struct.pack(">qq", at, len(part)) + part
    return out + struct.pack(">qq", -1, -1)


def qemu_state(registers: dict[str, int], cr3: int, cr4: int = 0, cs: int = 0x10) -> bytes:
    """Lay out QEMU's note of a processor, as target/i386/arch_dump.c does."""
    names = "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags"
    desc = struct.pack("<II", 1, 440)
    desc += b"".join(struct.pack("<Q", registers.get(n, 0)) for n in names.split())
    for name in ["cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt"]:
        base = registers.get(f"{name}_base", 0)
        desc += struct.pack("<IIIIQ", cs if name == "cs" else 0, 0, 0, 0, base)
    desc += struct.pack("<5Q", 0, 0, 0, cr3, cr4) + bytes(8)
    return note(b"QEMU", 0, desc)
