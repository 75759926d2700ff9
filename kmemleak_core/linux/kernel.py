"""Turns a dump of a whole machine into a Kernel: its memory, with names and types."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..coverage import Coverage
from ..dump import Dump, Machine
from ..errors import DumpError, FaultError, UsageError
from ..image import MemoryImage
from ..physical import PhysicalMemory
from ..symbols import SymbolTable, Types
from .structures import Structures

if TYPE_CHECKING:
    from ..symbols.btf import BtfTypes
    from ..symbols.table import SymbolColumns
    from .modules import Module


@dataclass(slots=True)
class Kernel:
    """A kernel as a dump shows it.

    Parameters
    ----------
    dump
        Its memory by virtual address, the processors' registers (a `Thread` each, whose `tid`
        is the processor's number), what was missing.
    symbols
        Addresses and names, those of modules too.
    types
        Layouts of its structures.
    release
        ``"6.1.0-40-amd64"``; empty if unknown.
    page_size
        Bytes.
    direct_map
        Virtual address of physical address 0 in the linear mapping (``page_offset_base``).
    page_array
        Virtual address of the ``struct page`` of page frame 0 (``vmemmap_base``).
    per_cpu_offsets
        For each possible processor, what is added to a per-CPU address.
    coverage
        What was missing or not understood.
    modules
        Loaded modules, the youngest first.
    """

    dump: Dump
    symbols: SymbolTable
    types: Types
    release: str = ""
    page_size: int = 4096
    direct_map: int = 0
    page_array: int = 0
    per_cpu_offsets: tuple[int, ...] = ()
    coverage: Coverage = field(default_factory=Coverage)
    modules: tuple[Module, ...] = ()

    @property
    def image(self) -> MemoryImage:
        """Its memory, by virtual address."""
        return self.dump.image

    @property
    def physical(self) -> PhysicalMemory:
        """The machine's memory, by physical address."""
        machine = self.dump.machine
        assert machine is not None
        return machine.physical

    def structures(self) -> Structures:
        """Return a reader of its structures."""
        return Structures(self.image, self.types)


def open_kernel(
    dump: Dump, *, vmlinux: str | Path | None = None, layout: str | Path | None = None
) -> Kernel:
    """Find a kernel's names, types and places in a dump of its machine.

    Parameters
    ----------
    dump
        Of a whole machine.
    vmlinux
        The kernel's file with debugging symbols: its types are taken instead of the dump's BTF.
    layout
        A file that ``kmemleak vmcore layout`` wrote, instead of either.

    Raises
    ------
    DumpError
        It is no machine's dump, one of these things cannot be had from it, or a file is of
        another kernel.
    UsageError
        Both files are given.
    """
    machine = dump.machine
    if machine is None:
        raise DumpError("not a dump of a whole machine", path=dump.path)
    from ..symbols.table import KernelSymbols
    from . import places
    from .module_types import with_modules
    from .modules import read_modules

    coverage = Coverage()
    names = _symbols(dump, machine, vmlinux, coverage)
    types = _types(dump, machine, names, vmlinux, layout, coverage)
    structures = Structures(dump.image, types)
    modules = read_modules(structures, names, coverage)
    page_size = _page_size(dump, machine)
    return Kernel(
        dump,
        KernelSymbols(names, modules),
        with_modules(types, _base(dump, names, types), structures, names, modules, coverage),
        release=machine.info.get("OSRELEASE", ""),
        page_size=page_size,
        direct_map=places.direct_map(dump, machine, names),
        page_array=places.page_array(dump, machine, names, types, page_size),
        per_cpu_offsets=places.per_cpu_offsets(dump, names, types),
        coverage=coverage,
        modules=modules,
    )


def _page_size(dump: Dump, machine: Machine) -> int:
    told = machine.info.get("PAGESIZE", "4096")
    if told not in ("4096", "16384", "65536"):
        raise DumpError(f"VMCOREINFO tells a page size of {told!r}", path=dump.path)
    return int(told)


def _symbols(
    dump: Dump, machine: Machine, vmlinux: str | Path | None, coverage: Coverage
) -> SymbolColumns:
    """Return the kernel's symbols: its own table of them, else its file's."""
    from ..symbols.kallsyms import read_kallsyms

    try:
        return read_kallsyms(dump.image, machine.info)
    except DumpError as error:
        if vmlinux is None:
            raise
        from ..symbols.elf import read_elf_symbols

        found = read_elf_symbols(vmlinux, machine.info)
        coverage.add("kernel.symbols", f"symbols are those of {vmlinux}: {error.args[0]}")
        return found


def _types(
    dump: Dump,
    machine: Machine,
    symbols: SymbolTable,
    vmlinux: str | Path | None,
    layout: str | Path | None,
    coverage: Coverage,
) -> Types:
    """Return the types that were asked for, else those that the kernel carries."""
    if vmlinux is not None and layout is not None:
        raise UsageError("a vmlinux and a layout are two sources of the same: give one of them")
    path = vmlinux if vmlinux is not None else layout
    if path is None:
        return _own_types(dump, symbols)
    from .build_id import check_build_id, dump_build_id

    types: Types
    if vmlinux is not None:
        from ..symbols.vmlinux import read_vmlinux

        types, build_id = read_vmlinux(vmlinux)
    else:
        from ..symbols.layout import LayoutTypes

        types = LayoutTypes(path)
        build_id = types.build_id
    check_build_id(dump_build_id(dump, machine, symbols), build_id, str(path), coverage)
    return types


def _base(dump: Dump, symbols: SymbolTable, types: Types) -> BtfTypes | None:
    """Return the BTF that modules' goes on from; None where the kernel has none."""
    from ..symbols.btf import BtfTypes

    if isinstance(types, BtfTypes):
        return types
    try:
        return _own_types(dump, symbols)
    except DumpError:
        return None


def _own_types(dump: Dump, symbols: SymbolTable) -> BtfTypes:
    from ..symbols.btf import BtfTypes

    start, stop = symbols.address("__start_BTF"), symbols.address("__stop_BTF")
    hint = (
        "give the kernel's vmlinux with debugging symbols, or what `kmemleak vmcore layout` "
        "made of it: --vmlinux FILE, --layout FILE"
    )
    if start is None or stop is None or stop <= start:
        raise DumpError("this kernel does not carry its types (no BTF)", path=dump.path, hint=hint)
    try:
        data = dump.image.view(start, stop - start)
    except FaultError as error:
        raise DumpError(
            f"the kernel's BTF is not whole in the dump: {error}", path=dump.path, hint=hint
        ) from error
    image = dump.image
    return BtfTypes(data, byteorder=image.byteorder, word_size=image.word_size)
