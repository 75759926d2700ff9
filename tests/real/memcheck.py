"""Asks Memcheck how a program ends, and dumps the same program as it ends the same way.

Both look at the last moment: the system call that ends the process, after all that runs at exit.
Memcheck puts variables of its own into the environment, which change what programs allocate: the
dumped process gets the same ones, even the libraries that Memcheck loads ahead of others, which do
nothing by themselves.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import rig

from kmemleak_core.leaks import Loss

#: Memcheck's names of the kinds.
_KINDS = {
    "definite": "definitely lost",
    "indirect": "indirectly lost",
    "possible": "possibly lost",
    "reachable": "still reachable",
}
#: What Memcheck scans: registers, and whatever the program could write to.
ROOTS = {"no_roots": {"readonly"}, "end_pointers": False}


@dataclass(frozen=True)
class Counts:
    """Blocks of each kind.

    Parameters
    ----------
    definite, indirect, possible, reachable
        Memcheck's kinds.
    heuristics
        By name: of the reachable ones, how many a heuristic found.
    nbytes
        Bytes of all of them.
    """

    definite: int
    indirect: int
    possible: int
    reachable: int
    heuristics: Mapping[str, int]
    nbytes: int = field(compare=False)

    @property
    def lost(self) -> int:
        """Both kinds of leaks."""
        return self.definite + self.indirect


def environment(folder: Path) -> dict[str, str]:
    """Return a small environment in which programs do the same every time."""
    return {
        "PATH": os.defpath,
        "HOME": str(folder),
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PERL_HASH_SEED": "0",
    }


def ask(
    command: Sequence[str | Path], folder: Path, heuristics: Collection[str] | None = None
) -> Counts:
    """Run a program under Memcheck and return what it says when it ends.

    Parameters
    ----------
    command
        The program and its arguments.
    folder
        Where it runs.
    heuristics
        Which ones Memcheck uses; None for all.
    """
    log = folder / "memcheck.log"
    chosen = "all" if heuristics is None else ",".join(heuristics) or "none"
    line = [
        rig.need("valgrind"),
        "--leak-check=summary",
        f"--leak-check-heuristics={chosen}",
        # Nothing is freed, or left out, that a dump still has.
        "--run-libc-freeres=no",
        "--run-cxx-freeres=no",
        "--default-suppressions=no",
        f"--log-file={log}",
        *map(str, command),
    ]
    subprocess.run(
        line,
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=rig.PATIENCE,
        check=False,
    )
    said = log.read_text(errors="replace")
    lines = re.findall(r"([a-z][a-z0-9 ]*?)\s*: ([\d,]+) bytes in ([\d,]+) blocks", said)
    found = {name: int(count.replace(",", "")) for name, _, count in lines}
    nbytes = {name: int(size.replace(",", "")) for name, size, _ in lines}
    if "in use at exit" not in found:
        raise RuntimeError(f"Memcheck did not come to the end:\n{said[-2000:]}")
    kinds = {kind: found.pop(name, 0) for kind, name in _KINDS.items()}
    if found.pop("suppressed", 0):
        raise RuntimeError("Memcheck suppressed what is to be compared")
    assert sum(kinds.values()) == found.pop("in use at exit")
    return Counts(**kinds, heuristics=found, nbytes=nbytes["in use at exit"])


def dump(command: Sequence[str | Path], folder: Path, *, output: Path | None = None) -> Path:
    """Run a program as Memcheck would, and dump it where it ends; its output goes to a file."""
    core = folder / f"ended-{sum(1 for _ in folder.iterdir())}.core"
    script = [
        "set confirm off",
        "set debuginfod enabled off",
        "set pagination off",
        "unset environment",
        *(f"set environment {name} {value}" for name, value in _as_memcheck(folder).items()),
        "catch syscall exit_group",
        *(["set inferior-tty /dev/null"] if output is None else []),
        "run" if output is None else f"run > {output}",
        f"gcore {core}",
        "kill",
    ]
    line = [rig.need("gdb"), "-nx", "-batch"]
    for one in script:
        line += ["-ex", one]
    done = subprocess.run(
        [*line, "--args", *map(str, command)],
        cwd=folder,
        env=environment(folder),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=rig.PATIENCE,
        check=False,
    )
    if not core.is_file():
        said = (done.stdout + done.stderr).strip()
        if "ptrace" in said and "not permitted" in said:
            pytest.skip(f"gdb may not run a program here: {said.splitlines()[-1]}")
        raise RuntimeError(f"gdb dumped nothing:\n{said}")
    return core


def _as_memcheck(folder: Path) -> dict[str, str]:
    return {**environment(folder), **_own_variables()}


@cache
def _own_variables() -> dict[str, str]:
    """Find the variables that Memcheck adds for a program that it runs."""
    before = {"PATH": os.defpath}
    env = shutil.which("env") or "env"
    said = subprocess.run(
        [rig.need("valgrind"), "-q", env],
        env=before,
        capture_output=True,
        text=True,
        timeout=rig.PATIENCE,
        check=True,
    ).stdout
    after = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    return {name: value for name, value in after.items() if name not in before and name != "PWD"}


def aligned_by_hand(report: Any) -> int:
    """Return how many blocks the dynamic linker refers to where it aligned what lies in them.

    ``_dl_find_object``'s table of mappings begins at the first cache line in a block from malloc:
    whether that is the block's start, no one can tell beforehand.
    """
    found = 0
    for address in report.result.objects.address.tolist():
        words = [word for word in report.referrers(address) if word.live]
        linker = [word for word in words if "/ld-linux" in word.name or "/ld." in word.name]
        aligned = [word.value % 64 == 0 and word.value - address < 64 for word in words]
        found += bool(linker) and all(aligned)
    return found


def ours(core: Path, heuristics: Collection[str] | None = None, **options: Any) -> Counts:
    """Scan a dump under Memcheck's rules."""
    if heuristics is not None:
        options["heuristics"] = set(heuristics)
    return counted(rig.scan(core, **{**ROOTS, **options}))


def counted(report: Any) -> Counts:
    """Count the blocks of a report by kind."""
    loss = report.result.loss
    counts = {kind.name.lower(): int((loss == kind).sum()) for kind in Loss}
    found = {
        name.removesuffix("_objects"): int(count)
        for name, count in report.counters.items()
        if name.endswith("_objects")
    }
    return Counts(**counts, heuristics=found, nbytes=report.summary.object_bytes)
