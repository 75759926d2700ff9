"""Turns register notes into named registers: general, vector, thread pointer.

Layouts: ``struct elf_prstatus`` and the ``user_regs`` structures of Linux
(``include/linux/elfcore.h``, ``arch/*/include/asm/user*.h``, ``ptrace.h``); FXSAVE and XSAVE
from the Intel SDM, volume 1, chapters 10 and 13.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from .elf_headers import EM_386, EM_AARCH64, EM_ARM, EM_X86_64

Vector = tuple[str, bytes]


@dataclass(frozen=True, slots=True)
class RegisterSet:
    """The general registers of one architecture, in the order of its ``NT_PRSTATUS``.

    Parameters
    ----------
    names
        In memory order, one word each.
    stack_pointer
        The stack pointer's name.
    tls
        The thread pointer's name if it is among them, else empty.
    """

    names: tuple[str, ...]
    stack_pointer: str
    tls: str = ""


_X86_64 = (
    "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss "
    "fs_base gs_base ds es fs gs"
)
_I386 = "ebx ecx edx esi edi ebp eax ds es fs gs orig_eax eip cs eflags esp ss"

#: (machine, word size) → registers.
REGISTER_SETS = {
    (EM_X86_64, 8): RegisterSet(tuple(_X86_64.split()), "rsp", "fs_base"),
    (EM_386, 4): RegisterSet(tuple(_I386.split()), "esp"),
    (EM_AARCH64, 8): RegisterSet((*(f"x{i}" for i in range(31)), "sp", "pc", "pstate"), "sp"),
    (EM_ARM, 4): RegisterSet(
        (*(f"r{i}" for i in range(13)), "sp", "lr", "pc", "cpsr", "orig_r0"), "sp"
    ),
}

_FXSAVE_SIZE = 512
_XSAVE_HEADER = 512
_XSAVE_EXTENDED = 576
_AVX, _OPMASK, _ZMM_HIGH, _ZMM_UPPER = 2, 5, 6, 7

# Where the AVX-512 components lie in the standard format depends on the processor: with room
# for MPX before them (Intel's first ones), or without (AMD). Offsets by component.
_OFFSETS_WITH_MPX = {_AVX: 576, _OPMASK: 1088, _ZMM_HIGH: 1152, _ZMM_UPPER: 1664}
_OFFSETS_WITHOUT_MPX = {_AVX: 576, _OPMASK: 832, _ZMM_HIGH: 896, _ZMM_UPPER: 1408}
_END_WITH_MPX = 2688


class Status(NamedTuple):
    """What one ``NT_PRSTATUS`` says."""

    tid: int
    signal: int
    registers: dict[str, int]


def decode_prstatus(desc: bytes, order: str, word_size: int, known: RegisterSet) -> Status | None:
    """Decode ``struct elf_prstatus``; None if it is shorter than the registers need."""
    word = "I" if word_size == 4 else "Q"
    # siginfo (3 ints), cursig and padding, two words of signal masks, four pids, four timevals.
    head = struct.Struct(f"{order}iiihxx2{word}iiii8{word}")
    body = struct.Struct(f"{order}{len(known.names)}{word}")
    if len(desc) < head.size + body.size:
        return None
    fields = head.unpack_from(desc)
    values = body.unpack_from(desc, head.size)
    signal, cursig, tid = fields[0], fields[3], fields[6]
    return Status(tid, cursig or signal, dict(zip(known.names, values, strict=True)))


def decode_fxsave(desc: bytes, long_mode: bool) -> list[Vector]:
    """Decode an FXSAVE area into st0-7 and xmm0-15 (xmm0-7 in 32-bit programs)."""
    if len(desc) < _FXSAVE_SIZE:
        return []
    return _slots(desc, 32, 8, 16, "st{}") + _slots(desc, 160, 16 if long_mode else 8, 16, "xmm{}")


def decode_xsave(desc: bytes, layout: dict[int, int] | None, long_mode: bool) -> list[Vector]:
    """Decode an XSAVE area in standard format.

    Parameters
    ----------
    desc
        Descriptor of ``NT_X86_XSTATE``.
    layout
        Component → offset, from ``NT_X86_XSAVE_LAYOUT`` where the dump has it.
    long_mode
        Whether there are 16 vector registers (64-bit) or 8.

    Returns
    -------
    list of (name, bytes)
        ``xmmN`` 16 bytes, ``ymmN_high`` 16, ``zmmN_high`` 32, ``zmm16``… 64, ``kN`` 8.
    """
    vectors = decode_fxsave(desc, long_mode)
    if len(desc) < _XSAVE_EXTENDED:
        return vectors
    in_use, compaction = struct.unpack_from("<QQ", desc, _XSAVE_HEADER)
    if compaction >> 63:
        return vectors
    if layout is None:
        layout = _OFFSETS_WITH_MPX if len(desc) >= _END_WITH_MPX else _OFFSETS_WITHOUT_MPX
    low = 16 if long_mode else 8
    for component, count, size, name, first in (
        (_AVX, low, 16, "ymm{}_high", 0),
        (_OPMASK, 8, 8, "k{}", 0),
        (_ZMM_HIGH, low, 32, "zmm{}_high", 0),
        (_ZMM_UPPER, 16 if long_mode else 0, 64, "zmm{}", 16),
    ):
        offset = layout.get(component, 0)
        if in_use >> component & 1 and offset >= _XSAVE_EXTENDED:
            vectors += _slots(desc, offset, count, size, name, first)
    return vectors


def decode_xsave_layout(desc: bytes) -> dict[int, int]:
    """Decode ``NT_X86_XSAVE_LAYOUT``: records of component, size, offset, flags (``uint32``)."""
    usable = desc[: len(desc) // 16 * 16]
    return {component: offset for component, _, offset, _ in struct.iter_unpack("<4I", usable)}


def decode_fpsimd(desc: bytes) -> list[Vector]:
    """Decode AArch64's ``user_fpsimd_state``: v0-v31."""
    return _slots(desc, 0, 32, 16, "v{}") if len(desc) >= 512 else []


def decode_vfp(desc: bytes) -> list[Vector]:
    """Decode ARM's ``user_vfp``: d0-d31."""
    return _slots(desc, 0, 32, 8, "d{}") if len(desc) >= 256 else []


def decode_386_tls(desc: bytes, gs: int) -> int:
    """Decode ``NT_386_TLS`` (an array of ``user_desc``): the base that the %gs selector names."""
    usable = desc[: len(desc) // 16 * 16]
    bases: dict[int, int] = {entry: base for entry, base, _, _ in struct.iter_unpack("<4I", usable)}
    return bases.get(gs >> 3, 0)


def _slots(
    desc: bytes, offset: int, count: int, size: int, name: str, first: int = 0
) -> list[Vector]:
    # A register of zeros holds no reference: it is left out, for dumps of very many threads.
    zero = bytes(size)
    out = []
    for i in range(count):
        raw = desc[offset + i * size : offset + (i + 1) * size]
        if len(raw) == size and raw != zero:
            out.append((name.format(first + i), raw))
    return out
