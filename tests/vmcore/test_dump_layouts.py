"""Layouts of a machine's dump, of a machine so small that every byte is known."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from kmemleak_core import Dump, DumpError
from kmemleak_core.dumps import open_dump

from ..builders.vmcore import KERNEL_MAP, LARGE, PAGE, TABLE, Machine, note, prstatus, qemu_state

DIRECT = 0xFFFF888000000000
VMALLOC = 0xFFFFC90000000000


def opened(tmp_path: Path, content: bytes, **options: str) -> Dump:
    path = tmp_path / "vmcore"
    path.write_bytes(content)
    return open_dump(path, **options)


def codes(dump: Dump) -> list[str]:
    return [note.code for note in dump.coverage]


def where(dump: Dump) -> list[tuple[int, int]]:
    return [(s.address, s.size) for s in dump.image.segments]


class TestPageTables:
    @pytest.mark.parametrize("levels", [4, 5])
    def test_pages_are_read_where_they_are_mapped(self, tmp_path, levels):
        machine = Machine(levels=levels)
        machine.write(0x3000, b"somewhere")
        machine.map(VMALLOC, 0x3000)
        dump = opened(tmp_path, machine.elf())
        assert dump.image.read(VMALLOC, 9) == b"somewhere"
        assert dump.image.read(KERNEL_MAP, 12) == b"the kernel's"
        assert where(dump) == [(VMALLOC, PAGE), (KERNEL_MAP, 2 * PAGE)]

    @pytest.mark.parametrize(("shift", "size"), [(21, 2 << 20), (30, 1 << 30)])
    def test_large_pages_are_mapped_as_far_as_the_dump_has_them(self, tmp_path, shift, size):
        machine = Machine()
        machine.write(0x3000, b"direct")
        machine.leaf(DIRECT, shift, 0 | LARGE)
        dump = opened(tmp_path, machine.elf())
        assert dump.image.read(DIRECT + 0x3000, 6) == b"direct"
        assert (dump.image.segments[0].address, dump.image.segments[0].size) == (DIRECT, 64 * PAGE)
        (hole,) = dump.image.holes
        assert (hole.address, hole.size) == (DIRECT + 64 * PAGE, size - 64 * PAGE)
        assert codes(dump) == ["vmcore.missing"]

    def test_neighbours_that_lie_apart_in_memory_are_apart(self, tmp_path):
        machine = Machine()
        for i, frame in enumerate((1, 2, 40, 41, 39)):
            machine.map(VMALLOC + i * PAGE, frame * PAGE)
        dump = opened(tmp_path, machine.elf())
        assert where(dump)[:-1] == [
            (VMALLOC, 2 * PAGE), (VMALLOC + 2 * PAGE, 2 * PAGE), (VMALLOC + 4 * PAGE, PAGE)
        ]  # fmt: skip

    def test_the_programs_half_is_left_out(self, tmp_path):
        machine = Machine()
        machine.map(0x400000, 0x3000)
        assert where(opened(tmp_path, machine.elf())) == [(KERNEL_MAP, 2 * PAGE)]

    def test_a_page_that_is_mapped_twice_is_there_twice(self, tmp_path):
        machine = Machine()
        machine.map(VMALLOC, machine.phys_base)
        dump = opened(tmp_path, machine.elf())
        assert dump.image.read(VMALLOC, 3) == dump.image.read(KERNEL_MAP, 3) == b"the"

    def test_a_table_that_leads_to_itself_ends(self, tmp_path):
        machine = Machine()
        for index in range(256, 510):
            machine.entry(machine.root, index, machine.root | TABLE)
        dump = opened(tmp_path, machine.elf())
        assert dump.image.read(KERNEL_MAP, 3) == b"the"

    def test_a_table_that_is_used_again_and_again_is_shown_once(self, tmp_path):
        machine = Machine()
        table = machine.leaf(VMALLOC, 12, 0x3000 | 0x63)
        upper = machine.leaf(VMALLOC + (1 << 21), 21, 0)
        for index in range(1, 512):
            machine.entry(upper, index, table | TABLE)
        assert where(opened(tmp_path, machine.elf()))[:-1] == [(VMALLOC, PAGE)]

    def test_a_table_that_is_not_in_the_dump_is_a_hole(self, tmp_path):
        machine = Machine()
        machine.leaf(VMALLOC, 21, machine.size + PAGE | TABLE)
        dump = opened(tmp_path, machine.elf())
        (hole,) = dump.image.holes
        assert (hole.address, hole.size, hole.reason) == (VMALLOC, 2 << 20, "no-page-table")
        assert codes(dump) == ["vmcore.tables"]

    def test_the_bit_for_encrypted_memory_is_no_address(self, tmp_path):
        machine = Machine()
        machine.info["NUMBER(sme_mask)"] = str(1 << 47)
        machine.leaf(VMALLOC, 12, 0x3000 | 0x63 | 1 << 47)
        machine.write(0x3000, b"secret")
        assert opened(tmp_path, machine.elf()).image.read(VMALLOC, 6) == b"secret"

    def test_the_last_page_of_all_is_left_out(self, tmp_path):
        # An end of 2**64 is none; Linux maps nothing there.
        machine = Machine()
        machine.map((1 << 64) - 2 * PAGE, 0x3000, 2)
        assert where(opened(tmp_path, machine.elf()))[-1] == ((1 << 64) - 2 * PAGE, PAGE)


class TestQemu:
    def test_its_headers_are_read_as_they_are(self, tmp_path):
        # e_ehsize 8, headers after 192 bytes, memory wherever the notes end, and of devices.
        machine = Machine()
        loads = [(0, 0, machine.size, machine.size), (0, 0xFD000000, PAGE, PAGE)]
        content = machine.elf(
            loads, ehsize=8, phoff=192, aligned=False, notes=machine.notes() + bytes(3)
        )
        dump = opened(tmp_path, content)
        assert dump.image.read(KERNEL_MAP, 12) == b"the kernel's"
        assert dump.machine.physical.view(0xFD000000, PAGE).size == PAGE
        assert dump.image.words(KERNEL_MAP, 1)[0] == int.from_bytes(b"the kern", "little")

    def test_registers_that_prstatus_lacks_are_its_own(self, tmp_path):
        machine = Machine()
        state = qemu_state({"gs_base": 0xFFFF888000001000, "rip": 7}, machine.root)
        dump = opened(tmp_path, machine.elf(notes=machine.notes() + state))
        registers = dump.threads[0].registers
        assert (registers["gs_base"], registers["rip"], registers["cs"]) == (
            0xFFFF888000001000,
            7,
            16,
        )

    def test_without_vmcoreinfo_a_processors_tables_do(self, tmp_path):
        machine = Machine()
        notes = prstatus(1, [0] * 27) + qemu_state({}, machine.root)
        dump = opened(tmp_path, machine.elf(notes=notes))
        assert dump.image.read(KERNEL_MAP, 3) == b"the"
        assert codes(dump) == ["vmcore.info"]
        assert dump.machine.info == {}

    def test_a_processor_in_the_kernel_is_preferred(self, tmp_path):
        machine = Machine(levels=5)
        notes = qemu_state({}, 0x3000, cs=0x33) + qemu_state({}, machine.root, cr4=1 << 12)
        dump = opened(tmp_path, machine.elf(notes=notes))
        assert dump.image.read(KERNEL_MAP, 3) == b"the"
        assert [t.tid for t in dump.threads] == [0, 1]


class TestKdumpElf:
    def test_the_kernels_code_comes_twice_and_is_there_once(self, tmp_path):
        machine = Machine()
        loads = [
            (KERNEL_MAP, machine.phys_base, 2 * PAGE, 2 * PAGE),
            (DIRECT, 0, 16 * PAGE, 16 * PAGE),
            (DIRECT + 16 * PAGE, 16 * PAGE, 48 * PAGE, 48 * PAGE),
        ]
        dump = opened(tmp_path, machine.elf(loads))
        assert dump.machine.physical.nbytes == machine.size
        assert dump.image.read(KERNEL_MAP, 3) == b"the"
        assert not codes(dump)

    def test_where_the_kernel_lies_is_told_by_its_header_for_old_kernels(self, tmp_path):
        machine = Machine()
        del machine.info["NUMBER(phys_base)"]
        loads = [
            (KERNEL_MAP, machine.phys_base, 2 * PAGE, 2 * PAGE),
            (DIRECT, 0, machine.size, machine.size),
        ]
        assert opened(tmp_path, machine.elf(loads)).image.read(KERNEL_MAP, 3) == b"the"

    def test_processors_are_numbered_not_the_tasks_that_ran(self, tmp_path):
        machine = Machine()
        dump = opened(tmp_path, machine.elf(notes=machine.notes(processors=3)))
        assert [(t.tid, t.registers["rax"]) for t in dump.threads] == [(0, 0), (1, 1), (2, 2)]

    def test_pages_that_makedumpfile_left_out_are_counted(self, tmp_path):
        machine = Machine()
        machine.map(VMALLOC, 20 * PAGE, 12)
        loads = [(0, 0, 24 * PAGE, 30 * PAGE), (0, 30 * PAGE, 34 * PAGE, 34 * PAGE)]
        dump = opened(tmp_path, machine.elf(loads))
        assert dump.machine.missing == 6
        assert [(h.address, h.size) for h in dump.image.holes] == [(VMALLOC + 4 * PAGE, 6 * PAGE)]
        assert codes(dump) == ["vmcore.filtered", "vmcore.missing"]

    def test_a_page_table_that_it_left_out_is_one_of_zeros(self, tmp_path):
        machine = Machine()
        machine.leaf(VMALLOC, 21, 40 * PAGE | TABLE)
        loads = [(0, 0, 30 * PAGE, 50 * PAGE), (0, 50 * PAGE, 14 * PAGE, 14 * PAGE)]
        dump = opened(tmp_path, machine.elf(loads))
        assert (codes(dump), dump.image.holes) == (["vmcore.filtered"], ())

    def test_what_another_segment_holds_was_not_left_out(self, tmp_path):
        loads = [
            (0, 0, 10 * PAGE, 50 * PAGE),
            (0, 5 * PAGE, 10 * PAGE, 30 * PAGE),
            (0, 20 * PAGE, 44 * PAGE, 44 * PAGE),
        ]
        dump = opened(tmp_path, Machine().elf(loads))
        assert dump.machine.missing == 5
        assert dump.machine.physical.nbytes == (15 + 44) * PAGE


class TestKcore:
    def test_memory_without_a_physical_address_is_no_physical_memory(self, tmp_path):
        machine = Machine()
        none = (1 << 64) - 1
        loads = [
            (VMALLOC, none, 0, 1 << 45),
            (KERNEL_MAP, machine.phys_base, 2 * PAGE, 2 * PAGE),
            (DIRECT, 0, machine.size, machine.size),
        ]
        dump = opened(tmp_path, machine.elf(loads))
        assert dump.machine.physical.nbytes == machine.size
        assert where(dump) == [(KERNEL_MAP, 2 * PAGE)]
        assert dump.machine.missing == 0

    def test_of_an_old_kernel_memory_is_where_its_headers_put_it(self, tmp_path):
        # Before 4.8, /proc/kcore gives every physical address as 0; there is no VMCOREINFO.
        machine = Machine()
        code, direct = machine.memory[0x4000:0x6000], machine.memory
        loads = [(KERNEL_MAP, 0, 2 * PAGE, 2 * PAGE), (DIRECT, 0, machine.size, machine.size)]
        content = bytearray(machine.elf(loads, notes=prstatus(1, [0] * 27)))
        for at, data in zip((56, 112), (code, direct), strict=True):
            (offset,) = struct.unpack_from("<Q", content, 64 + at + 8)
            content[offset : offset + len(data)] = data
        dump = opened(tmp_path, bytes(content), format="vmcore")
        assert dump.image.read(KERNEL_MAP, 3) == b"the"
        assert dump.image.read(DIRECT + 0x4000, 3) == b"the"
        assert "vmcore.virtual" in codes(dump)


class TestVmcoreinfo:
    def test_it_is_found_in_memory_where_the_note_is_missing(self, tmp_path):
        machine = Machine()
        machine.write(50 * PAGE, machine.vmcoreinfo())
        dump = opened(tmp_path, machine.elf(notes=b""), format="vmcore")
        assert dump.machine.info == machine.info
        assert codes(dump) == ["dump.registers", "vmcore.info"]

    def test_the_note_that_the_kernel_keeps_is_found_too(self, tmp_path):
        machine = Machine()
        machine.write(50 * PAGE, note(b"VMCOREINFO", 0, machine.vmcoreinfo()))
        assert (
            opened(tmp_path, machine.elf(notes=b""), format="vmcore").machine.info == machine.info
        )

    def test_one_that_a_kernel_before_has_left_is_not_taken(self, tmp_path):
        machine = Machine()
        machine.write(50 * PAGE, machine.vmcoreinfo())
        left = {**machine.info, "NUMBER(phys_base)": str(0x20000), "LENGTH(longer)": "1"}
        machine.write(40 * PAGE, "".join(f"{k}={v}\n" for k, v in left.items()).encode())
        dump = opened(tmp_path, machine.elf(notes=b""), format="vmcore")
        assert dump.machine.info == machine.info

    def test_a_machine_is_told_by_its_physical_addresses_alone(self, tmp_path):
        machine = Machine()
        machine.write(50 * PAGE, machine.vmcoreinfo())
        loads = [(0, 0, 32 * PAGE, 32 * PAGE), (0, 32 * PAGE, 32 * PAGE, 32 * PAGE)]
        dump = opened(tmp_path, machine.elf(loads, notes=b""))
        assert dump.format == "vmcore"


class TestErrors:
    def fails(self, tmp_path: Path, content: bytes, match: str, **options: str) -> None:
        with pytest.raises(DumpError, match=match) as error:
            opened(tmp_path, content, **options)
        assert "vmcore" in str(error.value)

    def test_no_vmcoreinfo_anywhere(self, tmp_path):
        machine = Machine()
        self.fails(tmp_path, machine.elf(notes=b""), "holds no VMCOREINFO", format="vmcore")

    def test_a_vmcoreinfo_without_page_tables(self, tmp_path):
        machine = Machine(info={})
        machine.info = {"OSRELEASE": "1"}
        self.fails(tmp_path, machine.elf(), "does not say where the page tables are")

    def test_no_phys_base(self, tmp_path):
        machine = Machine()
        del machine.info["NUMBER(phys_base)"]
        self.fails(tmp_path, machine.elf(), "phys_base")

    def test_page_tables_that_are_not_in_the_dump(self, tmp_path):
        machine = Machine()
        loads = [(0, 0x9000, 8 * PAGE, 8 * PAGE)]
        self.fails(tmp_path, machine.elf(loads), "top page table, at physical address 0x8000")

    def test_page_tables_that_are_cut_off(self, tmp_path):
        content = Machine().elf()
        match = "top page table, at physical address 0x8000, is not in the dump; the file is cut"
        self.fails(tmp_path, content[: 6 * PAGE], match)

    def test_page_tables_of_nonsense(self, tmp_path):
        machine = Machine()
        machine.write(machine.root, bytes(PAGE))
        self.fails(tmp_path, machine.elf(), "map nothing")

    def test_page_tables_that_do_not_map_the_kernel(self, tmp_path):
        machine = Machine()
        machine.map(VMALLOC, 0x3000)
        machine.entry(machine.root, 511, 0)
        self.fails(tmp_path, machine.elf(), "not the kernel's code")

    def test_another_architecture(self, tmp_path):
        self.fails(tmp_path, Machine(machine=22).elf(), "architecture s390x")

    def test_a_file_cut_off_before_its_memory(self, tmp_path):
        content = Machine().elf()
        self.fails(tmp_path, content[:PAGE], "holds no memory")

    def test_a_file_cut_off_in_its_memory_is_read_as_far_as_it_goes(self, tmp_path):
        content = Machine().elf()
        dump = opened(tmp_path, content[: -20 * PAGE])
        assert codes(dump) == ["dump.truncated"]
        assert dump.image.read(KERNEL_MAP, 3) == b"the"
