"""Turns C sources into running programs and their cores."""

from __future__ import annotations

import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def compile_c(folder: Path, name: str, source: str, *flags: str) -> Path:
    """Compile a program; skips the test where there is no compiler, or not for these flags."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    code = folder / f"{name}.c"
    code.write_text(source)
    made = folder / name
    done = subprocess.run(
        [compiler, "-O1", "-o", str(made), str(code), *flags], capture_output=True, text=True
    )
    if done.returncode and "-m32" in flags:
        pytest.skip(f"the compiler makes no 32-bit programs: {done.stderr.splitlines()[0]}")
    assert done.returncode == 0, done.stderr
    return made


def kernel_core(folder: Path, program: Path, *arguments: str, limit: str = "unlimited") -> Path:
    """Run a program that kills itself and return the core that the kernel wrote."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if not pattern or pattern.startswith(("|", "/", "@")):
        pytest.skip(f"the kernel puts cores elsewhere (core_pattern is {pattern!r})")
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    if hard != resource.RLIM_INFINITY:
        pytest.skip("the limit on the size of cores cannot be raised")
    place = folder / "kernel"
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["sh", "-c", f'ulimit -c {limit}; exec "$0" "$@"', str(program), *arguments],
        cwd=place,
        stdout=subprocess.DEVNULL,
    )
    found = list(place.glob("*core*"))
    if not found:
        pytest.skip("the kernel wrote no core")
    return found[0]


@contextmanager
def running(program: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that prints a line when it is ready, and then waits."""
    with subprocess.Popen(
        [str(program), *arguments], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05)  # until its threads sleep: nothing depends on it but what they hold
            yield process
        finally:
            process.kill()


def gdb_core(folder: Path, pid: int) -> Path:
    """Dump a process with gdb's gcore."""
    if shutil.which("gcore") is None:
        pytest.skip("no gcore (of gdb)")
    done = subprocess.run(
        ["gcore", "-o", str(folder / "gcore"), str(pid)], capture_output=True, text=True
    )
    made = folder / f"gcore.{pid}"
    if not made.exists():
        pytest.skip(f"gcore failed: {done.stderr[-300:]}")
    return made
