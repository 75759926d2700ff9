"""Shows that a scan of a dump larger than memory is bounded by its objects, not by the dump.

    python -m bench.larger_than_memory --objects 1e8 --folder DIR

makes a sparse file of 640 bytes an object (64 GB for 1e8 of them), a table and roots, and lets
``kmemleak scan`` loose on them. Of each 6400 objects (a group) the first 80 hold pointers to
another group's objects, 80 each; the rest is never written, so the file takes 8 bytes of disk an
object, the table 16. A root array holds every group's first object. Where a pointer is left out
its object leaks, with all that only it holds: the answer is known and is compared.

Anonymous memory is what counts: pages of the file belong to the page cache and can be dropped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIZE = 640
FAN = SIZE // 8
GROUP = FAN * FAN
BASE = 1 << 40
ROOTS = 1 << 30


def make(folder: Path, groups: int, seed: int = 1) -> NDArray[np.uint64]:
    """Write the image, the table and the roots; return the addresses that leak, sorted."""
    random = np.random.default_rng(seed)
    target = random.permutation(groups)
    inside = np.arange(GROUP, dtype=np.uint64) * np.uint64(SIZE)
    lost: list[NDArray[np.uint64]] = []
    with open(folder / "memory.bin", "wb") as image:
        image.truncate(groups * GROUP * SIZE)
        for group in range(groups):
            pointers = np.uint64(BASE + int(target[group]) * GROUP * SIZE) + inside
            if group % 100 == 0:
                left_out = random.choice(np.arange(FAN, GROUP), 60, replace=False)
                lost.append(pointers[left_out])
                pointers[left_out] = 0
            os.pwrite(image.fileno(), pointers.tobytes(), group * GROUP * SIZE)
        # One holder a hundred groups leaks with the objects that it holds.
        source = np.argsort(target)
        for group in range(50, groups, 100):
            holder = 1 + group % (FAN - 1)
            os.pwrite(image.fileno(), bytes(8), int(source[group]) * GROUP * SIZE + holder * 8)
            first = BASE + int(target[group]) * GROUP * SIZE
            held = np.uint64(first) + inside[holder * FAN : (holder + 1) * FAN]
            lost += [np.array([BASE + (group * GROUP + holder) * SIZE], np.uint64), held]
    starts = np.uint64(BASE) + np.arange(groups, dtype=np.uint64) * np.uint64(GROUP * SIZE)
    (folder / "roots.bin").write_bytes(starts.tobytes())
    (folder / "roots.csv").write_text(f"kind,address,size,name\ndata,{ROOTS},{8 * groups},array\n")
    n = groups * GROUP
    np.savez(
        folder / "objects.npz",
        address=np.uint64(BASE) + np.arange(n, dtype=np.uint64) * np.uint64(SIZE),
        size=np.full(n, SIZE, dtype=np.uint64),
    )
    return np.unique(np.concatenate(lost))


def scan(folder: Path, options: list[str]) -> tuple[NDArray[np.uint64], dict[str, float]]:
    """Run the command; return what it found and what it took (seconds, bytes)."""
    command = [
        sys.executable, "-m", "kmemleak_core", "scan", "--json", "--redact", "--limit", "0",
        "--memory", f"{BASE:#x}:{folder / 'memory.bin'}",
        "--memory", f"{ROOTS:#x}:{folder / 'roots.bin'}",
        "--objects", str(folder / "objects.npz"), "--roots", str(folder / "roots.csv"),
        "-o", str(folder / "report.json"), "--force", *options,
    ]  # fmt: skip
    peak: dict[str, float] = {}
    began = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for name, size in _memory(process.pid).items():
                peak[name] = max(peak.get(name, 0), size)
            time.sleep(0.02)
    peak["seconds"] = time.perf_counter() - began
    if process.returncode not in (0, 1):
        raise SystemExit(f"kmemleak scan ended with {process.returncode}")
    report = json.loads((folder / "report.json").read_text())
    found = [int(leak["address"], 16) for leak in report["leaks"]]
    return np.unique(np.array(found, dtype=np.uint64)), peak


def _memory(pid: int) -> dict[str, int]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    return {n: int(fields[n].split()[0]) << 10 for n in ("RssAnon", "RssFile") if n in fields}


def main() -> None:
    """Make, scan, compare, tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=float, default=1e7)
    parser.add_argument("--folder", help="where the files go (default: a temporary folder)")
    parser.add_argument("options", nargs="*", help="for kmemleak scan, behind --")
    arguments = parser.parse_args()
    groups = max(1, int(arguments.objects) // GROUP)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        expected = make(folder, groups)
        image = (folder / "memory.bin").stat()
        found, peak = scan(folder, arguments.options)
        right = np.array_equal(found, expected)
        print(
            f"{groups * GROUP:,} objects, {image.st_size / 1e9:.1f} GB "
            f"({image.st_blocks * 512 / 1e9:.2f} GB on disk): {peak['seconds']:.1f} s, "
            f"{peak['RssAnon'] / 1e9:.2f} GB of anonymous memory "
            f"({peak['RssAnon'] / groups / GROUP:.0f} bytes an object), "
            f"{peak['RssFile'] / 1e9:.1f} GB of file pages at most; "
            f"{found.size:,} leaks, {'all right' if right else f'WRONG: {expected.size:,} are'}"
        )
    sys.exit(not right)


if __name__ == "__main__":
    main()
