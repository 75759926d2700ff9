"""Turns a running process into an ELF core file, and lets it go on.

For machines where cores go to a collector and gdb is not at hand. The process stands still while
its memory is written. What is written is what the kernel's own dump holds by default: private
memory that was written to, anonymous shared memory, the first page of every module; further
pages of files are left to ``--sysroot``. Memory that the program marked with MADV_DONTDUMP is
left out.
"""

from __future__ import annotations

import mmap
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DumpError, UsageError
from ..image import MEMORY_FILES
from . import elf_writer
from .elf_headers import ELF_MAGIC, EM_386, EM_AARCH64, EM_ARM, EM_X86_64
from .elf_notes import (
    NT_386_TLS,
    NT_ARM_TLS,
    NT_ARM_VFP,
    NT_AUXV,
    NT_FILE,
    NT_FPREGSET,
    NT_PRPSINFO,
    NT_PRSTATUS,
    NT_PRXFPREG,
    NT_X86_XSTATE,
)
from .elf_writer import Abi, PlannedSegment
from .ptrace import StoppedProcess, status_field
from .sparse import write_all, write_sparse

_PIECE = 1 << 20
#: So many unreadable pages in a row are guards; more are a mapping's end.
_GUARD_PAGES = 64
_PAGE = mmap.PAGESIZE

#: Bytes of the general register set → the ABI of the program: a 64-bit kernel runs both.
_ABIS = {
    216: Abi(8, EM_X86_64),
    68: Abi(4, EM_386),
    272: Abi(8, EM_AARCH64),
    72: Abi(4, EM_ARM),
}
#: Further notes of each thread: owner, type.
_THREAD_NOTES = {
    EM_X86_64: ((b"CORE", NT_FPREGSET), (b"LINUX", NT_X86_XSTATE)),
    EM_386: (
        (b"CORE", NT_FPREGSET),
        (b"LINUX", NT_PRXFPREG),
        (b"LINUX", NT_386_TLS),
        (b"LINUX", NT_X86_XSTATE),
    ),
    EM_AARCH64: ((b"CORE", NT_FPREGSET), (b"LINUX", NT_ARM_TLS)),
    EM_ARM: ((b"LINUX", NT_ARM_VFP), (b"LINUX", NT_ARM_TLS)),
}
_MAPPING = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) \S+ (\d+) *(.*)\n?")
# No file that one could read later: the kernel dumps it too.
_MEMORY_FILES = tuple(name.encode() for name in MEMORY_FILES)


@dataclass(slots=True)
class _Mapping:
    """One entry of ``/proc/PID/maps``."""

    start: int
    end: int
    permissions: bytes
    offset: int
    inode: int
    path: bytes
    hidden: bool = False
    huge: bool = False

    @property
    def flags(self) -> int:
        return sum(bit for bit, c in zip((4, 2, 1), self.permissions, strict=False) if c != 0x2D)

    @property
    def is_file(self) -> bool:
        return self.inode != 0 and self.path.startswith(b"/")


def capture(pid: int, path: Path, *, force: bool = False) -> None:
    """Write an ELF core of a running process, and let it go on.

    Parameters
    ----------
    pid
        The process, or one of its threads.
    path
        The file to write; readable by this user only.
    force
        Replace a file that is there.

    Raises
    ------
    UsageError
        The file is there already.
    DumpError
        No such process, no permission to stop it or to read its memory, no room for the file.
    """
    path = Path(path)
    if not sys.platform.startswith("linux"):
        raise DumpError("only Linux processes can be dumped", hint="give a core file")
    if not force and os.path.lexists(path):
        raise UsageError(f"{path} is there already", hint="--force replaces it")
    if pid <= 0 or not os.path.exists(f"/proc/{pid}"):
        raise DumpError(f"no process {pid}", hint="pgrep -a NAME lists processes by name")
    leader = status_field(pid, "Tgid")
    pid = int(leader) if leader.isdigit() else pid
    partial = path.with_name(path.name + f".{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DumpError(f"cannot be written: {error.strerror}", path=str(path)) from None
    done = False
    try:
        with StoppedProcess(pid) as process:
            _write_core(process, descriptor)
        if force:
            os.replace(partial, path)
        else:
            _move(partial, path)
        done = True
    except OSError as error:
        raise DumpError(
            f"process {pid} cannot be dumped: {error.strerror or error}",
            path=str(path),
            hint="is there room on the disk, and did the process live long enough?",
        ) from None
    finally:
        os.close(descriptor)
        if not done:
            partial.unlink(missing_ok=True)


def _move(partial: Path, path: Path) -> None:
    # A hard link fails where the name was taken in the meantime; a rename would replace.
    try:
        os.link(partial, path)
    except FileExistsError:
        raise UsageError(f"{path} is there already", hint="--force replaces it") from None
    except OSError:
        if os.path.lexists(path):
            raise UsageError(f"{path} is there already", hint="--force replaces it") from None
        os.rename(partial, path)
        return
    partial.unlink()


def _write_core(process: StoppedProcess, descriptor: int) -> None:
    general = {tid: process.registers(tid, NT_PRSTATUS) for tid in process.threads}
    abi = _ABIS.get(len(general[process.threads[0]]))
    if abi is None:
        raise DumpError(
            f"process {process.pid} has a register set of {len(general[process.threads[0]])} "
            "bytes, which is of no known machine",
            hint="gdb's gcore may know it",
        )
    mappings = [m for m in _mappings(process.pid) if m.end <= 1 << 63]
    if not mappings:
        raise DumpError(f"process {process.pid} has no memory (a kernel thread or a zombie)")
    segments = [PlannedSegment(m.start, m.end - m.start, m.flags) for m in mappings]
    notes = _notes(process, abi, general, mappings)
    notes_offset = elf_writer.headers_size(abi, len(segments))
    at = -(-(notes_offset + len(notes)) // _PAGE) * _PAGE
    write_all(descriptor, notes, notes_offset)
    try:
        memory = os.open(f"/proc/{process.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except PermissionError:
        raise DumpError(f"no permission to read the memory of process {process.pid}") from None
    try:
        with _PageMap(process.pid) as pages:
            for mapping, segment in zip(mappings, segments, strict=True):
                segment.offset = at
                segment.filesz = _copy(memory, pages, mapping, descriptor, at)
                at += -(-segment.filesz // _PAGE) * _PAGE
    finally:
        os.close(memory)
    os.ftruncate(descriptor, at)
    write_all(descriptor, elf_writer.core_headers(abi, segments, notes_offset, len(notes)), 0)


def _mappings(pid: int) -> Iterator[_Mapping]:
    """Yield the mappings; ``smaps`` also tells which are not to be dumped."""
    try:
        with open(f"/proc/{pid}/smaps", "rb") as lines:
            text = lines.read()
    except OSError:
        text = b""
    if not text:
        with open(f"/proc/{pid}/maps", "rb") as lines:
            text = lines.read()
    current = None
    for line in text.splitlines():
        found = _MAPPING.fullmatch(line)
        if found:
            if current is not None:
                yield current
            start, end, permissions, offset, inode, path = found.groups()
            current = _Mapping(
                int(start, 16), int(end, 16), permissions, int(offset, 16), int(inode),
                path.replace(b"\\012", b"\n"),
            )  # fmt: skip
        elif current is not None and line.startswith(b"VmFlags:"):
            flags = line.split()
            current.hidden = b"dd" in flags or b"io" in flags
            current.huge = b"ht" in flags
    if current is not None:
        yield current


class _PageMap:
    """Which pages of a process exist (``/proc/PID/pagemap``, one ``uint64`` a page)."""

    _EXISTS = np.uint64(3 << 62)  # present or swapped out
    _OF_FILE = np.uint64(1 << 61)

    def __init__(self, pid: int) -> None:
        try:
            self._descriptor = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._descriptor = -1

    def __enter__(self) -> _PageMap:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def runs(self, start: int, end: int, *, private: bool) -> Iterator[tuple[int, int]]:
        """Yield ranges of pages that exist; with `private` only those that are no file's."""
        step = _PAGE << 16
        for low in range(start, end, step):
            high = min(end, low + step)
            raw = b""
            if self._descriptor >= 0:
                size = (high - low) // _PAGE * 8
                raw = os.pread(self._descriptor, size, low // _PAGE * 8)
                if len(raw) < size:
                    raw = b""
            if not raw:
                yield low, high
                continue
            entries = np.frombuffer(raw, dtype=np.uint64)
            there = (entries & self._EXISTS) != 0
            if private:
                there &= (entries & self._OF_FILE) == 0
            edges = np.flatnonzero(np.diff(np.concatenate(([0], there, [0])).astype(np.int8)))
            for a, b in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
                yield low + a * _PAGE, low + b * _PAGE


def _copy(memory: int, pages: _PageMap, mapping: _Mapping, descriptor: int, at: int) -> int:
    """Write a mapping's memory to the file; return how many bytes of it are in the file."""
    size = mapping.end - mapping.start
    if mapping.hidden or mapping.path in (b"[vvar]", b"[vvar_vclock]", b"[vsyscall]"):
        return 0
    shared = mapping.permissions.endswith(b"s")
    whole = [(mapping.start, mapping.end)]
    if shared:
        if not mapping.path.startswith(_MEMORY_FILES):
            return 0
        runs: Iterator[tuple[int, int]] = iter(whole)
    elif mapping.is_file and not mapping.huge:
        if next(pages.runs(mapping.start, mapping.end, private=True), None) is None:
            # Nobody wrote to it: its content is the file's. The first page identifies a module.
            if mapping.offset or not mapping.flags & 4:
                return 0
            head = _read(memory, mapping.start, min(_PAGE, size))
            if head[:4] != ELF_MAGIC:
                return 0
            return write_all(descriptor, head, at)
        runs = iter(whole)
    elif mapping.path == b"[vdso]":
        runs = iter(whole)
    else:
        # A page of anonymous memory that does not exist is zero, and reading would make it.
        runs = pages.runs(mapping.start, mapping.end, private=False)
    any_run = False
    for low, high in runs:
        any_run = True
        address, unreadable = low, 0
        while address < high:
            want = min(_PIECE, high - address)
            piece = _read(memory, address, want)
            write_sparse(descriptor, piece, at + address - mapping.start)
            address += len(piece)
            unreadable = 0 if piece else unreadable + 1
            if len(piece) < want:
                # A guard page in the midst of a mapping (glibc 2.43 makes such for stacks) reads
                # as zeros; what goes on unreadable (a device, a file that shrank) is the end.
                if unreadable > _GUARD_PAGES:
                    return address - (unreadable - 1) * _PAGE - mapping.start
                address += _PAGE
    if not any_run and not mapping.flags:
        return 0  # reserved address space
    return size


def _read(memory: int, address: int, size: int) -> bytes:
    """Read as much as can be read, at most `size` bytes, whole pages."""
    try:
        piece = os.pread(memory, size, address)
    except OSError:
        piece = b""
    if len(piece) == size:
        return piece
    parts = [piece]
    got = len(piece)
    while got < size:
        try:
            part = os.pread(memory, min(_PAGE, size - got), address + got)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
        got += len(part)
    return b"".join(parts)


def _notes(
    process: StoppedProcess, abi: Abi, general: dict[int, bytes], mappings: list[_Mapping]
) -> bytes:
    pid = process.pid
    parts = []

    def add(name: bytes, kind: int, desc: bytes) -> None:
        parts.append(elf_writer.note(abi.order, name, kind, desc))

    relatives = _relatives(pid)
    for index, tid in enumerate(process.threads):
        if len(general[tid]) == len(general[process.threads[0]]):
            add(b"CORE", NT_PRSTATUS, elf_writer.prstatus(abi, tid, relatives, general[tid]))
        if index == 0:
            ids = (_first_number(pid, "Uid"), _first_number(pid, "Gid"))
            name = Path(f"/proc/{pid}/comm").read_bytes().rstrip(b"\n")
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
            add(
                b"CORE",
                NT_PRPSINFO,
                elf_writer.prpsinfo(abi, pid, relatives, ids, name, arguments.replace(b"\0", b" ")),
            )
            add(b"CORE", NT_AUXV, Path(f"/proc/{pid}/auxv").read_bytes())
            files = [(m.start, m.end, m.offset, m.path) for m in mappings if m.is_file]
            add(b"CORE", NT_FILE, elf_writer.file_note(abi, files, _PAGE))
        for name, kind in _THREAD_NOTES[abi.machine]:
            desc = process.registers(tid, kind)
            if desc:
                add(name, kind, desc)
    return b"".join(parts)


def _relatives(pid: int) -> tuple[int, int, int]:
    """Parent, group and session, from ``/proc/PID/stat``: after the name, which may be odd."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return int(fields[1]), int(fields[2]), int(fields[3])


def _first_number(pid: int, name: str) -> int:
    words = status_field(pid, name).split()
    return int(words[0]) if words and words[0].isdigit() else 0
