"""Notes of ELF cores: threads and their registers, process, auxiliary vector."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from kmemleak_core import Dump
from kmemleak_core.dumps import open_dump
from kmemleak_core.dumps.elf_registers import decode_xsave, decode_xsave_layout

from .builders.elf import EM_386, EM_AARCH64, EM_ARM, EM_PPC64, EM_X86_64, CoreBuilder
from .builders.programs import compile_c, gdb_core, kernel_core, running


def opened(tmp_path: Path, builder: CoreBuilder) -> Dump:
    path = tmp_path / "core"
    path.write_bytes(builder.load(0x1000, bytes(64)).build())
    return open_dump(path)


def test_registers_of_x86_64(tmp_path):
    builder = CoreBuilder().thread(77, list(range(100, 127)), signal=11)
    (thread,) = opened(tmp_path, builder).threads
    assert (thread.tid, thread.signal) == (77, 11)
    assert thread.registers["r15"] == 100
    assert thread.registers["rbx"] == 105
    assert thread.registers["rax"] == 110
    assert thread.registers["rip"] == 116
    assert thread.stack_pointer == thread.registers["rsp"] == 119
    assert thread.tls_base == thread.registers["fs_base"] == 121
    assert thread.registers["gs"] == 126


def test_registers_of_i386_and_the_thread_pointer_behind_its_selector(tmp_path):
    values = list(range(100, 117))
    values[10] = 0x63  # gs: entry 12
    builder = CoreBuilder(32, "little", EM_386).thread(5, values)
    builder.note(b"LINUX", 0x200, struct.pack("<8I", 11, 0xBAD, 0, 0, 12, 0xF7001000, 0, 0))
    (thread,) = opened(tmp_path, builder).threads
    assert thread.registers["ebx"] == 100
    assert thread.registers["esp"] == thread.stack_pointer == 115
    assert thread.registers["eip"] == 112
    assert thread.tls_base == 0xF7001000


@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_registers_of_aarch64(tmp_path, byteorder):
    builder = CoreBuilder(64, byteorder, EM_AARCH64).thread(5, list(range(100, 134)))
    builder.note(b"CORE", 2, b"".join(builder.pack("QQ", 7000 + i, i) for i in range(33)))
    builder.note(b"LINUX", 0x401, builder.pack("QQ", 0xFFFF_0000_1000, 0))
    (thread,) = opened(tmp_path, builder).threads
    assert thread.registers["x0"] == 100
    assert thread.registers["x30"] == 130
    assert thread.stack_pointer == 131
    assert thread.registers["pc"] == 132
    assert thread.tls_base == 0xFFFF_0000_1000
    assert dict(thread.vectors)["v31"] == builder.pack("QQ", 7031, 31)


def test_registers_of_arm(tmp_path):
    builder = CoreBuilder(32, "little", EM_ARM).thread(5, list(range(100, 118)))
    builder.note(b"LINUX", 0x400, struct.pack("<33Q", *range(1, 34)))
    (thread,) = opened(tmp_path, builder).threads
    assert thread.registers["r12"] == 112
    assert thread.stack_pointer == 113
    assert dict(thread.vectors)["d31"] == struct.pack("<Q", 32)


def test_registers_of_an_unknown_machine_are_told_as_unread(tmp_path):
    builder = CoreBuilder(64, "big", EM_PPC64).thread(5, [0] * 48)
    dump = opened(tmp_path, builder)
    assert dump.architecture == "ppc64"
    assert dump.threads == ()
    (told,) = [n for n in dump.coverage if n.code == "dump.registers"]
    assert told.count == 1
    assert "ppc64" in told.message


def test_each_thread_has_its_own_notes(tmp_path):
    builder = CoreBuilder()
    for tid in (1, 2, 3):
        area = bytes(160) + bytes([tid]) * 16
        builder.thread(tid, [tid] * 27).note(b"CORE", 2, area.ljust(512, b"\0"))
    threads = opened(tmp_path, builder).threads
    assert [t.tid for t in threads] == [1, 2, 3]
    assert [dict(t.vectors) for t in threads] == [{"xmm0": bytes([t]) * 16} for t in (1, 2, 3)]


def test_x87_registers_are_there_too(tmp_path):
    area = bytes(32 + 16) + b"\x11" * 10
    builder = CoreBuilder().thread(1, [0] * 27).note(b"CORE", 2, area.ljust(512, b"\0"))
    (thread,) = opened(tmp_path, builder).threads
    assert dict(thread.vectors)["st1"] == b"\x11" * 10 + bytes(6)


def xsave(size: int, features: int, places: dict[int, bytes], compacted: bool = False) -> bytes:
    area = bytearray(size)
    struct.pack_into("<QQ", area, 512, features, 1 << 63 if compacted else 0)
    for offset, content in places.items():
        area[offset : offset + len(content)] = content
    return bytes(area)


@pytest.mark.parametrize(
    ("size", "opmask", "high", "upper"), [(2696, 1088, 1152, 1664), (2440, 832, 896, 1408)]
)
def test_xsave_in_both_layouts_of_avx_512(size, opmask, high, upper):
    area = xsave(
        size,
        0b11100111,
        {
            160 + 3 * 16: b"x" * 16,
            576 + 5 * 16: b"y" * 16,
            opmask + 8: b"k" * 8,
            high + 32: b"h" * 32,
            upper + 2 * 64: b"z" * 64,
        },
    )
    assert decode_xsave(area, None, True) == [
        ("xmm3", b"x" * 16),
        ("ymm5_high", b"y" * 16),
        ("k1", b"k" * 8),
        ("zmm1_high", b"h" * 32),
        ("zmm18", b"z" * 64),
    ]


def test_the_layout_note_decides_where_it_is_present():
    layout = decode_xsave_layout(struct.pack("<8I", 2, 256, 576, 0, 7, 1024, 2000, 0))
    area = xsave(3100, 0b10000111, {2000: b"z" * 64})
    assert decode_xsave(area, layout, True) == [("zmm16", b"z" * 64)]


def test_components_that_are_not_in_use_are_not_read():
    area = xsave(2696, 0b011, {576: b"y" * 16})
    assert decode_xsave(area, None, True) == []


def test_of_a_compacted_area_only_the_legacy_part_is_read():
    area = xsave(2696, 0b111, {160: b"x" * 16, 576: b"y" * 16}, compacted=True)
    assert decode_xsave(area, None, True) == [("xmm0", b"x" * 16)]


@pytest.mark.parametrize(
    ("bits", "machine", "wide_ids"), [(64, EM_X86_64, True), (32, EM_386, False), (32, 8, True)]
)
def test_the_process_in_every_form_of_its_note(tmp_path, bits, machine, wide_ids):
    builder = CoreBuilder(bits, "little", machine)
    builder.prpsinfo(4711, b"leaky", b"leaky --much ", wide_ids)
    assert opened(tmp_path, builder).process == {
        "name": "leaky",
        "arguments": "leaky --much",
        "pid": "4711",
    }


def test_the_auxiliary_vector(tmp_path):
    assert opened(tmp_path, CoreBuilder().auxv({6: 4096, 25: 0x1234})).auxv == {
        6: 4096,
        25: 0x1234,
    }


def test_unknown_notes_are_passed_over(tmp_path):
    builder = CoreBuilder().note(b"CORE", 999, b"?").note(b"GDB", 1, b"?" * 400)
    builder.thread(3, [0] * 27)
    dump = opened(tmp_path, builder)
    assert [t.tid for t in dump.threads] == [3]
    assert "dump.notes" not in {n.code for n in dump.coverage}


def test_a_damaged_note_ends_the_notes_but_not_the_dump(tmp_path):
    builder = CoreBuilder().thread(3, [0] * 27)
    builder.notes.append(struct.pack("<III", 5, 1 << 31, 1) + b"CORE\0\0\0\0")
    dump = opened(tmp_path, builder)
    assert [t.tid for t in dump.threads] == [3]
    assert "dump.notes" in {n.code for n in dump.coverage}


def test_a_list_of_files_that_promises_too_much_gives_what_it_has(tmp_path):
    builder = CoreBuilder()
    desc = builder.pack("ww", 1 << 40, 4096) + builder.pack("www", 0x1000, 0x2000, 0) + b"/x\0"
    dump = opened(tmp_path, builder.note(b"CORE", 0x46494C45, desc))
    assert len(dump.files) <= 1
    assert "dump.notes" in {n.code for n in dump.coverage}


REGISTERS = r"""
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

__thread unsigned long mine = 0x7157157157157157;
static char pattern[64];
static volatile int loaded;

static void *wait_with_registers(void *unused) {
    (void)unused;
    __asm__ volatile(
        "movabs $0x1122334455667788, %%r12\n movabs $0x99aabbccddeeff00, %%r13\n"
        "movdqu (%0), %%xmm6\n"
        "movl $1, (%1)\n"
        "1: movl $34, %%eax\n syscall\n jmp 1b\n"  /* pause */
        : : "r"(pattern), "r"(&loaded) : "r12", "r13", "rax", "rcx", "r11", "xmm6", "memory");
    return 0;
}

int main(int argc, char **argv) {
    pthread_t thread;
    (void)argv;
    memcpy(pattern, "sixteen letters!", 16);
    pthread_create(&thread, 0, wait_with_registers, 0);
    while (!loaded) usleep(1000);
    puts("ready");
    fflush(stdout);
    if (argc > 1) raise(SIGQUIT);
    for (;;) pause();
}
"""


@pytest.fixture(scope="module")
def registers_program(tmp_path_factory):
    import platform

    if platform.machine() != "x86_64":
        pytest.skip("the program is written for x86-64")
    return compile_c(tmp_path_factory.mktemp("registers"), "registers", REGISTERS, "-pthread")


def check_registers(dump: Dump) -> None:
    assert len(dump.threads) == 2
    main, other = dump.threads
    assert str(main.tid) == dump.process["pid"]
    assert dump.process["name"] == "registers"
    assert other.registers["r12"] == 0x1122334455667788
    assert other.registers["r13"] == 0x99AABBCCDDEEFF00
    assert dict(other.vectors)["xmm6"] == b"sixteen letters!"
    for thread in dump.threads:
        # The thread control block begins with a pointer to itself; TLS lies below it.
        assert dump.image.word(thread.tls_base) == thread.tls_base
        below = dump.image.words(thread.tls_base - 128, 16).tolist()
        assert 0x7157157157157157 in below
        assert dump.image.find(thread.stack_pointer)
    assert dump.image.find(main.stack_pointer).name == "[stack]"
    assert not [n for n in dump.coverage if n.code not in ("dump.not-dumped", "dump.filtered")]


def test_a_kernel_s_core_of_a_real_program(tmp_path, registers_program):
    dump = open_dump(kernel_core(tmp_path, registers_program, "die"))
    check_registers(dump)
    assert dump.threads[0].signal == 3


def test_a_core_that_the_kernel_cut_off_at_its_limit(tmp_path, registers_program):
    whole = open_dump(kernel_core(tmp_path, registers_program, "die"))
    # In the shell's blocks of 512 or 1024 bytes; the headers alone need more than four pages.
    made = kernel_core(tmp_path / "limited", registers_program, "die", limit="100")
    dump = open_dump(made)
    assert 0 < dump.image.nbytes < whole.image.nbytes
    assert dump.threads[1].registers["r12"] == 0x1122334455667788
    # Zeros do not count against the limit: the file may be longer, and sparse.
    assert made.stat().st_blocks * 512 <= 200 * 1024
    (note,) = [n for n in dump.coverage if n.code == "dump.truncated"]
    assert note.nbytes + dump.image.nbytes == whole.image.nbytes


def test_gdb_s_core_of_a_real_program(tmp_path, registers_program):
    with running(registers_program) as process:
        core = gdb_core(tmp_path, process.pid)
    check_registers(open_dump(core))


I386 = """
static char data[64] = "in the data";
void _start(void) {
    __asm__ volatile("movl %0, %%esi\\n movl $0x12345678, %%edi\\n movd %%edi, %%xmm3\\n"
                     "movl $0, 0\\n" :: "r"(data) : "esi", "edi", "xmm3");
}
"""


def test_a_kernel_s_core_of_a_32_bit_program(tmp_path):
    flags = "-m32 -msse2 -nostdlib -static -ffreestanding -fno-pie -no-pie -fno-stack-protector"
    program = compile_c(tmp_path, "small", I386, *flags.split())
    dump = open_dump(kernel_core(tmp_path, program))
    assert dump.architecture == "i386"
    (thread,) = dump.threads
    assert thread.registers["edi"] == 0x12345678
    assert thread.signal == 11
    assert dict(thread.vectors)["xmm3"] == struct.pack("<IIII", 0x12345678, 0, 0, 0)
    assert dump.image.find(thread.stack_pointer).name == "[stack]"


def test_objects_that_only_registers_hold_are_in_registers(shared_data):
    truth = (shared_data / "usercore" / "truth.txt").read_text().splitlines()
    wanted = {int(line.split()[0], 16) for line in truth if line.endswith(" regonly")}
    dump = open_dump(shared_data / "usercore" / "core.zst")
    held = {dump_value for t in dump.threads for dump_value in t.registers.values()}
    assert wanted
    assert wanted <= held
    for thread in dump.threads:
        assert dump.image.word(thread.tls_base) == thread.tls_base
