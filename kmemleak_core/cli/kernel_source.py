"""Turns options on where a kernel's objects and types come from into arguments of subcommands."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_kernel_source(parser: argparse._ActionsContainer) -> None:
    """Add ``--records``, ``--vmlinux`` and ``--layout``."""
    parser.add_argument(
        "--records",
        choices=("auto", "kmemleak", "slub"),
        default="auto",
        help="what tells which objects there are: kmemleak's records (default where the kernel"
        " has them), or the books of its allocators",
    )
    types = parser.add_mutually_exclusive_group()
    types.add_argument(
        "--vmlinux",
        type=Path,
        metavar="FILE",
        help="the kernel's file with debugging symbols, where the kernel carries no types (BTF)",
    )
    types.add_argument(
        "--layout",
        type=Path,
        metavar="FILE",
        help="instead: what `kmemleak vmcore layout` made of it",
    )
