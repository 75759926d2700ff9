"""Machines of 64-bit ARM: pages of 4, 16 and 64 KiB, addresses of 36 to 52 bits."""

from __future__ import annotations

import pytest

from kmemleak_core import DumpError

from ..builders.vmcore import ArmMachine
from .test_dump_layouts import codes, opened, where

LAYOUTS = [(4096, 39), (4096, 48), (4096, 52), (16384, 36), (16384, 47), (16384, 48),
           (16384, 52), (65536, 42), (65536, 48), (65536, 52)]  # fmt: skip


@pytest.fixture(params=LAYOUTS, ids=lambda p: f"{p[0] >> 10}K pages, {p[1]} bits")
def machine(request) -> ArmMachine:
    granule, bits = request.param
    return ArmMachine(granule=granule, bits=bits)


def low(machine: ArmMachine) -> int:
    return (1 << 64) - (1 << machine.bits)


def test_pages_are_read_where_they_are_mapped(tmp_path, machine):
    machine.write(3 * machine.granule, b"somewhere")
    machine.map(low(machine), 3 * machine.granule)
    dump = opened(tmp_path, machine.dump())
    assert dump.architecture == "aarch64"
    assert dump.image.read(low(machine), 9) == b"somewhere"
    assert dump.image.read(machine.kernel, 12) == b"the kernel's"
    assert where(dump) == [(low(machine), machine.granule), (machine.kernel, 2 * machine.granule)]
    assert not codes(dump)


def test_blocks_are_mapped_as_far_as_the_dump_has_them(tmp_path, machine):
    shift = machine.shifts()[1]
    machine.write(3 * machine.granule, b"direct")
    machine.leaf(low(machine), shift, machine.start | machine.flags | 1)
    dump = opened(tmp_path, machine.dump())
    assert dump.image.read(low(machine) + 3 * machine.granule, 6) == b"direct"
    held = min(machine.size, 1 << shift)
    assert where(dump)[0] == (low(machine), held)


def test_entries_that_are_not_valid_map_nothing(tmp_path, machine):
    machine.leaf(low(machine), machine.low, machine.start | machine.flags | 2)  # PROT_NONE
    machine.leaf(
        low(machine) + machine.granule, machine.low, machine.start | machine.flags | 1
    )  # reserved
    dump = opened(tmp_path, machine.dump())
    assert where(dump) == [(machine.kernel, 2 * machine.granule)]


@pytest.mark.parametrize("granule", [4096, 16384, 65536])
def test_the_highest_bits_of_addresses_of_52_bits(tmp_path, granule):
    machine = ArmMachine(granule=granule, bits=52)
    high = 1 << 51 | 1 << 48
    field = (high >> 48) << 12 if machine.granule == 65536 else (1 << 48) | (high >> 50) << 8
    machine.leaf(low(machine), machine.low, field | 0x403)
    dump = opened(tmp_path, machine.dump())
    # It is not in the dump; where it would be shows in the hole alone.
    assert [(h.address, h.size) for h in dump.image.holes] == [(low(machine), machine.granule)]


@pytest.mark.parametrize(("granule", "bits"), [(4096, 48), (16384, 48), (65536, 52)])
def test_a_kernel_for_52_bits_on_a_processor_with_48(tmp_path, granule, bits):
    machine = ArmMachine(granule=granule, bits=bits)
    machine.info["NUMBER(VA_BITS)"] = "52"
    machine.info["NUMBER(TCR_EL1_T1SZ)"] = "0x10"
    assert opened(tmp_path, machine.dump()).image.read(machine.kernel, 3) == b"the"


def test_registers_are_the_processors(tmp_path, machine):
    (thread,) = opened(tmp_path, machine.dump()).threads
    assert (thread.tid, thread.registers["x30"], thread.registers["pc"]) == (0, 0, 0)


@pytest.mark.parametrize(
    "name", ["SYMBOL(swapper_pg_dir)", "NUMBER(VA_BITS)", "NUMBER(kimage_voffset)"]
)
def test_what_vmcoreinfo_lacks_is_named(tmp_path, name):
    machine = ArmMachine()
    del machine.info[name]
    with pytest.raises(DumpError, match="has no") as error:
        opened(tmp_path, machine.dump())
    assert name in str(error.value)


@pytest.mark.parametrize("bits", ["0", "-5", "64", "7777"])
def test_bits_of_nonsense_are_an_error(tmp_path, bits):
    machine = ArmMachine()
    machine.info["NUMBER(VA_BITS)"] = bits
    with pytest.raises(DumpError, match="bits"):
        opened(tmp_path, machine.dump())
