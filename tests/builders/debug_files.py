"""Turns a program with debugging symbols into a stripped one and a debug file, by build-id."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest


def split_debug(program: Path, sysroot: Path, *flags: str) -> None:
    """Strip a program, and put its debugging symbols where a debugger looks under a folder.

    Parameters
    ----------
    program
        Loses its symbols.
    sysroot
        The folder.
    *flags
        For objcopy, as it writes the debug file.
    """
    for tool in ("objcopy", "readelf", "strip"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} (binutils)")
    notes = subprocess.run(["readelf", "-n", str(program)], capture_output=True, text=True).stdout
    build_id = re.search(r"Build ID: ([0-9a-f]+)", notes)
    if build_id is None:
        pytest.skip("the linker writes no build-id")
    name = build_id[1]
    debug = sysroot / "usr/lib/debug/.build-id" / name[:2] / f"{name[2:]}.debug"
    debug.parent.mkdir(parents=True)
    subprocess.run(["objcopy", "--only-keep-debug", *flags, str(program), str(debug)], check=True)
    subprocess.run(["strip", str(program)], check=True)
