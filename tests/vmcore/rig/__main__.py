"""The command: ``python -m tests.vmcore.rig --suite bookworm --out DIR``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .guests import Plan, make
from .packages import RigError
from .qemu import GuestError


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.vmcore.rig", description=__doc__)
    parser.add_argument("--suite", default="bookworm", help="whose kernel: bookworm, trixie, sid")
    parser.add_argument("--arch", default="amd64", choices=("amd64", "arm64"))
    parser.add_argument("--memory", type=int, default=192, metavar="MB")
    parser.add_argument("--levels", type=int, default=4, choices=(4, 5), help="of page tables")
    parser.add_argument("--append", default="", help="words for the kernel's command line")
    parser.add_argument(
        "--form", action="append", default=[], help="also dump so (kdump-zlib, kdump-lzo, …)"
    )
    parser.add_argument("--out", type=Path, required=True, help="a folder to make")
    given = parser.parse_args()
    plan = Plan(
        given.suite,
        given.arch,
        given.memory,
        given.append,
        given.levels,
        tuple(given.form),
    )
    try:
        dumps = make(plan, given.out)
    except (RigError, GuestError) as error:
        print(f"no dump: {error}", file=sys.stderr)
        return 1
    for name, dump in dumps.items():
        print(f"{name}: {dump.vmcore} ({dump.vmcore.stat().st_size >> 20} MB)")
    print((given.out / "about.json").read_text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
