"""Turns `programs/heap.c` into core files of processes, and commands into seconds and megabytes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kmemleak_core.dumps.capture import capture

from .building import build


def make_core(core: Path, objects: int, mean: int, share: float) -> None:
    """Dump a process with so many objects, of so many bytes and with such a share of pointers."""
    program = build("heap.c", "-lm")
    command = [program, str(objects), str(mean), str(share)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            capture(process.pid, core)
        finally:
            process.kill()


def kmemleak(*arguments: str | Path) -> list[str]:
    """Return the command line of `kmemleak` with this Python."""
    return [sys.executable, "-m", "kmemleak_core", *map(str, arguments)]


def run(command: Sequence[str]) -> None:
    """Run a command to its end; leaks found are a result, errors are not."""
    done = subprocess.run(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stderr


def peak_bytes(command: Sequence[str]) -> int:
    """Run a command; return its most memory of its own: mapped files are not counted."""
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            with suppress(OSError):
                for line in status.read_text(encoding="ascii").splitlines():
                    if line.startswith("RssAnon:"):
                        peak = max(peak, int(line.split()[1]) * 1024)
            time.sleep(0.002)
    return peak
