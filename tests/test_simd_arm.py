"""The word filter's NEON level does as the plain loop does, on an emulated AArch64."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import kmemleak_core

HEADERS = Path(kmemleak_core.__file__).parent
SOURCE = Path(__file__).with_name("simd_check.c")
COMPILER = "aarch64-linux-gnu-gcc"


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> list[str]:
    """Compile the check for AArch64; return the command that runs it here."""
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if shutil.which(COMPILER) is None:
        pytest.skip(f"NEON IS NOT TESTED: no {COMPILER}: apt-get install gcc-aarch64-linux-gnu")
    if emulator is None:
        pytest.skip("NEON IS NOT TESTED: no qemu-aarch64: apt-get install qemu-user")
    made = tmp_path_factory.mktemp("arm") / "simd_check"
    flags = ["-O2", "-static", "-Wall", "-Wextra", f"-I{HEADERS}"]
    done = subprocess.run(
        [COMPILER, *flags, "-o", str(made), str(SOURCE)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [emulator, str(made)]


def test_neon_agrees_with_the_plain_loop(program):
    done = subprocess.run([*program, "60000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[:2] == ["neon", "scalar"]
