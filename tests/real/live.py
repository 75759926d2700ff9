"""Runs programs that nobody here wrote, and asks their glibc for its sums just before the dump."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rig
from numpy.typing import NDArray

MASK = np.uint64(0xA5A5A5A5A5A5A5A5)


def preload(folder: Path) -> dict[str, str]:
    """Return the environment that puts the ledger of live blocks into a program."""
    library = rig.compile_program(rig.PROGRAMS / "stats.c", flags=("-O2", "-shared", "-fPIC"))
    return {
        "PATH": f"{os.defpath}:/usr/sbin:/sbin",
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "LD_PRELOAD": str(library),
        "KM_STATS": str(folder / "stats"),
    }


@dataclass(frozen=True)
class Live:
    """A gcore of a real program with what was asked in the same stop.

    Parameters
    ----------
    core
        The core file.
    sums
        ``mallinfo2()`` by field name.
    arenas
        Arenas as ``malloc_info()`` lists them: number of free chunks (the top chunk is one of
        them), and ``system_mem``.
    blocks
        The ledger: address (u8) and requested size (u8) of every live block, by address.
    """

    core: Path
    sums: Mapping[str, int]
    arenas: list[dict[str, int]]
    blocks: NDArray[Any]


def dump(pid: int, folder: Path) -> Live:
    """Ask a process for its sums and dump it, in one stop."""
    said: list[str] = []

    def collect(text: str) -> None:
        said.append(text)

    core = rig.gcore(
        pid, folder, "set scheduler-locking on", "call (int)km_stats()", report=collect
    )
    stats, ledger = folder / f"stats.{pid}", folder / f"stats.{pid}.blocks"
    if "$1 = 0" not in said[0]:
        raise RuntimeError(f"km_stats failed: {said[0]}")
    text = stats.read_text()
    sums = {name: int(n) for name, n in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE)}
    arenas = []
    for heap in re.findall(r"<heap nr=.*?</heap>", text, re.DOTALL):
        fast, rest = re.findall(r'<total type="\w+" count="(\d+)"', heap)
        system = re.search(r'<system type="current" size="(\d+)"', heap)
        assert system is not None
        arenas.append({"fast": int(fast), "rest": int(rest), "system": int(system[1])})
    blocks = np.fromfile(ledger, dtype=[("address", "<u8"), ("size", "<u8")])
    blocks = blocks[blocks["address"] > 1]
    blocks["address"] ^= MASK
    stats.unlink()
    ledger.unlink()
    return Live(core, sums, arenas, np.sort(blocks, order="address"))
