"""Turns the notes of an ELF core into threads, mapped files, auxiliary vector and process.

Note types and structures are Linux's (``include/uapi/linux/elf.h``, ``fs/binfmt_elf.c``). The
notes of a thread follow its ``NT_PRSTATUS``; those of the process may stand anywhere, since gdb
and the kernel order them differently.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

from ..coverage import Coverage
from ..dump import MappedFile, Thread
from . import elf_registers as registers
from .elf_headers import (
    EM_386,
    EM_AARCH64,
    EM_ARM,
    EM_X86_64,
    MAX_NOTES,
    PT_NOTE,
    Bytes,
    ElfHeader,
    Note,
    ProgramHeaders,
    iterate_notes,
)

NT_PRSTATUS, NT_FPREGSET, NT_PRPSINFO, NT_AUXV = 1, 2, 3, 6
NT_FILE = 0x46494C45
NT_PRXFPREG = 0x46E62B7F
NT_386_TLS, NT_X86_XSTATE, NT_X86_XSAVE_LAYOUT = 0x200, 0x202, 0x205
NT_ARM_VFP, NT_ARM_TLS = 0x400, 0x401

_OWNERS = (b"CORE", b"LINUX")


@dataclass(slots=True)
class NoteContents:
    """What the notes of a core say.

    Those of a whole machine's dump have `vmcoreinfo`, the kernel's VMCOREINFO as it stands, or
    `cpu_states`, QEMU's state of each processor; its threads are the processors.
    """

    threads: list[Thread] = field(default_factory=list)
    files: list[MappedFile] = field(default_factory=list)
    has_files: bool = False
    auxv: dict[int, int] = field(default_factory=dict)
    process: dict[str, str] = field(default_factory=dict)
    vmcoreinfo: bytes = b""
    cpu_states: list[bytes] = field(default_factory=list)

    @property
    def is_kernel(self) -> bool:
        """Whether the dump is one of a whole machine."""
        return bool(self.vmcoreinfo or self.cpu_states)


def read_notes(
    data: Bytes, header: ElfHeader, segments: ProgramHeaders, coverage: Coverage
) -> NoteContents:
    """Read every note of a core; what is damaged is told in the coverage and left out.

    Parameters
    ----------
    data
        The file, ``uint8``.
    header, segments
        Its headers.
    coverage
        Receives notes ``dump.notes`` and ``dump.registers``.
    """
    reader = _Reader(data, header)
    chosen = segments.select(segments.type == PT_NOTE)
    order = np.argsort(chosen.offset, kind="stable")
    seen = 0
    read = 0
    for offset, size in zip(
        chosen.offset[order].tolist(), chosen.filesz[order].tolist(), strict=True
    ):
        # Segments that overlap are read once: the work is bounded by the file's size.
        begin, end = max(offset, seen), offset + size
        seen = max(seen, end)
        if end > data.size:
            reader.problems.append("a note segment lies beyond the end of the file")
        for note in iterate_notes(data, begin, end, header.byteorder, reader.problems):
            read += 1
            if read > MAX_NOTES:
                break
            reader.take(note)
        if read > MAX_NOTES:
            reader.problems.append(f"more than {MAX_NOTES} notes: the others are not read")
            break
    reader.finish(coverage)
    return reader.contents


class _Reader:
    """Collects notes; a thread is complete when the next one begins."""

    def __init__(self, data: Bytes, header: ElfHeader) -> None:
        self.data = data
        self.order = header.order
        self.word_size = header.word_size
        self.machine = header.machine
        self.architecture = header.architecture
        self.known = registers.REGISTER_SETS.get((header.machine, header.word_size))
        self.contents = NoteContents()
        self.problems: list[str] = []
        self.unread_threads = 0
        self.xsave_layout: dict[int, int] | None = None
        self._status: registers.Status | None = None
        self._notes: dict[int, bytes] = {}
        self._pending: list[tuple[registers.Status, dict[int, bytes]]] = []

    def take(self, note: Note) -> None:
        if note.name not in _OWNERS:
            if note.name == b"VMCOREINFO" and not self.contents.vmcoreinfo:
                self.contents.vmcoreinfo = self._bytes(note)
            elif note.name == b"QEMU" and note.type == 0:
                self.contents.cpu_states.append(self._bytes(note))
            return
        kind = note.type
        if kind == NT_PRSTATUS:
            self._begin_thread(note)
        elif kind == NT_FILE:
            if not self.contents.has_files:
                self._files(note)
        elif kind == NT_AUXV:
            if not self.contents.auxv:
                self._auxv(self._bytes(note))
        elif kind == NT_PRPSINFO:
            if not self.contents.process:
                self._prpsinfo(self._bytes(note))
        elif kind == NT_X86_XSAVE_LAYOUT and self.machine in (EM_386, EM_X86_64):
            self.xsave_layout = registers.decode_xsave_layout(self._bytes(note))
        elif self._status is not None and kind in _THREAD_NOTES.get(self.machine, ()):
            self._notes.setdefault(kind, self._bytes(note))

    def _bytes(self, note: Note, limit: int = 1 << 16) -> bytes:
        # The largest register note (XSAVE with AMX) has 11 KiB, the auxiliary vector 400 bytes.
        return self.data[note.offset : note.offset + min(note.size, limit)].tobytes()

    def _begin_thread(self, note: Note) -> None:
        self._end_thread()
        if self.known is None:
            self.unread_threads += 1
            return
        status = registers.decode_prstatus(
            self._bytes(note), self.order, self.word_size, self.known
        )
        if status is None:
            self.problems.append(f"NT_PRSTATUS at file offset {note.offset:#x} is too short")
        self._status = status

    def _end_thread(self) -> None:
        if self._status is not None:
            self._pending.append((self._status, self._notes))
        self._status = None
        self._notes = {}

    def _thread(self, status: registers.Status, notes: dict[int, bytes]) -> Thread:
        assert self.known is not None
        values = status.registers
        tls = values.get(self.known.tls, 0)
        vectors: list[registers.Vector] = []
        if self.machine in (EM_X86_64, EM_386):
            long_mode = self.word_size == 8
            if len(notes.get(NT_X86_XSTATE, b"")) >= 512:
                vectors = registers.decode_xsave(notes[NT_X86_XSTATE], self.xsave_layout, long_mode)
            else:
                area = notes.get(NT_FPREGSET if long_mode else NT_PRXFPREG, b"")
                vectors = registers.decode_fxsave(area, long_mode)
            if not long_mode:
                tls = registers.decode_386_tls(notes.get(NT_386_TLS, b""), values["gs"])
        else:
            if self.machine == EM_AARCH64:
                vectors = registers.decode_fpsimd(notes.get(NT_FPREGSET, b""))
            elif self.machine == EM_ARM:
                vectors = registers.decode_vfp(notes.get(NT_ARM_VFP, b""))
            raw = notes.get(NT_ARM_TLS, b"")[: self.word_size]
            if len(raw) == self.word_size:
                tls = int.from_bytes(raw, "little" if self.order == "<" else "big")
        return Thread(
            tid=status.tid,
            registers=values,
            stack_pointer=values[self.known.stack_pointer],
            tls_base=tls,
            vectors=tuple(vectors),
            signal=status.signal,
        )

    def _files(self, note: Note) -> None:
        # long count, page_size; count × {start, end, file_ofs in pages}; then the paths.
        word = self.word_size
        available = note.size // word
        table = self.data[note.offset : note.offset + available * word].view(f"{self.order}u{word}")
        if available < 2:
            self.problems.append("NT_FILE is too short")
            return
        count, unit = int(table[0]), int(table[1])
        usable = min(count, (available - 2) // 3)
        begin = note.offset + (2 + 3 * usable) * word
        paths = self.data[begin : note.offset + note.size].tobytes().split(b"\0")[:-1]
        usable = min(usable, len(paths))
        if usable < count:
            self.problems.append(f"NT_FILE announces {count} mapped files and holds {usable}")
        rows = table[2 : 2 + 3 * usable].reshape(-1, 3).tolist()
        limit = 1 << 8 * word
        for (start, end, page), path in zip(rows, paths, strict=False):
            if start >= end or page * unit >= limit:
                self.problems.append(f"NT_FILE: {start:#x}-{end:#x} is no address range")
                continue
            name = path.decode("utf-8", "surrogateescape")
            self.contents.files.append(MappedFile(start, end - start, page * unit, name))
        self.contents.files.sort(key=lambda f: f.address)
        self.contents.has_files = bool(self.contents.files)

    def _auxv(self, desc: bytes) -> None:
        pair = struct.Struct(f"{self.order}2{'I' if self.word_size == 4 else 'Q'}")
        for key, value in pair.iter_unpack(desc[: len(desc) // pair.size * pair.size]):
            if key == 0:
                break
            self.contents.auxv.setdefault(key, value)

    def _prpsinfo(self, desc: bytes) -> None:
        # Four chars, a word of flags, uid and gid (16 bits each on the old 32-bit
        # architectures), four pids, fname[16], psargs[80].
        if self.word_size == 8:
            pids, least = 24, 136
        else:
            pids, least = (12, 124) if len(desc) < 128 else (16, 128)
        if len(desc) < least:
            self.problems.append("NT_PRPSINFO is too short")
            return
        name = desc[pids + 16 : pids + 32].split(b"\0", 1)[0]
        arguments = desc[pids + 32 : pids + 112].split(b"\0", 1)[0]
        (pid,) = struct.unpack_from(f"{self.order}i", desc, pids)
        self.contents.process = {
            "name": name.decode("utf-8", "replace"),
            "arguments": arguments.decode("utf-8", "replace").rstrip(),
            "pid": str(pid),
        }

    def finish(self, coverage: Coverage) -> None:
        self._end_thread()
        self.contents.threads = [self._thread(*pending) for pending in self._pending]
        if self.problems:
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            coverage.add("dump.notes", self.problems[0] + more, count=len(self.problems))
        if self.unread_threads:
            coverage.add(
                "dump.registers",
                f"registers of {self.unread_threads} threads are unread: their layout on "
                f"{self.architecture} ({self.word_size * 8}-bit) is not known here",
                count=self.unread_threads,
            )
        elif not self.contents.threads:
            coverage.add("dump.registers", "the dump tells of no thread: no registers, no stacks")


_THREAD_NOTES = {
    EM_X86_64: (NT_FPREGSET, NT_X86_XSTATE),
    EM_386: (NT_PRXFPREG, NT_X86_XSTATE, NT_386_TLS),
    EM_AARCH64: (NT_FPREGSET, NT_ARM_TLS),
    EM_ARM: (NT_ARM_VFP, NT_ARM_TLS),
}
