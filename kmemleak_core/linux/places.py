"""Turns a kernel's own variables into the places of its memory: direct map, page array, per-CPU.

Where a kernel puts them at random it has a variable for each; others are at constants, which are
believed only where the dump's memory agrees.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from ..dump import Dump, Machine
from ..errors import DumpError, FaultError
from ..image import MemoryImage
from ..symbols import SymbolTable, Types

#: Where physical memory is mapped on x86-64 without randomisation, newest first
#: (Documentation/arch/x86/x86_64/mm.rst): 4 levels, 5 levels, 4 levels until 4.19.
_DIRECT_MAPS = (0xFFFF888000000000, 0xFF11000000000000, 0xFFFF880000000000)
#: Where its page array is: 4 levels, 5 levels.
_PAGE_ARRAYS = (0xFFFFEA0000000000, 0xFFD4000000000000)

_WORD = (1 << 64) - 1
#: More processors than a kernel can be built for.
_MOST_PROCESSORS = 1 << 16


def direct_map(dump: Dump, machine: Machine, symbols: SymbolTable) -> int:
    """Return the virtual address of physical address 0.

    Raises
    ------
    DumpError
        None of the places where it can be maps the memory that the dump holds.
    """
    tried = []
    for base in _direct_maps(dump.image, machine.info, symbols):
        tried.append(base)
        if _maps(dump.image, machine, base):
            return base
    where = ", ".join(f"{base:#x}" for base in tried) or "no place is known for this machine"
    raise DumpError(f"the kernel's map of all memory was not found ({where})", path=dump.path)


def _direct_maps(
    image: MemoryImage, info: Mapping[str, str], symbols: SymbolTable
) -> Iterator[int]:
    at = symbols.address("page_offset_base")
    if at is not None:
        yield _word(image, at, "page_offset_base")
        return
    start = symbols.address("memstart_addr")
    bits = _number(info, "VA_BITS")
    if start is not None and bits:  # AArch64: (physical - memstart_addr) | PAGE_OFFSET
        yield -(1 << bits) - _word(image, start, "memstart_addr") & _WORD
        return
    yield from _DIRECT_MAPS


def _maps(image: MemoryImage, machine: Machine, base: int) -> bool:
    """Whether memory is mapped there: a few of its pages, the same by both addresses."""
    asked = 0
    for memory in machine.physical.ranges:
        for physical in (memory.address, memory.address + memory.data.size // 2 & ~4095):
            segment = image.find(base + physical & _WORD)
            size = min(64, memory.end - physical)
            if segment is None or segment.end - (base + physical & _WORD) < size:
                continue
            asked += 1
            seen = image.view(base + physical & _WORD, size)
            if not np.array_equal(seen, machine.physical.view(physical, size)):
                return False
        if asked >= 16:
            break
    return asked > 0


def page_array(
    dump: Dump, machine: Machine, symbols: SymbolTable, types: Types, page_size: int
) -> int:
    """Return the virtual address of the ``struct page`` of page frame 0.

    Raises
    ------
    DumpError
        None of the places where it can be is in the dump.
    """
    page = types.struct("page")
    size = page.size if page is not None else _number(machine.info, "SIZE(page)")
    if not size:
        raise DumpError(f"the size of struct page is not known from {types.origin}")
    tried = []
    for base in _page_arrays(dump.image, machine.info, symbols, size, page_size):
        tried.append(base)
        if any(
            dump.image.find(base + memory.address // page_size * size & _WORD) is not None
            for memory in machine.physical.ranges
        ):
            return base
    where = ", ".join(f"{base:#x}" for base in tried) or "no place is known for this machine"
    raise DumpError(f"the kernel's array of pages was not found ({where})", path=dump.path)


def _page_arrays(
    image: MemoryImage, info: Mapping[str, str], symbols: SymbolTable, size: int, page_size: int
) -> Iterator[int]:
    at = symbols.address("vmemmap_base")
    if at is not None:
        yield _word(image, at, "vmemmap_base")
        return
    start = symbols.address("memstart_addr")
    begin = _number(info, "VMEMMAP_START", 16)
    if start is not None:  # AArch64: vmemmap counts from the first page frame of memory
        bits = _number(info, "VA_BITS")
        if not begin and bits:
            begin = -(1 << (bits - (page_size.bit_length() - 1) + 6)) & _WORD
        yield begin - _word(image, start, "memstart_addr") // page_size * size & _WORD
        return
    yield from _PAGE_ARRAYS
    at = symbols.address("mem_map")  # FLATMEM
    if at is not None:
        yield _word(image, at, "mem_map")


def per_cpu_offsets(dump: Dump, symbols: SymbolTable, types: Types) -> tuple[int, ...]:
    """Return what is added to a per-CPU address, for each possible processor in order.

    Raises
    ------
    DumpError
        The kernel's mask of processors is not in the dump, or says that there are none.
    """
    at = symbols.address("__per_cpu_offset")
    if at is None:
        return (0,)  # built for one processor
    image = dump.image
    word = image.word_size
    processors = tuple(_possible(image, symbols, types))
    if not processors:
        raise DumpError("the kernel's mask of possible processors is empty", path=dump.path)
    try:
        offset = image.words(at, processors[-1] + 1)
    except FaultError as error:
        raise _missing("__per_cpu_offset", error) from error
    return tuple(int(offset[cpu]) & ((1 << 8 * word) - 1) for cpu in processors)


def _possible(image: MemoryImage, symbols: SymbolTable, types: Types) -> Iterable[int]:
    """Return the numbers of possible processors."""
    count = _MOST_PROCESSORS
    most = symbols.address("nr_cpu_ids")
    mask = symbols.address("__cpu_possible_mask")
    try:
        if most is not None:
            count = int.from_bytes(image.read(most, 4), image.byteorder)
        if mask is None:  # until 4.5
            pointer = symbols.address("cpu_possible_mask")
            mask = None if pointer is None else image.word(pointer)
        if mask is None:
            raise DumpError("the kernel has no mask of possible processors")
        described = types.struct("cpumask")
        words = (described.size if described else 8) // image.word_size
        words = max(1, min(words, _MOST_PROCESSORS // (8 * image.word_size)))
        raw = image.words(mask, words)
    except FaultError as error:
        raise _missing("__cpu_possible_mask", error) from error
    bits = np.unpackbits(raw.astype(f"<u{image.word_size}").view(np.uint8), bitorder="little")
    return [int(cpu) for cpu in np.flatnonzero(bits) if cpu < count]


def _word(image: MemoryImage, at: int, name: str) -> int:
    try:
        return image.word(at)
    except FaultError as error:
        raise _missing(name, error) from error


def _missing(name: str, error: FaultError) -> DumpError:
    return DumpError(f"the kernel's variable {name} is not in the dump: {error}")


def _number(info: Mapping[str, str], name: str, base: int = 10) -> int:
    """Return a number of VMCOREINFO; 0 where there is none."""
    text = info.get(name) or info.get(f"NUMBER({name})") or "0"
    try:
        return int(text, base)
    except ValueError:
        return 0
