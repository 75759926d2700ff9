"""What a dump holds besides memory: threads, registers, mapped files, and what was missing."""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field

from .coverage import Coverage
from .image import MemoryImage
from .physical import PhysicalMemory


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread as it stood when the dump was taken.

    Parameters
    ----------
    tid
        Thread id.
    registers
        General-purpose registers by their lower-case names (``"rip"``, ``"x0"``, …).
    vectors
        Vector and floating-point registers as ``(name, raw bytes)``, in memory order.
    stack_pointer
        Value of the stack pointer.
    tls_base
        The thread pointer (``fs_base`` on x86-64, ``tpidr_el0`` on AArch64); 0 if unknown.
    signal
        Signal that stopped it, 0 if none.
    """

    tid: int
    registers: MappingType[str, int]
    stack_pointer: int
    tls_base: int = 0
    vectors: tuple[tuple[str, bytes], ...] = ()
    signal: int = 0


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A file, or part of one, that was mapped (one entry of ``NT_FILE``).

    Parameters
    ----------
    address, size
        Where it was mapped, bytes.
    file_offset
        Offset of the first byte in the file.
    path
        The file as the process named it.
    """

    address: int
    size: int
    file_offset: int
    path: str

    @property
    def end(self) -> int:
        """Address of the first byte after the mapping."""
        return self.address + self.size


@dataclass(frozen=True, slots=True, eq=False)
class Machine:
    """What a dump of a whole machine tells beside its kernel's memory.

    Parameters
    ----------
    physical
        The machine's memory, by physical address.
    info
        VMCOREINFO: name → value, as text.
    missing
        Page frames that were left out of the dump (makedumpfile's filter).
    """

    physical: PhysicalMemory
    info: MappingType[str, str] = field(default_factory=dict, repr=False)
    missing: int = 0


@dataclass(slots=True)
class Dump:
    """A memory image with everything else that its file told.

    Parameters
    ----------
    image
        The memory.
    path
        The file, as the user named it.
    format
        ``"elf-core"``, ``"raw"``, ….
    architecture
        ``"x86_64"``, ``"aarch64"``, ``"i386"``, … or ``"unknown"``.
    threads
        In the file's order; the first is the one that caused the dump.
    files
        Mapped files, sorted by address.
    auxv
        The auxiliary vector: AT_* number → value.
    process
        ``"name"``, ``"arguments"``, ``"pid"`` as far as the dump tells.
    coverage
        What was missing or malformed.
    machine
        Of a dump of a whole machine, whose `image` is its kernel's memory; None for a process.
    """

    image: MemoryImage
    path: str = ""
    format: str = "raw"
    architecture: str = "unknown"
    threads: tuple[Thread, ...] = ()
    files: tuple[MappedFile, ...] = ()
    auxv: MappingType[int, int] = field(default_factory=dict)
    process: MappingType[str, str] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=Coverage)
    machine: Machine | None = None
