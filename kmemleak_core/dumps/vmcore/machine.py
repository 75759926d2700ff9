"""Turns physical memory and what a dump's file tells of its machine into the kernel's image."""

from __future__ import annotations

from collections.abc import Mapping as MappingType
from dataclasses import dataclass, field

from ...coverage import Coverage
from ...errors import DumpError
from ...image import ByteOrder, MemoryImage
from ...physical import PhysicalMemory, PhysicalRange
from . import aarch64, x86_64
from .kernel_memory import kernel_image
from .page_tables import Mapping, Paging, read_page_tables
from .processors import Control
from .vmcoreinfo import find_vmcoreinfo, symbol

ARCHITECTURES = ("x86_64", "aarch64")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a dump's headers and notes tell of the machine.

    Parameters
    ----------
    path
        The file, for error messages.
    architecture, byteorder, word_size
        Of the machine.
    info
        VMCOREINFO of its note; empty if there is none.
    phys_base
        As the headers tell it (x86-64); None if they do not.
    control
        A processor's control registers, if known.
    zeros
        Memory that was left out of an ELF file. makedumpfile leaves pages of zeros out with the
        others there, but no other page that is a page table.
    """

    path: str
    architecture: str
    byteorder: ByteOrder = "little"
    word_size: int = 8
    info: MappingType[str, str] = field(default_factory=dict)
    phys_base: int | None = None
    control: Control | None = None
    zeros: tuple[PhysicalRange, ...] = ()


def check_architecture(architecture: str, word_size: int, path: str) -> None:
    """Raise `DumpError` where the architecture's page tables are not read here."""
    if architecture not in ARCHITECTURES or word_size != 8:
        raise DumpError(
            f"is a dump of a machine of architecture {architecture} ({word_size * 8}-bit): "
            f"kernels of {' and '.join(ARCHITECTURES)} are read",
            path=path,
        )


def open_machine(
    physical: PhysicalMemory, evidence: Evidence, coverage: Coverage
) -> tuple[MemoryImage, MappingType[str, str]]:
    """Find the page tables and lay the kernel's memory out.

    Returns
    -------
    image : MemoryImage
        The kernel's half of the address space.
    info : mapping
        VMCOREINFO, be it from the note or from memory; empty if there is none.

    Raises
    ------
    DumpError
        The page tables cannot be found, or they are not in the dump.
    """
    candidates = [evidence.info]
    if not evidence.info:
        found = find_vmcoreinfo(physical)
        coverage.add(
            "vmcore.info",
            "the dump has no VMCOREINFO note; "
            + ("it was found in its memory" if found else "nor is there any in its memory"),
        )
        candidates = [*found, {}]
    first: DumpError | None = None
    for info in candidates:
        try:
            mapping, page_size = _mapping(physical, info, evidence, coverage)
        except DumpError as error:  # noqa: PERF203  (few candidates)
            first = first or error
        else:
            return kernel_image(physical, mapping, page_size, coverage), info
    assert first is not None
    raise first


def _mapping(
    physical: PhysicalMemory,
    info: MappingType[str, str],
    evidence: Evidence,
    coverage: Coverage,
) -> tuple[Mapping, int]:
    """Read the page tables that VMCOREINFO leads to; return them and the bytes of a page."""
    root, paging = _tables(info, evidence)
    if physical.find(root) is None:
        cut = next((note.message for note in coverage if note.code == "dump.truncated"), "")
        raise DumpError(
            f"the kernel's top page table, at physical address {root:#x}, is not in the dump"
            + (f"; {cut}" if cut else ""),
            path=evidence.path,
            hint="copy the dump again, or dump the machine again"
            if cut
            else "it was filtered too much (makedumpfile -d 31 leaves page tables in), or its "
            "VMCOREINFO is another kernel's",
        )
    tables = PhysicalMemory((*physical.ranges, *evidence.zeros)) if evidence.zeros else physical
    mapping = read_page_tables(tables, root, paging)
    _check(mapping, info, root, evidence.path)
    return mapping, 1 << paging.shifts[-1]


def _tables(info: MappingType[str, str], evidence: Evidence) -> tuple[int, Paging]:
    if evidence.architecture == "aarch64":
        return aarch64.find_tables(info, evidence.path)
    return x86_64.find_tables(info, evidence.phys_base, evidence.control, evidence.path)


def _check(mapping: Mapping, info: MappingType[str, str], root: int, path: str) -> None:
    code = symbol(info, "_stext")
    if len(mapping) and (code is None or mapping.translate(code) is not None):
        return
    what = "nothing" if not len(mapping) else f"not the kernel's code (_stext, {code:#x})"
    raise DumpError(
        f"the page tables at physical address {root:#x} map {what}: they are damaged, or its "
        "VMCOREINFO is another kernel's",
        path=path,
        hint="dump the machine again",
    )
