"""Compiles C programs, runs them until they are ready, and turns them into core files.

A program under test prints what it knows, one record a line, then a line ``ready``, and then
waits to be dumped: by the kernel (SIGABRT) or by gdb's ``gcore``. Everything that is missing
on a machine (a compiler, gdb, core files at all) is a skip that says so. Whatever is started
here is killed when its ``with`` block ends, and when the test session dies.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import resource
import select
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import glibcs
import numpy as np
import pytest
import zstandard
from numpy.typing import NDArray

import kmemleak_core
from kmemleak_core import dumps, heaps
from kmemleak_core.dumps.capture import capture

#: Who writes the core: the kernel as the process dies, gdb, or this package's own dumper.
How = Literal["kernel", "gcore", "capture"]
HOWS: tuple[How, ...] = ("kernel", "gcore", "capture")
PROGRAMS = Path(__file__).with_name("programs")
#: Seconds that anything here may take to come up or to be dumped.
PATIENCE = 120.0

# ---------------------------------------------------------------------------------------------
# The tests' one door to the package: if the API moves, only this part does.


def scan(core: Path | str, **options: Any) -> Any:
    """Scan a core through the public API; the result has ``.leaks["address"]``."""
    return kmemleak_core.scan(core, **options)


def leak_set(report: Any) -> set[int]:
    """Return the addresses of the reported leaks."""
    return {int(address) for address in report.leaks["address"]}


def excuses(report: Any, missing: set[int]) -> set[int]:
    """Return those true leaks that the report can explain: stale registers or live stack.

    A block counts as explained if every word that refers to it is in a register, on a live
    stack, or in another block that is missing too.
    """
    explained = set()
    for address in missing:
        words = [word for word in report.referrers(address) if word.live]
        if words and all(
            word.kind in ("registers", "stacks") or holder(word) in missing for word in words
        ):
            explained.add(address)
    return explained


def holder(word: Any) -> int | None:
    """Return the address of the object that a referring word lies in; None for a root."""
    found = re.match(r"object (0x[0-9a-f]+)", word.name)
    return int(found[1], 16) if found else None


def walk(core: Path | str) -> Any:
    """Walk the heap of a core without scanning it; returns a `kmemleak_core.heaps.Heap`."""
    dump = dumps.open_dump(os.fspath(core))
    for finder in heaps.finders():
        heap = finder.find(dump)
        if heap is not None:
            return heap
    raise AssertionError(f"no heap found in {core}")


# ---------------------------------------------------------------------------------------------
# Compiling


def need(command: str, package: str | None = None) -> str:
    """Return a command's path, or skip naming the Debian package that has it."""
    path = shutil.which(command) or shutil.which(command, path="/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"needs {command} (apt-get install {package or command})")
    return path


def compile_program(
    source: str | Path,
    *,
    glibc: str | None = None,
    flags: Sequence[str] = (),
    libraries: Sequence[str] = (),
) -> Path:
    """Compile a C or C++ source into a cached binary and return its path.

    Parameters
    ----------
    source
        A file (``.c``, ``.cc``), or C source as a string.
    glibc
        None for this machine's C library, else one of `glibcs.SUITES`: C only, compiled and
        linked against the oldest, run by the loader and libraries of this one.
    flags, libraries
        Added before and after the source.
    """
    if isinstance(source, Path):
        text, name = source.read_bytes(), source.name
    else:
        text, name = source.encode(), "program.c"
    plus = not name.endswith(".c")
    compiler = need("g++", "g++") if plus else need("gcc")
    command = [compiler, "-O1", "-g", "-pthread", f"-I{PROGRAMS}", *flags]
    link: list[str] = []
    if glibc is not None:
        if plus:
            raise ValueError("only C programs are built against other C libraries")
        oldest = glibcs.glibc(glibcs.OLDEST)
        library = glibcs.glibc(glibc)
        # gcc looks for start files and libraries beside itself before it looks in the sysroot.
        startup = oldest.root / "usr/lib" / glibcs.MULTIARCH
        command += [f"--sysroot={oldest.root}", f"-B{startup}/"]
        link = [
            f"-L{startup}",
            f"-L{oldest.folder}",
            "-Wl,--disable-new-dtags",
            f"-Wl,-rpath,{library.folder}",
            f"-Wl,--dynamic-linker={library.loader}",
        ]
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    headers = b"".join(h.read_bytes() for h in sorted(PROGRAMS.glob("*.h")))
    recipe = "\0".join([*command, *link, *libraries, name]).encode()
    digest = hashlib.sha256(b"\0".join([recipe, version, headers, text])).hexdigest()[:16]
    folder = glibcs.cache_folder() / "programs"
    binary = folder / f"{Path(name).stem}-{digest}"
    if binary.exists():
        return binary
    folder.mkdir(parents=True, exist_ok=True)
    own = folder / f"{binary.name}.{os.getpid()}{Path(name).suffix}"
    own.write_bytes(text)
    part = binary.with_name(f"{binary.name}.{os.getpid()}.part")
    try:
        line = [*command, *link, str(own), "-o", str(part), *libraries]
        done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(line)}\n{done.stderr}")
        part.rename(binary)
    finally:
        own.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
    return binary


# ---------------------------------------------------------------------------------------------
# Running

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1
_PR_SET_PTRACER = 0x59616D61
_PR_SET_PTRACER_ANY = ctypes.c_ulong(-1)
#: Dump every kind of mapping, shared and file-backed ones too (core(5)).
EVERYTHING = 0x7F


def _child_setup(coredump_filter: int | None, user: int | None) -> None:
    """Run between fork and exec: die with the tests, let core files and gdb happen."""
    _LIBC.prctl(_PR_SET_PTRACER, _PR_SET_PTRACER_ANY)
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    if coredump_filter is not None:
        with open("/proc/self/coredump_filter", "w") as file:
            file.write(hex(coredump_filter))
    if user is not None:
        # Last but one: it takes away the right to the file above, and undoes the line below.
        os.setgroups([])
        os.setuid(user)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Process:
    """A running program and the folder it runs in; made by `running`."""

    def __init__(self, popen: subprocess.Popen[bytes], folder: Path) -> None:
        self.popen = popen
        self.folder = folder
        self.pid = popen.pid
        self.lines: list[str] = []
        self._pending = b""

    def read_until(self, last: str, patience: float = PATIENCE) -> list[str]:
        """Read the program's output up to a line that holds `last`; return what came before."""
        assert self.popen.stdout is not None
        pipe = self.popen.stdout.fileno()
        deadline = time.monotonic() + patience
        while True:
            while b"\n" in self._pending:
                raw, self._pending = self._pending.split(b"\n", 1)
                line = raw.decode(errors="replace")
                if last in line:
                    return self.lines
                self.lines.append(line)
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                raise TimeoutError(f"no {last!r} within {patience} s; so far: {self.lines[-5:]}")
            data = os.read(pipe, 1 << 16)
            if not data:
                status = self.popen.wait(10)
                raise RuntimeError(f"ended with {status} before {last!r}: {self.lines[-5:]}")
            self._pending += data

    def settle(self, pid: int | None = None) -> None:
        """Wait until every thread sleeps in the kernel."""
        deadline = time.monotonic() + PATIENCE
        quiet = 0
        while quiet < 3:
            if time.monotonic() > deadline:
                raise TimeoutError("the program does not come to rest")
            quiet = quiet + 1 if _asleep(pid or self.pid) else 0
            time.sleep(0.01)

    def dump(self, how: How, pid: int | None = None) -> Path:
        """Dump the process (or a child of it) and return the core file.

        The kernel's way ends the process, gcore's does not.
        """
        self.settle(pid)
        if how == "gcore":
            try:
                return gcore(pid or self.pid, self.folder)
            except IncompleteCoreError as error:
                pytest.skip(str(error))
        if how == "capture":
            core = self.folder / f"capture.{pid or self.pid}"
            capture(pid or self.pid, core)
            return core
        check_core_pattern()
        before = set(self.folder.iterdir())
        os.kill(pid or self.pid, signal.SIGABRT)
        if pid is None:
            self.popen.wait(PATIENCE)
        return self.kernel_core(before, pid)

    def kernel_core(self, before: set[Path] | None = None, pid: int | None = None) -> Path:
        """Return the core file that the kernel wrote when the process died."""
        if pid is not None:
            _wait_gone(pid)
        return find_core(self.folder, pid or self.pid, before or set())


@contextmanager
def running(
    command: Sequence[str | Path],
    folder: Path,
    *,
    ready: str | None = "ready",
    environment: Mapping[str, str] | None = None,
    coredump_filter: int | None = EVERYTHING,
    user: int | None = None,
    **popen: Any,
) -> Iterator[Process]:
    """Run a program in a folder, wait for its ``ready`` line, and kill it at the end.

    Parameters
    ----------
    command
        The program and its arguments.
    folder
        Its working directory, made if need be; the kernel's core lands there.
    ready
        What the line contains that says it is ready; None not to wait.
    environment
        The complete environment; None for a small, fixed one: heaps depend on it.
    coredump_filter
        Which mappings to dump (core(5)); None for the system's default.
    user
        A user id to run as (only root can).
    popen
        Further options for `subprocess.Popen`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if environment is None:
        environment = {"PATH": os.defpath, "HOME": str(folder), "LC_ALL": "C.UTF-8"}
    options: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        **popen,
    }
    child = subprocess.Popen(
        [str(word) for word in command],
        cwd=folder,
        env=dict(environment),
        start_new_session=True,
        preexec_fn=lambda: _child_setup(coredump_filter, user),
        **options,
    )
    process = Process(child, folder)
    try:
        if ready is not None:
            process.read_until(ready)
        yield process
    finally:
        # The group is its own (start_new_session): its children go with it.
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(PATIENCE)
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()


def _asleep(pid: int) -> bool:
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state not in "STt":
            return False
    return True


def _wait_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state in "ZX":
            return
        time.sleep(0.01)
    raise TimeoutError(f"process {pid} does not end")


# ---------------------------------------------------------------------------------------------
# Dumping


def check_core_pattern() -> str:
    """Return the kernel's core_pattern, or skip if no core file can land in a folder of ours."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern.startswith("|"):
        pytest.skip(f"core_pattern pipes core files to a program: {pattern}")
    if not pattern or re.search(r"%[^%pPeEi]", pattern):
        pytest.skip(f"core_pattern names no file these tests can find: {pattern!r}")
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("the hard limit on core files is 0 (ulimit -Hc)")
    return pattern


def find_core(folder: Path, pid: int, before: set[Path]) -> Path:
    """Return the core file of a process that died in `folder`."""
    pattern = check_core_pattern()
    place = folder if not pattern.startswith("/") else Path(pattern).parent
    stem = re.split(r"%", Path(pattern).name)[0]
    fresh = [p for p in place.glob(f"{stem}*") if p not in before and _is_core(p)]
    if pattern.startswith("/"):
        fresh = [p for p in fresh if str(pid) in p.name]
    if not fresh:
        pytest.skip(f"the kernel wrote no core file (core_pattern {pattern!r}, in {place})")
    return max(fresh, key=lambda p: p.stat().st_mtime_ns)


def _is_core(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        head = file.read(18)
    return head[:4] == b"\x7fELF" and head[16:18] == b"\x04\x00"


def gdb(pid: int, *commands: str) -> str:
    """Attach gdb, run commands, detach; returns what it printed. Skips if it may not attach."""
    program = need("gdb")
    line = [program, "-nx", "-batch", "-ex", "set confirm off", "-ex", "set debuginfod enabled off"]
    line += ["-ex", f"attach {pid}"]
    for command in commands:
        line += ["-ex", command]
    done = subprocess.run(
        line,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        stdin=subprocess.DEVNULL,
        env={"PATH": os.defpath, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"},
        check=False,
    )
    said = done.stdout + done.stderr
    if "ptrace: " in said and "Operation not permitted" in said:
        pytest.skip(f"gdb may not attach here: {said.strip().splitlines()[-1]}")
    return said


def gcore(
    pid: int, folder: Path, *before: str, report: Callable[[str], object] = lambda said: None
) -> Path:
    """Write a process's core by gdb, after other gdb commands in the same stop.

    `report` gets what gdb printed.
    """
    core = folder / f"gcore.{pid}"
    said = gdb(pid, *before, f"gcore {core}")
    report(said)
    if not core.is_file():
        raise RuntimeError(f"gcore wrote nothing:\n{said}")
    unread = [address for address in _UNREAD.findall(said) if int(address, 16) < 1 << 63]
    if unread:
        raise IncompleteCoreError(core, unread[0])
    return core


class IncompleteCoreError(Exception):
    """A core without memory that the process had: this gdb stops at guard pages.

    glibc 2.42 and later put them (``MADV_GUARD_INSTALL``) inside one mapping of all stacks.
    """

    def __init__(self, core: Path, address: str) -> None:
        super().__init__(f"this gdb leaves out a mapping from its first guard page on: {address}")
        self.core = core


_UNREAD = re.compile(r"Memory read failed for corefile section, \d+ bytes at (0x[0-9a-f]+)")


# ---------------------------------------------------------------------------------------------
# Programs that print what they know


@dataclass
class Truth:
    """What a program said about its own blocks before it was dumped.

    Parameters
    ----------
    held, lost, freed
        Name → addresses.
    sizes
        Address → requested size, of held and lost ones.
    """

    held: dict[str, list[int]] = field(default_factory=dict)
    lost: dict[str, list[int]] = field(default_factory=dict)
    freed: dict[str, list[int]] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, lines: Sequence[str]) -> Truth:
        """Read lines ``held|lost|freed NAME ADDRESS SIZE`` (hex address, decimal size)."""
        last: dict[int, tuple[str, str, int]] = {}
        for line in lines:
            verdict, name, address, size = line.split()
            # What is said last counts: a block is freed, its address given out again.
            last[int(address, 16)] = (verdict, name, int(size))
        truth = cls()
        for at, (verdict, name, length) in last.items():
            getattr(truth, verdict).setdefault(name, []).append(at)
            if verdict != "freed":
                truth.sizes[at] = length
        return truth

    @staticmethod
    def all_of(group: Mapping[str, Sequence[int]]) -> set[int]:
        """Return every address of a group (``truth.lost``, …)."""
        return {address for addresses in group.values() for address in addresses}


@dataclass(frozen=True)
class Sample:
    """A core file and what its program had said."""

    core: Path
    truth: Truth
    pid: int


def sample(
    source: str | Path,
    folder: Path,
    *,
    how: How = "kernel",
    glibc: str | None = None,
    arguments: Sequence[str] = (),
    flags: Sequence[str] = (),
    libraries: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    coredump_filter: int | None = EVERYTHING,
) -> Sample:
    """Compile a program of `PROGRAMS` (or any), run it, dump it, and parse what it said."""
    if isinstance(source, str) and "\n" not in source:
        source = PROGRAMS / source
    binary = compile_program(source, glibc=glibc, flags=flags, libraries=libraries)
    if how == "kernel":
        check_core_pattern()
    with running(
        [binary, *arguments], folder, environment=environment, coredump_filter=coredump_filter
    ) as process:
        core = process.dump(how)
        return Sample(core, Truth.parse(process.lines), process.pid)


#: What only our own dumper leaves out: shared files, which can be read later.
LEFT_OUT: dict[How, tuple[str, ...]] = {"kernel": (), "gcore": (), "capture": ("file-shared",)}


def check(taken: Sample, left_out: Collection[str] = ()) -> None:
    """Assert that walk and scan of a sample say exactly what its program said.

    One or two leaks may be held by stale words that the report can show: what ran before main
    leaves addresses on the live stack, and large blocks are mapped where something else was.
    `left_out` names held blocks whose holder is not in the dump: they look lost, and the
    report's coverage has to say that something is missing.
    """
    truth = taken.truth
    heap = walk(taken.core)
    walked = {int(address) for address in heap.objects.address}
    lost, held = Truth.all_of(truth.lost), Truth.all_of(truth.held)
    unseen = {address for name in left_out for address in truth.held.get(name, ())}
    lost, held = lost | unseen, held - unseen
    freed = Truth.all_of(truth.freed)
    assert not (lost | held) - walked, "blocks that the walk did not find"
    assert not freed & walked, "freed chunks that the walk took for blocks"
    assert [c for c in heap.checks if not c.passed] == [], "glibc's own sums disagree"
    assert [n for n in heap.coverage if n.nbytes] == [], "heap memory that did not parse"
    report = scan(taken.core)
    found = leak_set(report)
    assert not unseen or any(note.nbytes for note in report.coverage), "nothing said to be missing"
    stale = excuses(report, lost - found)
    missed = lost - found - stale
    assert not missed, f"leaks that were not reported:\n{explain(report, missed)}"
    assert len(stale) <= 2, f"too many stale words:\n{explain(report, stale)}"
    assert not found & held, "blocks in use that were reported"
    assert not found - lost, "blocks of the C library's own that were reported"


def explain(report: Any, addresses: set[int]) -> str:
    """Say which live words hold some blocks: for the message of a failed test."""
    lines = []
    for address in sorted(addresses)[:20]:
        lines.append(f"{address:#x}:")
        lines += [f"  {word}" for word in report.referrers(address) if word.live]
    return "\n".join(lines)


# ---------------------------------------------------------------------------------------------
# leakgen: the generator of cores with known answers

#: leakgen's classes in its own numbering.
CLASSES = (
    "reach",
    "interior",
    "mainstack",
    "regonly",
    "tlsonly",
    "thrstack",
    "direct",
    "indirect",
    "cycle",
    "freed",
    "mmaponly",
    "hidden16",
    "bigreach",
    "bigleak",
    "staleonly",
    "endptr",
)
#: Which of them are leaks by default; see the README beside the generator.
LEAKS = ("direct", "indirect", "cycle", "staleonly", "bigleak", "hidden16")
#: (objects, leaks) of the sizes that the figures are given for.
SIZES = {
    "xs": (20_000, 400),
    "s": (100_000, 1_000),
    "m": (1_000_000, 10_000),
    "l": (5_000_000, 50_000),
}


@dataclass(frozen=True)
class Generated:
    """A core of leakgen and the truth about every object in it.

    Parameters
    ----------
    core
        The core file.
    objects
        Every object: ``address`` (u8), ``size`` (u4, as requested), ``kind`` (u4, an index
        into `CLASSES`).
    """

    core: Path
    objects: NDArray[Any]

    def of(self, *names: str) -> NDArray[np.uint64]:
        """Return the sorted addresses of the objects of some classes."""
        kinds = [CLASSES.index(name) for name in names]
        found: NDArray[np.uint64] = self.objects["address"][np.isin(self.objects["kind"], kinds)]
        return np.sort(found)

    def delete(self) -> None:
        """Remove the core file."""
        self.core.unlink(missing_ok=True)


_RECORD = np.dtype([("address", "<u8"), ("size", "<u4"), ("kind", "<u4")])


def given(folder: Path) -> Generated:
    """Return the core with known answers that somebody made before, from its folder."""
    with zstandard.open(folder / "all.bin.zst", "rb") as file:
        objects = np.frombuffer(file.read(), dtype=_RECORD)
    return Generated(folder / "core.zst", objects)


def leakgen(
    n: int,
    leaks: int,
    seed: int,
    *,
    source: Path,
    folder: Path,
    glibc: str | None = None,
    how: How = "kernel",
) -> Generated:
    """Run leakgen in `folder` (made, and emptied of everything but the core) and dump it."""
    binary = compile_program(source, glibc=glibc, flags=("-O2", "-w"), libraries=("-lm",))
    folder.mkdir(parents=True, exist_ok=True)
    prefix = folder / "out"
    mode = "abort" if how == "kernel" else "pause"
    if how == "kernel":
        check_core_pattern()
    command: list[str | Path] = [binary, str(n), str(leaks), str(seed), mode, prefix]
    with running(command, folder, coredump_filter=None) as process:
        if how == "kernel":
            process.popen.wait(PATIENCE)
            core = process.kernel_core()
        else:
            core = process.dump(how)
    objects = np.fromfile(f"{prefix}.all.bin", dtype=_RECORD)
    for name in ("truth", "all.bin", "summary"):
        Path(f"{prefix}.{name}").unlink()
    return Generated(core, objects)
