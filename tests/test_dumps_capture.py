"""A running process is dumped and goes on."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kmemleak_core import DumpError, UsageError
from kmemleak_core.dumps import open_dump
from kmemleak_core.dumps.capture import capture

from .builders.programs import compile_c, gdb_core, running

if not sys.platform.startswith("linux") or platform.machine() not in ("x86_64", "aarch64"):
    pytest.skip("processes are dumped on Linux, x86-64 and AArch64", allow_module_level=True)

PROGRAM = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int data = 4711;
static char *text, *shared, *secret, *sparse, *reserved;

static void *wait(void *unused) { (void)unused; for (;;) pause(); return 0; }

int main(void) {
    pthread_t thread;
    char line[64];
    int beat = 0;
    text = strcpy(malloc(100), "on the heap");
    shared = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    strcpy(shared, "shared");
    secret = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(secret, "secret");
    madvise(secret, 8192, MADV_DONTDUMP);
    sparse = mmap(0, 256 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    strcpy(sparse + (200 << 20), "far away");
    reserved = mmap(0, 1 << 30, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    for (int i = 0; i < 3; i++) pthread_create(&thread, 0, wait, 0);
    printf("%lx %lx %lx %lx %lx %lx\n", (long)&data, (long)text, (long)shared, (long)secret,
           (long)sparse, (long)reserved);
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) { printf("beat %d\n", ++beat); fflush(stdout); }
    return 0;
}
"""


@pytest.fixture(scope="module", autouse=True)
def _may_trace(tmp_path_factory):
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            capture(process.pid, tmp_path_factory.mktemp("may") / "core")
        except DumpError as error:
            if "permission" not in str(error):
                raise
            pytest.skip(f"this machine lets nobody trace even a child: {error}")
        finally:
            process.kill()


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return compile_c(tmp_path_factory.mktemp("capture"), "living", PROGRAM, "-pthread")


@pytest.fixture
def living(program):
    with subprocess.Popen(
        [str(program)], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as process:
        process.addresses = [int(word, 16) for word in process.stdout.readline().split()]
        try:
            yield process
        finally:
            process.kill()


def dump(process, path: Path):
    capture(process.pid, path)
    return open_dump(path)


def beats(process) -> bool:
    process.stdin.write("x\n")
    process.stdin.flush()
    return process.stdout.readline().startswith("beat")


def test_the_process_goes_on(tmp_path, living):
    dump(living, tmp_path / "core")
    assert beats(living)
    states = [
        line.split()[1]
        for task in Path(f"/proc/{living.pid}/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith(("State:", "TracerPid:"))
    ]
    assert set(states) <= {"S", "R", "0"}


def test_memory_threads_and_process_are_in_the_core(tmp_path, living):
    made = dump(living, tmp_path / "core")
    data, text, shared, _, sparse, _ = living.addresses
    image = made.image
    assert int.from_bytes(image.read(data, 4), sys.byteorder) == 4711
    assert image.read(text, 12) == b"on the heap\0"
    assert image.read(shared, 7) == b"shared\0"
    assert image.read(sparse + (200 << 20), 9) == b"far away\0"
    assert image.read(sparse, 100) == bytes(100)
    assert made.process["name"] == "living"
    assert made.process["pid"] == str(living.pid)
    assert made.threads[0].tid == living.pid
    assert {t.tid for t in made.threads} == {
        int(t.name) for t in Path(f"/proc/{living.pid}/task").iterdir()
    }
    assert image.find(made.threads[0].stack_pointer).name == "[stack]"
    assert all(t.tls_base and image.find(t.tls_base) for t in made.threads)
    assert made.auxv[6] == os.sysconf("SC_PAGE_SIZE")
    assert any(f.path.endswith("/living") for f in made.files)
    assert not [n for n in made.coverage if n.code not in ("dump.not-dumped", "dump.filtered")]


def test_what_is_not_to_be_dumped_is_not(tmp_path, living):
    made = dump(living, tmp_path / "core")
    *_, secret, _, reserved = living.addresses
    assert made.image.find(secret) is None
    assert made.image.find(reserved) is None
    assert any(h.address <= secret < h.end for h in made.image.holes)


def test_memory_that_was_never_touched_takes_no_room(tmp_path, living):
    dump(living, tmp_path / "core")
    state = os.stat(tmp_path / "core")
    assert state.st_size > 256 << 20
    assert state.st_blocks * 512 < 32 << 20


def test_it_agrees_with_gdb(tmp_path, living):
    # Stopped, so that no thread moves between the two dumps.
    living.send_signal(signal.SIGSTOP)
    ours = dump(living, tmp_path / "core")
    theirs = open_dump(gdb_core(tmp_path, living.pid))
    assert {t.tid: t.stack_pointer for t in ours.threads} == {
        t.tid: t.stack_pointer for t in theirs.threads
    }
    assert {t.tid: t.tls_base for t in ours.threads} == {t.tid: t.tls_base for t in theirs.threads}
    assert ours.files == theirs.files
    writable = [s for s in ours.image.segments if s.writable and s.name != "[stack]"]
    for segment in writable:
        if theirs.image.find(segment.address) is not None:
            size = min(segment.size, 1 << 20)
            assert ours.image.read(segment.address, size) == theirs.image.read(
                segment.address, size
            )


def test_gdb_reads_the_core(tmp_path, living):
    if shutil.which("gdb") is None:
        pytest.skip("no gdb")
    dump(living, tmp_path / "core")
    done = subprocess.run(
        ["gdb", "-batch", "-nx", "-ex", "info threads", living.args[0], str(tmp_path / "core")],
        capture_output=True,
        text=True,
    )
    assert done.stdout.count("LWP") >= 4, done.stdout + done.stderr


def test_a_stopped_process_stays_stopped(tmp_path, living):
    living.send_signal(signal.SIGSTOP)
    time.sleep(0.1)
    dump(living, tmp_path / "core")
    time.sleep(0.1)
    assert "State:\tT" in Path(f"/proc/{living.pid}/status").read_text()
    living.send_signal(signal.SIGCONT)
    assert beats(living)


def test_the_file_is_its_user_s_only(tmp_path, living):
    dump(living, tmp_path / "core")
    assert (tmp_path / "core").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_there_is_replaced_only_by_force(tmp_path, living):
    path = tmp_path / "core"
    path.write_text("precious")
    with pytest.raises(UsageError, match="there already"):
        capture(living.pid, path)
    assert path.read_text() == "precious"
    capture(living.pid, path, force=True)
    assert open_dump(path).threads
    assert list(tmp_path.iterdir()) == [path]


def test_there_must_be_such_a_process(tmp_path):
    with pytest.raises(DumpError, match="no process"):
        capture(1 << 22 | 12345, tmp_path / "core")
    with pytest.raises(DumpError, match="no process"):
        capture(-1, tmp_path / "core")
    assert list(tmp_path.iterdir()) == []


def test_a_thread_stands_for_its_process(tmp_path, living):
    tasks = sorted(int(t.name) for t in Path(f"/proc/{living.pid}/task").iterdir())
    capture(tasks[-1], tmp_path / "core")
    made = open_dump(tmp_path / "core")
    assert made.process["pid"] == str(living.pid)
    assert {t.tid for t in made.threads} == set(tasks)


I386 = """
static int call(int number, int a, const char *b, int c) {
    int result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
    return result;
}
static char data[] = "in the data";
void _start(void) {
    call(4, 1, "ready\\n", 6);
    data[0] = 'I';
    for (;;) __asm__ volatile("int $0x80" : : "a"(29), "S"(0x12345678), "D"(data));
}
"""


def test_a_32_bit_process_of_a_64_bit_machine(tmp_path):
    if platform.machine() != "x86_64":
        pytest.skip("the program is written for i386")
    flags = "-m32 -nostdlib -static -ffreestanding -fno-pie -no-pie -fno-stack-protector"
    small = compile_c(tmp_path, "small", I386, *flags.split())
    with running(small) as process:
        capture(process.pid, tmp_path / "core")
    made = open_dump(tmp_path / "core")
    assert (made.architecture, made.image.word_size) == ("i386", 4)
    (thread,) = made.threads
    assert thread.registers["esi"] == 0x12345678
    assert made.image.read(thread.registers["edi"], 11) == b"In the data"
    assert made.image.find(thread.stack_pointer).name == "[stack]"
    assert made.process["name"] == "small"


def test_a_process_cannot_dump_itself(tmp_path):
    with pytest.raises(DumpError, match="itself"):
        capture(os.getpid(), tmp_path / "core")


def test_a_process_that_is_traced_already_is_refused(tmp_path, living):
    if shutil.which("gdb") is None:
        pytest.skip("no gdb")
    with subprocess.Popen(
        ["gdb", "-nx", "-q", "-p", str(living.pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as gdb:
        try:
            status = Path(f"/proc/{living.pid}/status")
            for _ in range(200):
                if "TracerPid:\t0" not in status.read_text():
                    break
                time.sleep(0.05)
            else:
                pytest.skip("gdb did not attach")
            with pytest.raises(DumpError, match="traced by process"):
                capture(living.pid, tmp_path / "core")
        finally:
            gdb.kill()
    assert list(tmp_path.iterdir()) == []


def test_a_zombie_has_no_memory(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(DumpError):
            capture(process.pid, tmp_path / "core")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_told(tmp_path, living):
    with pytest.raises(DumpError, match="cannot be written"):
        capture(living.pid, tmp_path / "nowhere" / "core")


def test_threads_that_come_and_go_meanwhile_do_no_harm(tmp_path):
    source = r"""
    #include <pthread.h>
    #include <stdio.h>
    static void *work(void *x) { return x; }
    int main(void) {
        puts("ready"); fflush(stdout);
        for (;;) { pthread_t t[8];
            for (int i = 0; i < 8; i++) pthread_create(&t[i], 0, work, 0);
            for (int i = 0; i < 8; i++) pthread_join(t[i], 0); }
    }
    """
    busy = compile_c(tmp_path, "busy", source, "-pthread")
    with running(busy) as process:
        for _ in range(10):
            capture(process.pid, tmp_path / "core", force=True)
            made = open_dump(tmp_path / "core")
            assert made.threads[0].tid == process.pid
            assert all(made.image.find(t.stack_pointer) for t in made.threads)
        assert process.poll() is None
