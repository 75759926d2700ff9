"""Turns Debian's source of a kernel into a guest with kmemleak that has lost memory, and dumps it.

``python -m tests.vmcore.rig.built --suite trixie --out DIR``; the first time it compiles a kernel,
which takes a quarter of an hour on two processors (packages: flex bison libelf-dev pahole bc).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from . import initramfs
from .guests import HERE, Fresh, Plan, boot, cache_folder, tell
from .packages import RigError, fetch, fetch_source
from .qemu import GuestError

LEAKS = HERE / "leaks"


def tree(suite: str, cache: Path) -> Path:
    """Return a compiled kernel's tree, made unless it is in the cache."""
    source = fetch_source(suite, cache)
    if not (source / "arch/x86/boot/bzImage").exists():
        _make(source, "allnoconfig", f"KCONFIG_ALLCONFIG={LEAKS / 'kernel.config'}")
        _make(source, f"-j{os.cpu_count()}")
    return source


def modules(source: Path, working: Path) -> dict[str, bytes]:
    """Compile the modules that lose memory; the kernel's own sample comes with its tree."""
    shutil.copytree(LEAKS, working, dirs_exist_ok=True)
    _make(source, f"M={working.resolve()}", "modules")
    found = {}
    for file in (source / "samples/kmemleak/kmemleak-test.ko", working / "rig_leaks.ko"):
        small = working / f"{file.stem}.stripped"
        subprocess.run(["strip", "--strip-debug", "-o", small, file], check=True)
        found[file.stem] = small.read_bytes()
    return found


def make(plan: Plan, out: Path, cache: Path, source: Path | None = None) -> dict[str, Fresh]:
    """Boot a kernel with kmemleak, let modules lose memory, and dump it with the kernel's report.

    Parameters
    ----------
    plan
        The suite tells which source; ``unloaded`` is a snapshot after the modules have gone.
    out
        A folder that is created.
    cache
        Where sources and packages are kept.
    source
        A compiled tree to take instead.
    """
    started = time.monotonic()
    source = source or tree(plan.suite, cache)
    took = {"kernel": time.monotonic() - started}
    out.mkdir(parents=True, exist_ok=True)
    working = out / "leaks"
    files = initramfs.with_modules("leaks", modules(source, working))
    busybox = fetch(plan.suite, plan.architecture, cache).busybox
    shutil.copy(source / ".config", out / "config")
    found = boot(plan, source / "arch/x86/boot/bzImage", busybox, files, out, took)
    shutil.rmtree(working)
    release = re.search(r"Linux version (\S+)", found[plan.snapshots[0]].text("version"))
    tell(plan, out, took, release=release[1] if release else "", source=source.name)
    return found


def _make(source: Path, *arguments: str) -> None:
    """Run make there; who built it and when is the same everywhere."""
    told = {"KBUILD_BUILD_USER": "kmemleak", "KBUILD_BUILD_HOST": "rig"}
    command = ["nice", "-n", "19", "make", "-s", "-C", str(source), *arguments]
    done = subprocess.run(
        command, env={**os.environ, **told}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RigError(f"{' '.join(command)}: {done.stderr.strip()[-800:]}")


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.vmcore.rig.built", description=__doc__)
    parser.add_argument("--suite", default="trixie", help="whose newest kernel source")
    parser.add_argument("--tree", type=Path, help="a tree that is compiled already")
    parser.add_argument("--memory", type=int, default=192, metavar="MB")
    parser.add_argument("--levels", type=int, default=4, choices=(4, 5), help="of page tables")
    parser.add_argument("--append", default="", help="words for the kernel's command line")
    parser.add_argument("--out", type=Path, required=True, help="a folder to make")
    given = parser.parse_args()
    plan = Plan(
        given.suite,
        memory=given.memory,
        append=given.append,
        levels=given.levels,
        snapshots=("plain", "unloaded"),
    )
    try:
        dumps = make(plan, given.out, cache_folder(), given.tree)
    except (RigError, GuestError) as error:
        print(f"no dump: {error}", file=sys.stderr)
        return 1
    for name, dump in dumps.items():
        leaks = dump.text("kmemleak").count("unreferenced ")
        print(f"{name}: {dump.vmcore}, {leaks} leaks in the kernel's own report")
    return 0


if __name__ == "__main__":
    sys.exit(main())
