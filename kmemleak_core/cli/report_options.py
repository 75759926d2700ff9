"""Turns the options of ``kmemleak scan`` on how its report is shown into render options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from . import values

if TYPE_CHECKING:
    from ..report import RenderOptions


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options on the report."""
    shown = parser.add_argument_group("how it is shown")
    formats = shown.add_mutually_exclusive_group()
    formats.add_argument(
        "--format", default="text", metavar="NAME", help="text (default), list, json, kmemleak"
    )
    formats.add_argument(
        "--list", dest="format", action="store_const", const="list", help="one leak a line"
    )
    formats.add_argument(
        "--json",
        dest="format",
        action="store_const",
        const="json",
        help="everything, for machines (report/schema.json tells the layout)",
    )
    shown.add_argument(
        "--limit",
        type=values.count,
        metavar="N",
        help="groups, or single leaks, to show (0: all; default: 10 groups, all leaks)",
    )
    shown.add_argument(
        "--min-size",
        type=values.size,
        default=0,
        metavar="BYTES",
        help="only leaks of at least so many bytes (K, M, G: powers of 1024)",
    )
    shown.add_argument(
        "--order",
        choices=("allocation", "address", "size"),
        help="order of single leaks (default allocation)",
    )
    shown.add_argument(
        "--hex",
        type=values.count,
        default=32,
        metavar="BYTES",
        help="bytes of content to show (default 32)",
    )
    shown.add_argument(
        "--redact", action="store_true", help="show nothing of what the memory holds"
    )
    shown.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the report there")
    shown.add_argument("--force", action="store_true", help="replace the output file")
    shown.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="no progress, and no report on standard output: the exit code tells",
    )


def render_options(arguments: argparse.Namespace) -> RenderOptions:
    """Return how the report is shown."""
    from ..report import RenderOptions

    return RenderOptions(
        limit=arguments.limit,
        min_size=arguments.min_size,
        order=arguments.order,
        redact=arguments.redact,
        hex_bytes=arguments.hex,
    )
