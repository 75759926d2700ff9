"""The rig itself: programs run, dump and end; truths are read; C libraries unpack."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import glibcs
import pytest
import rig
from conftest import Leakgen

HELLO = r"""
#include <gnu/libc-version.h>
#include <stdio.h>
#include <unistd.h>
int main(void) { puts(gnu_get_libc_version()); puts("ready"); fflush(stdout); for (;;) pause(); }
"""


@pytest.mark.parametrize("version", glibcs.SUITES)
def test_a_program_runs_under_the_glibc_asked_for(version: str, folder: Path) -> None:
    binary = rig.compile_program(HELLO, glibc=version)
    with rig.running([binary], folder) as process:
        assert process.lines[0] == glibcs.glibc(version).package.split("-")[0]
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        libraries = {line.split()[-1] for line in maps.splitlines() if "libc" in line}
    assert all(path.startswith(str(glibcs.cache_folder())) for path in libraries), libraries


@pytest.mark.parametrize("how", rig.HOWS)
def test_a_dump_is_a_core_of_that_process(how: rig.How, folder: Path) -> None:
    with rig.running([rig.compile_program(HELLO)], folder) as process:
        core = process.dump(how)
    assert core.read_bytes()[:4] == b"\x7fELF"
    assert core.stat().st_size > 4096


def test_a_process_is_gone_after_its_block(folder: Path) -> None:
    with rig.running([rig.compile_program(HELLO)], folder) as process:
        assert os.path.exists(f"/proc/{process.pid}")
    assert not os.path.exists(f"/proc/{process.pid}")


def test_a_program_that_dies_early_is_an_error_and_no_hang(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="before 'ready'"), rig.running(["false"], folder):
        pass


def test_a_program_that_does_not_compile_is_an_error() -> None:
    rig.need("gcc")
    with pytest.raises(RuntimeError, match="gcc"):
        rig.compile_program("int main(void) { return nothing; }\n")


@pytest.mark.parametrize("how", rig.HOWS)
def test_leakgen_gives_a_core_and_the_truth(how: rig.How, leakgen: Leakgen) -> None:
    made = leakgen(*rig.SIZES["xs"], 7, how=how)
    assert made.core.stat().st_size > 4_000_000
    assert len(made.objects) == 20_000
    assert len(made.of("bigleak")) == 20
    assert made is leakgen(*rig.SIZES["xs"], 7, how=how)


def test_nothing_keeps_running(folder: Path) -> None:
    """A program's own children end with its block too."""
    shell = ["bash", "-c", "sleep 1000 & echo $!; echo ready; wait"]
    with rig.running(shell, folder) as process:
        child = int(process.lines[0])
    listing = subprocess.run(["ps", "-o", "stat=", "-p", str(child)], capture_output=True)
    assert listing.stdout.strip() in (b"", b"Z", b"Zs")
