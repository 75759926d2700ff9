"""Turns the options that parse and kernel share into an analysis, and that into output."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import output, values

if TYPE_CHECKING:
    from ..kernel_leaks import KernelAnalysis
    from ..logs import KernelReport


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that tell which leaks count and how they are shown."""
    what = parser.add_argument_group("which leaks count")
    what.add_argument(
        "--suppressions",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="lines leak:PATTERN (a part of a function's or module's name), size:, module:, addr::"
        " leaks like that do not count (can be given more than once)",
    )
    what.add_argument(
        "--skip-frame",
        action="append",
        default=[],
        metavar="FUNCTION",
        help="another allocator, with * for anything: its callers are to blame"
        " (can be given more than once)",
    )
    shown = parser.add_argument_group("how they are shown")
    formats = shown.add_mutually_exclusive_group()
    formats.add_argument(
        "--list", dest="format", action="store_const", const="list", help="one leak a line"
    )
    formats.add_argument(
        "--json",
        dest="format",
        action="store_const",
        const="json",
        help="everything, for machines (report/kernel_schema.json tells the layout)",
    )
    shown.add_argument(
        "--limit",
        type=values.count,
        metavar="N",
        help="groups, or single leaks, to show (0: all; default: 10 groups, all leaks)",
    )
    shown.add_argument("--redact", action="store_true", help="show nothing of what the memory held")
    output.add_output(shown)
    shown.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="no report on standard output: the exit code tells",
    )


def analysed(
    arguments: argparse.Namespace, report: KernelReport, old: KernelReport | None = None
) -> KernelAnalysis:
    """Analyse a report as the options tell."""
    from ..kernel_leaks import analyse_report

    return analyse_report(
        report, old=old, suppressions=suppressions(arguments), skip=arguments.skip_frame
    )


def suppressions(arguments: argparse.Namespace) -> Any:
    """Return the suppressions that were asked for; better read before a long run than after it."""
    from ..suppressions import Suppressions

    return Suppressions.load(*arguments.suppressions)


def show(arguments: argparse.Namespace, analysis: KernelAnalysis, **more: Any) -> None:
    """Write the analysis; `more` goes into JSON."""
    from ..report.kernel_json import render_kernel_json
    from ..report.kernel_text import render_kernel_list, render_kernel_text
    from ..report.model import RenderOptions

    if arguments.quiet and arguments.output is None:
        return
    options = RenderOptions(limit=arguments.limit, redact=arguments.redact)
    with output.opened(arguments.output, arguments.force) as stream:
        if arguments.format == "json":
            render_kernel_json(analysis, stream, options, **more)
        elif arguments.format == "list":
            render_kernel_list(analysis, stream, options)
        else:
            render_kernel_text(analysis, stream, options)
