"""Turns the notes of a machine's dump into Threads: the registers of each processor."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...dump import Thread
from ..elf_headers import EM_X86_64, ElfHeader
from ..elf_notes import NoteContents

#: QEMU's ``QEMUCPUState`` (target/i386/arch_dump.c), version 1: after version and size, the
#: general registers, then segments of 24 bytes with the base in the last 8, then cr0 to cr4.
_NAMES = "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip eflags"
_GENERAL = tuple(_NAMES.split())
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss")
_SEGMENT_SIZE = 24
_SEGMENTS_AT = 8 + 8 * len(_GENERAL)
_CONTROL_AT = _SEGMENTS_AT + 10 * _SEGMENT_SIZE
_STATE_SIZE = _CONTROL_AT + 5 * 8


@dataclass(frozen=True, slots=True)
class Control:
    """Control registers of a processor that was in the kernel, if one was."""

    cr3: int
    cr4: int


def processors(notes: NoteContents, header: ElfHeader) -> tuple[tuple[Thread, ...], Control | None]:
    """Number the processors and complete their registers.

    Parameters
    ----------
    notes
        Of the dump: its threads are the processors, in order.
    header
        The file's header.

    Returns
    -------
    threads : tuple of Thread
        Their ``tid`` is the processor's number. What kdump writes there is the task's id.
    control : Control or None
        What leads to the page tables; None where the dump does not tell.
    """
    states = notes.cpu_states if header.machine == EM_X86_64 else []
    decoded = [_decode(s) for s in states if len(s) >= _STATE_SIZE]
    threads = list(notes.threads)
    if not threads:
        threads = [Thread(i, d, d["rsp"], d["fs_base"]) for i, (d, _) in enumerate(decoded)]
    out = []
    for i, thread in enumerate(threads):
        registers: Mapping[str, int] = thread.registers
        if len(decoded) == len(threads):
            registers = {**registers, **decoded[i][0]}
        base = registers.get("fs_base", thread.tls_base)
        out.append(replace(thread, tid=i, registers=registers, tls_base=base))
    # In user mode, a processor may have tables that hold hardly anything of the kernel's half.
    decoded.sort(key=lambda d: d[0]["cs"] & 3)
    return tuple(out), decoded[0][1] if decoded else None


def _decode(state: bytes) -> tuple[dict[str, int], Control]:
    values = dict(zip(_GENERAL, struct.unpack_from(f"<{len(_GENERAL)}Q", state, 8), strict=True))
    for i, name in enumerate(_SEGMENTS):
        selector, _, _, _, base = struct.unpack_from(
            "<4IQ", state, _SEGMENTS_AT + i * _SEGMENT_SIZE
        )
        values[name] = selector
        if name in ("fs", "gs"):
            values[f"{name}_base"] = base
    _, _, _, cr3, cr4 = struct.unpack_from("<5Q", state, _CONTROL_AT)
    return values, Control(cr3, cr4)
