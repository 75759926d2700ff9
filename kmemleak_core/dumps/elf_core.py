"""Reads an ELF core file into a Dump: memory, threads, mapped files, process."""

from __future__ import annotations

from pathlib import Path

from ..dump import Dump, Thread
from ..errors import DumpError
from ..image import MemoryImage
from .elf_headers import (
    ELF_MAGIC,
    ET_CORE,
    PT_LOAD,
    ProgramHeaders,
    read_header,
    read_program_headers,
)
from .elf_layout import build_layout
from .elf_notes import NoteContents, read_notes
from .elf_sysroot import fill_holes
from .recognise import describe_elf
from .source import Source


class ElfCore:
    """ELF cores: of the kernel, of gdb's gcore, of collectors; any class, order and machine."""

    name = "elf-core"

    def matches(self, head: bytes) -> bool:
        """Whether a file that begins like this is an ELF core."""
        return head[:4] == ELF_MAGIC and (head[16:18] in (b"\x04\0", b"\0\x04") or len(head) < 18)

    def open(self, source: Source, *, sysroot: Path | None = None) -> Dump:
        """Read a core.

        Parameters
        ----------
        source
            The file.
        sysroot
            Folder that holds the mapped files, for bytes that the core lacks.

        Raises
        ------
        DumpError
            Not an ELF core, or so damaged that no memory can be read.
        """
        data, path, coverage = source.data, source.path, source.coverage
        header = read_header(data, path)
        if header.type != ET_CORE:
            raise DumpError(
                f"is {describe_elf(source.head)}, not a core file",
                path=path,
                hint="give the dump of the running program: kmemleak dump PID -o core",
            )
        headers = read_program_headers(data, header, coverage, path)
        notes = read_notes(data, header, headers, coverage)
        if _is_machine(headers, notes):
            from .vmcore.elf import Vmcore

            return Vmcore().read(source, header, headers, notes)
        segments, holes = build_layout(
            data,
            headers,
            header.word_size,
            notes.files,
            notes.auxv,
            _main_stack_pointer(notes.threads, notes.process),
            coverage,
        )
        segments, holes = fill_holes(segments, holes, sysroot, coverage)
        if not segments:
            loads = int((headers.type == PT_LOAD).sum())
            raise DumpError(
                f"holds no memory: {loads} segments, none with bytes in the file",
                path=path,
                hint="the dump was cut off or written with an empty filter: see "
                "/proc/PID/coredump_filter and ulimit -c",
            )
        image = MemoryImage(
            segments, word_size=header.word_size, byteorder=header.byteorder, holes=holes
        )
        return Dump(
            image,
            path=path,
            format=self.name,
            architecture=header.architecture,
            threads=tuple(notes.threads),
            files=tuple(notes.files),
            auxv=notes.auxv,
            process=notes.process,
            coverage=coverage,
        )


def _is_machine(headers: ProgramHeaders, notes: NoteContents) -> bool:
    """Say whether it is a dump of a whole machine: by its notes, or by physical addresses."""
    if notes.is_kernel:
        return True
    # Linux and gdb write zeros for a process, others its virtual addresses.
    physical = (headers.physical != 0) & (headers.physical != headers.address)
    told = notes.auxv or notes.files or notes.process
    return not told and bool((physical & (headers.type == PT_LOAD)).any())


def _main_stack_pointer(threads: list[Thread], process: dict[str, str]) -> int:
    main = next((t for t in threads if str(t.tid) == process.get("pid")), None)
    if main is None and len(threads) == 1:
        main = threads[0]
    return main.stack_pointer if main else 0
