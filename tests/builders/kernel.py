"""Builds kernels of a few pages: layouts as tables, memory as numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kmemleak_core.dump import Dump, Machine
from kmemleak_core.image import MemoryImage
from kmemleak_core.linux.kernel import Kernel
from kmemleak_core.physical import PhysicalMemory, PhysicalRange
from kmemleak_core.symbols import Member, Struct, Symbol

DIRECT_MAP = 0xFFFF_8880_0000_0000
PAGE_ARRAY = 0xFFFF_EA00_0000_0000
PAGE = 4096


@dataclass
class TableTypes:
    """Layouts from ``{struct: (size, {member path: (offset, size)})}``.

    A third number after offset and size is an array's length or, if negative, says that the
    member is signed; a fourth and fifth are a bit field's lowest bit and width.
    """

    layouts: dict[str, tuple[int, dict[str, tuple[int, ...]]]]
    enumerators: dict[str, int] = field(default_factory=dict)
    origin: str = "a table"

    def struct(self, name: str) -> Struct | None:
        if name not in self.layouts:
            return None
        size, members = self.layouts[name]
        return Struct(name, size, {path: self._member(name, path) for path in members})

    def member(self, struct: str, path: str) -> Member | None:
        if path not in self.layouts.get(struct, (0, {}))[1]:
            return None
        return self._member(struct, path)

    def _member(self, struct: str, path: str) -> Member:
        offset, size, *more = self.layouts[struct][1][path]
        extra = more[0] if more else 0
        bit_offset, bit_size = more[1:3] if len(more) > 1 else (0, 0)
        return Member(path, offset, size, bit_offset, bit_size, extra < 0, max(0, extra))

    def enumerator(self, name: str) -> int | None:
        return self.enumerators.get(name)


@dataclass
class TableSymbols:
    """Symbols from a dictionary."""

    addresses: dict[str, int] = field(default_factory=dict)

    def address(self, name: str) -> int | None:
        return self.addresses.get(name)

    def find(self, address: int) -> Symbol | None:
        before = [(a, n) for n, a in self.addresses.items() if a <= address]
        return Symbol(max(before)[1], max(before)[0]) if before else None

    def text(self, address: int) -> str:
        symbol = self.find(address)
        return f"{symbol.name}+{address - symbol.address:#x}" if symbol else f"{address:#x}"


def kernel_of(
    segments: list[tuple[int, np.ndarray]],
    types: TableTypes,
    symbols: dict[str, int] | None = None,
    *,
    frames: int,
    info: dict[str, str] | None = None,
    per_cpu_offsets: tuple[int, ...] = (),
) -> Kernel:
    """Return a kernel of so many page frames whose memory, by virtual address, is given."""
    # Where the bytes are physically matters to nobody here, but for how many there are.
    physical = PhysicalMemory([PhysicalRange(0, np.zeros(frames * PAGE, np.uint8))])
    return Kernel(
        Dump(
            MemoryImage.from_segments(segments),
            path="vmcore",
            format="elf-vmcore",
            architecture="x86_64",
            machine=Machine(physical, info or {}),
        ),
        TableSymbols(symbols or {}),
        types,
        direct_map=DIRECT_MAP,
        page_array=PAGE_ARRAY,
        per_cpu_offsets=per_cpu_offsets,
    )
