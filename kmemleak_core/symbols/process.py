"""Turns addresses of a user process into names: symbol, section and module, from mapped files.

Nothing is read before it is asked for. A file is used only if it is the one that was mapped (its
build-id, or where there is none its first page); of a stripped one the debug file is looked for by
build-id, under ``/usr/lib/debug/.build-id``. Without DWARF a name degrades to symbol+offset,
without a file to module+offset.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..coverage import Coverage
from ..dump import Dump, MappedFile, Thread
from ..dumps.elf_headers import PT_LOAD, Bytes, ProgramHeaders, read_header, read_program_headers
from ..dumps.elf_sysroot import build_id, resolve_under
from ..dumps.mapping import map_readable
from ..errors import DumpError, FaultError
from . import Symbol
from .call_frames import CallFrames, Rules
from .debug_files import debug_file, shared_file
from .demangle import demangled
from .dwarf_entries import Budget, DamagedError, Entries, TooMuchError
from .elf_file import ElfFile, FileSymbol, open_elf
from .locals import local_text
from .unwind import Frame, frames
from .variables import variable_text

_PT_TLS = 7
_EXECUTABLE, _WRITABLE = 1, 2
_AT_PHDR, _AT_ENTRY = 3, 9
#: Bytes of a mapped file's beginning that are looked at for its headers and build-id.
_HEAD = 1 << 16


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a module an address lies.

    Parameters
    ----------
    module
        The file's name without its folder.
    path
        As the process knew it.
    offset
        The address as the file itself counts it.
    section
        ``".data"``, ``".bss"``, …; empty if unknown.
    """

    module: str
    path: str
    offset: int
    section: str

    @property
    def text(self) -> str:
        """``".data of libfoo.so+0x40"``."""
        within = f"{self.section} of " if self.section else ""
        return f"{within}{self.module}+{self.offset:#x}"


@dataclass(slots=True, eq=False)
class _Module:
    """One mapping of a file as a whole."""

    path: str
    bias: int
    begin: int
    end: int
    headers: ProgramHeaders
    file: ElfFile | None = field(default=None, repr=False)
    debug: ElfFile | None = field(default=None, repr=False)
    calls: CallFrames | None = field(default=None, repr=False)

    @property
    def files(self) -> tuple[ElfFile, ...]:
        """The file itself and its debug file, as far as they are there."""
        return tuple(file for file in (self.file, self.debug) if file is not None)

    def find(self, address: int, *, of_threads: bool = False) -> FileSymbol | None:
        """Return the symbol at an address of the file's own; see `ElfFile.find`."""
        symbols = (file.find(address, of_threads=of_threads) for file in self.files)
        return next((symbol for symbol in symbols if symbol is not None), None)

    @property
    def name(self) -> str:
        return os.path.basename(self.path) or self.path


class ProcessSymbols:
    """Names of a process's addresses.

    Parameters
    ----------
    dump
        Of the process; its mapped files name the modules.
    sysroot
        Folder under which files are found by the names that the process knew; None for ``/``.

    Attributes
    ----------
    coverage : Coverage
        Receives ``symbols.mismatch``: files that are not those that were mapped;
        ``symbols.dwarf``: those whose DWARF could not be read, or not to the end.
    """

    def __init__(self, dump: Dump, sysroot: Path | None = None) -> None:
        self.coverage = Coverage()
        self._dump = dump
        self._sysroot = sysroot or Path("/")
        self._files = sorted(dump.files, key=lambda f: f.address)
        self._starts = [f.address for f in self._files]
        self._by_path: dict[str, list[_Module]] = {}
        self._budget = Budget()
        self._entries: dict[str, Entries | None] = {}
        self._frames: dict[int, tuple[Frame, ...]] = {}

    def find(self, address: int) -> Symbol | None:
        """Return the symbol that an address lies in, demangled, where it lies in the process."""
        module = self._module(address)
        found = None if module is None else module.find(address - module.bias)
        if module is None or found is None:
            return None
        kind = "T" if found.is_code else "D"
        begin = found.address + module.bias
        return Symbol(demangled(found.name), begin, found.size, kind, module.name)

    def linkage_name(self, address: int) -> str:
        """Return the name of the symbol that an address lies in as its file has it, or ``""``."""
        module = self._module(address)
        found = None if module is None else module.find(address - module.bias)
        return "" if found is None else found.name

    def variable(self, address: int) -> str:
        """Write the variable, and the member of it, that an address lies in, as far as DWARF tells.

        Returns
        -------
        str
            ``"cache.buckets[3]"``; without DWARF ``"cache+0x58"``, without a symbol nothing.
        """
        module = self._module(address)
        found = None if module is None else module.find(address - module.bias)
        if module is None or found is None:
            return ""
        return self._member(module, found, address - module.bias)

    def _member(
        self, module: _Module, symbol: FileSymbol, at: int, *, of_threads: bool = False
    ) -> str:
        offset = at - symbol.address
        entries = None if symbol.is_code else self._dwarf(module)
        try:
            if entries is not None:
                text = variable_text(entries, symbol.address, offset, of_threads=of_threads)
                if text is not None:
                    return text
        except (DamagedError, TooMuchError) as error:
            self._give_up(module, error)
        name = demangled(symbol.name)
        return f"{name}+{offset:#x}" if offset else name

    def _dwarf(self, module: _Module) -> Entries | None:
        """Return what the DWARF of a module, or of its debug file, tells; None without any."""
        if module.path not in self._entries:
            self._entries[module.path] = None
            for file in module.files:
                if file.has_dwarf:
                    try:
                        shared = shared_file(file, self._sysroot)
                        self._entries[module.path] = Entries(file, self._budget, shared)
                    except DamagedError as error:
                        self._give_up(module, error)
                    break
        return self._entries[module.path]

    def _give_up(self, module: _Module, error: Exception) -> None:
        """Tell, once, that a module's DWARF is not read any more, or not all of it."""
        what = f"some of its DWARF cannot be read ({error})"
        if isinstance(error, TooMuchError):
            self._entries[module.path] = None
            what = "so much DWARF has been read that its is left alone"
        message = f"{module.path}: {what}; members of variables have no names"
        if all(note.message != message for note in self.coverage):
            self.coverage.add("symbols.dwarf", message)

    def place(self, address: int) -> Place | None:
        """Return the module that an address lies in, and where; None outside of all."""
        module = self._module(address)
        if module is None:
            return None
        offset = address - module.bias
        return Place(module.name, module.path, offset, _section(module, offset))

    def text(self, address: int) -> str:
        """Write an address for people: ``"main+0x3c (prog)"``, ``"prog+0x113c"``, ``"0x…"``."""
        symbol = self.find(address)
        if symbol is not None:
            return f"{symbol.name}+{address - symbol.address:#x} ({symbol.module})"
        place = self.place(address)
        return f"{address:#x}" if place is None else f"{place.module}+{place.offset:#x}"

    def thread_local(self, thread: Thread, address: int) -> str:
        """Write the main program's thread-local variable that an address of a thread lies in.

        As `variable`; empty if it lies in none.

        Layouts: ELF Handling For Thread-Local Storage, variants I (AArch64) and II (x86-64).
        """
        program = self._dump.auxv.get(_AT_PHDR) or self._dump.auxv.get(_AT_ENTRY)
        module = self._module(program) if program else None
        if module is None or not thread.tls_base:
            return ""
        rows = np.flatnonzero(module.headers.type == _PT_TLS).tolist()
        if not rows:
            return ""
        size, align = int(module.headers.memsz[rows[0]]), int(module.headers.align[rows[0]])
        align = align if 0 < align <= 4096 else 16
        if self._dump.architecture == "x86_64":
            begin = thread.tls_base - -(-size // align) * align
        elif self._dump.architecture == "aarch64":
            begin = thread.tls_base + max(16, align)
        else:
            return ""
        if not begin <= address < begin + size:
            return ""
        found = module.find(address - begin, of_threads=True)
        if found is None:
            return ""
        return self._member(module, found, address - begin, of_threads=True)

    def frame(self, thread: Thread, place: int) -> Frame | None:
        """Return the frame of a thread's stack that a place lies in, if that is certain."""
        if thread.tid not in self._frames:
            self._frames[thread.tid] = tuple(
                frames(thread, self._dump.architecture, self._rules, self._word)
            )
        found = self._frames[thread.tid]
        i = bisect_right(found, place, key=lambda frame: frame.low) - 1
        return found[i] if i >= 0 and place < found[i].high else None

    def local(self, frame: Frame, place: int) -> str:
        """Write the local variable, and the member of it, at a place of a frame; else nothing."""
        module = self._module(frame.code)
        entries = None if module is None else self._dwarf(module)
        if module is None or entries is None:
            return ""
        try:
            return local_text(entries, frame, module.bias, place)
        except (DamagedError, TooMuchError) as error:
            self._give_up(module, error)
            return ""

    def _rules(self, address: int) -> tuple[int, Rules] | None:
        module = self._module(address)
        if module is None or module.file is None:
            return None
        if module.calls is None:
            module.calls = CallFrames(module.file)
        rules = module.calls.rules(address - module.bias)
        return None if rules is None else (module.bias, rules)

    def _word(self, address: int) -> int | None:
        try:
            return int(self._dump.image.words(address, 1)[0])
        except (FaultError, OverflowError, ValueError):
            return None

    def is_code(self, address: int) -> bool:
        """Whether an address lies in a module's code."""
        module = self._module(address)
        return module is not None and bool(_flags(module, address - module.bias) & _EXECUTABLE)

    def code(self, address: int, size: int) -> bytes:
        """Return code: from the dump, else from the file; empty where neither has it."""
        try:
            return self._dump.image.read(address, size)
        except FaultError:
            pass
        module = self._module(address)
        if module is None or module.file is None:
            return b""
        offset = address - module.bias
        section = module.file.section_at(offset)
        if section is None:
            return b""
        at = section.offset + offset - section.address
        return bytes(module.file.data[at : at + size].tobytes())

    def unchanged(self, address: int, most: int) -> bytes:
        """Return bytes of a file's part that the program could not write to: `most`, or fewer."""
        module = self._module(address)
        if module is None or module.file is None:
            return b""
        headers, offset = module.headers, address - module.bias
        for i in np.flatnonzero(headers.type == PT_LOAD).tolist():
            within = offset - int(headers.address[i])
            held = int(headers.filesz[i]) - within
            if within >= 0 and held > 0 and not int(headers.flags[i]) & _WRITABLE:
                at = int(headers.offset[i]) + within
                return bytes(module.file.data[at : at + min(held, most)].tobytes())
        return b""

    def _module(self, address: int) -> _Module | None:
        i = bisect_right(self._starts, address) - 1
        if i < 0:
            return None
        # What follows a file's last mapping may still be its .bss.
        for module in self._modules(self._files[i].path):
            if module.begin <= address < module.end:
                return module
        return None

    def _modules(self, path: str) -> list[_Module]:
        if path not in self._by_path:
            self._by_path[path] = list(self._load(path))
        return self._by_path[path]

    def _load(self, path: str) -> Iterator[_Module]:
        mappings = [f for f in self._files if f.path == path]
        end = 0
        content: Bytes | None = None
        opened = False
        file = debug = None
        for first in mappings:
            if first.address < end:
                continue
            head = self._head(first)
            if not opened:
                opened = True
                content = self._open(path, head)
                file = None if content is None else open_elf(content, path)
                if file is None or not file.has_symtab or not file.has_dwarf:
                    debug = debug_file(
                        build_id(head if content is None else content), self._sysroot
                    )
            headers = _program_headers(head)
            if headers is None and content is not None:
                headers = _program_headers(content)
            if headers is None:
                continue
            lowest = int(np.argmin(headers.address))
            bias = first.address - int(headers.address[lowest])
            bias += int(headers.offset[lowest]) - first.file_offset
            loaded = headers.type == PT_LOAD
            span = int((headers.address[loaded] + headers.memsz[loaded]).max()) + bias
            # Another mapping of the file, or of what follows, is not of this one.
            end = max(min(span, first.address + (1 << 40)), first.end)
            yield _Module(path, bias, first.address, end, headers, file, debug)

    def _head(self, mapped: MappedFile) -> Bytes:
        if mapped.file_offset:
            return np.empty(0, np.uint8)
        try:
            return self._dump.image.upto(mapped.address, min(mapped.size, _HEAD))
        except FaultError:
            return np.empty(0, np.uint8)

    def _open(self, path: str, head: Bytes) -> Bytes | None:
        content = map_readable(resolve_under(self._sysroot, path))
        if content is None:
            return None
        ours = build_id(head)
        same = not head.size or (
            build_id(content) == ours
            if ours
            else np.array_equal(head[:4096], content[: min(4096, head.size)])
        )
        if same:
            return content
        self.coverage.add(
            "symbols.mismatch",
            f"{path} is not the file that was mapped: its symbols are not used",
        )
        return None


def _program_headers(data: Bytes) -> ProgramHeaders | None:
    """Return what is loaded of a file, and its thread-local storage; None where nothing is."""
    try:
        headers = read_program_headers(data, read_header(data), Coverage())
    except DumpError:
        return None
    small = (headers.memsz < 1 << 48) & (headers.address < 1 << 63) & (headers.offset < 1 << 63)
    headers = headers.select(((headers.type == PT_LOAD) | (headers.type == _PT_TLS)) & small)
    return headers if bool((headers.type == PT_LOAD).any()) else None


def _flags(module: _Module, offset: int) -> int:
    headers = module.headers
    for i in np.flatnonzero(headers.type == PT_LOAD).tolist():
        if 0 <= offset - int(headers.address[i]) < int(headers.memsz[i]):
            return int(headers.flags[i])
    return 0


def _section(module: _Module, offset: int) -> str:
    """Name the section that an address of the file's own lies in, as far as anything tells."""
    section = None if module.file is None else module.file.section_at(offset)
    if section is None and module.debug is not None:
        section = module.debug.section_at(offset)
    if section is not None:
        return section.name
    headers = module.headers
    for i in np.flatnonzero(headers.type == PT_LOAD).tolist():
        within = offset - int(headers.address[i])
        if 0 <= within < int(headers.memsz[i]):
            if within >= int(headers.filesz[i]):
                return ".bss"
            flags = int(headers.flags[i])
            writable = ".data" if flags & _WRITABLE else ""
            return writable or (".text" if flags & _EXECUTABLE else ".rodata")
    return ""
