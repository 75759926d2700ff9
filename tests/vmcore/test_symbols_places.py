"""Where a kernel's memory is: told by its variables, or at constants that the memory confirms."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from kmemleak_core.dump import Dump, Machine
from kmemleak_core.errors import DumpError
from kmemleak_core.image import MemoryImage
from kmemleak_core.linux import places
from kmemleak_core.physical import PhysicalMemory, PhysicalRange

from ..builders.kernel import TableSymbols, TableTypes

DATA = 0xFFFF_FFFF_8200_0000
TYPES = TableTypes({"page": (64, {}), "cpumask": (16, {})})


def machine_of(*segments, info=None, start=0, frames=16):
    """Return a dump of a machine of so many frames; segments are (address, bytes or frame)."""
    memory = np.arange(frames * 4096, dtype=np.uint32).view(np.uint8)[: frames * 4096]
    made = [
        (at, memory[data * 4096 :] if isinstance(data, int) else np.frombuffer(data, np.uint8))
        for at, data in segments
    ]
    machine = Machine(PhysicalMemory([PhysicalRange(start, memory)]), info or {})
    return Dump(MemoryImage.from_segments(made), path="vmcore", machine=machine), machine


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


class TestDirectMap:
    def test_a_variable_tells_it(self):
        base = 0xFFFF_9F80_0000_0000
        dump, machine = machine_of((DATA, words(base)), (base, 0))
        symbols = TableSymbols({"page_offset_base": DATA})
        assert places.direct_map(dump, machine, symbols) == base

    @pytest.mark.parametrize(
        "base", [0xFFFF_8880_0000_0000, 0xFF11_0000_0000_0000, 0xFFFF_8800_0000_0000]
    )
    def test_without_one_it_is_where_memory_is_the_same_by_both_addresses(self, base):
        dump, machine = machine_of((base, 0))
        assert places.direct_map(dump, machine, TableSymbols()) == base

    def test_other_memory_at_that_place_is_not_it(self):
        base = 0xFFFF_8880_0000_0000
        dump, machine = machine_of((base, bytes(16 * 4096)))
        with pytest.raises(DumpError, match="map of all memory was not found"):
            places.direct_map(dump, machine, TableSymbols())

    def test_a_damaged_variable_is_not_believed(self):
        dump, machine = machine_of((DATA, words(0x1234_5678)), (0xFFFF_8880_0000_0000, 0))
        with pytest.raises(DumpError, match="0x12345678"):
            places.direct_map(dump, machine, TableSymbols({"page_offset_base": DATA}))

    def test_a_variable_that_is_not_in_the_dump_is_named(self):
        dump, machine = machine_of((0xFFFF_8880_0000_0000, 0))
        with pytest.raises(DumpError, match="page_offset_base"):
            places.direct_map(dump, machine, TableSymbols({"page_offset_base": DATA}))

    def test_on_aarch64_it_counts_from_the_start_of_memory(self):
        start = 0x4000_0000
        dump, machine = machine_of(
            (DATA, words(start)),
            (0xFFFF_0000_0000_0000, 0),
            info={"NUMBER(VA_BITS)": "48"},
            start=start,
        )
        found = places.direct_map(dump, machine, TableSymbols({"memstart_addr": DATA}))
        assert found + start == 0xFFFF_0000_0000_0000


class TestPageArray:
    def test_a_variable_tells_it(self):
        base = 0xFFFF_E166_0000_0000
        dump, machine = machine_of((DATA, words(base)), (base, bytes(4096)))
        symbols = TableSymbols({"vmemmap_base": DATA})
        assert places.page_array(dump, machine, symbols, TYPES, 4096) == base

    def test_without_one_it_is_at_its_constant(self):
        dump, machine = machine_of((0xFFFF_EA00_0000_0000, bytes(4096)))
        found = places.page_array(dump, machine, TableSymbols(), TYPES, 4096)
        assert found == 0xFFFF_EA00_0000_0000

    def test_what_is_not_in_the_dump_is_told(self):
        dump, machine = machine_of((DATA, bytes(4096)))
        with pytest.raises(DumpError, match="array of pages was not found"):
            places.page_array(dump, machine, TableSymbols(), TYPES, 4096)

    def test_on_aarch64_it_counts_from_the_first_frame_of_memory(self):
        start, begin = 0x4000_0000, 0xFFFF_FDFF_FFE0_0000
        dump, machine = machine_of(
            (DATA, words(start)),
            (begin, bytes(4096)),
            info={"NUMBER(VMEMMAP_START)": f"{begin:#x}", "NUMBER(VA_BITS)": "48"},
            start=start,
        )
        symbols = TableSymbols({"memstart_addr": DATA})
        found = places.page_array(dump, machine, symbols, TYPES, 4096)
        assert found + start // 4096 * 64 == begin


class TestProcessors:
    SYMBOLS = TableSymbols(
        {"__per_cpu_offset": DATA, "__cpu_possible_mask": DATA + 64, "nr_cpu_ids": DATA + 80}
    )

    def offsets(self, mask: tuple[int, int], count: int = 4) -> tuple[int, ...]:
        data = words(*range(100, 108), *mask, count)
        return places.per_cpu_offsets(machine_of((DATA, data))[0], self.SYMBOLS, TYPES)

    def test_each_possible_processor_has_its_offset(self):
        assert self.offsets((0b1011, 0)) == (100, 101, 103)

    def test_processors_beyond_the_kernels_number_are_none(self):
        assert self.offsets((0xFF, 1)) == (100, 101, 102, 103)

    def test_a_kernel_for_one_processor_has_none(self):
        dump, _ = machine_of((DATA, bytes(8)))
        assert places.per_cpu_offsets(dump, TableSymbols(), TYPES) == (0,)

    def test_a_mask_of_none_is_told(self):
        with pytest.raises(DumpError, match="mask of possible processors is empty"):
            self.offsets((0, 0))

    def test_what_is_not_in_the_dump_is_named(self):
        dump, _ = machine_of((DATA, bytes(64)))
        with pytest.raises(DumpError, match="__cpu_possible_mask"):
            places.per_cpu_offsets(dump, self.SYMBOLS, TYPES)
        dump, _ = machine_of((DATA + 64, words(1 << 50, 0, 64)))
        with pytest.raises(DumpError, match="__per_cpu_offset"):
            places.per_cpu_offsets(dump, self.SYMBOLS, TYPES)
