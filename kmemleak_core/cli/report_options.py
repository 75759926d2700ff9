"""Turns the options of ``kmemleak scan`` on how its report is shown into render options."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..report import built_in_formats, renderer_names
from . import output, values
from .help import HelpFormatter

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..report import RenderOptions


class ReportHelpFormatter(HelpFormatter):
    """The help of a subcommand that shows reports: formats of other packages are in it.

    These take long to find: only when help is shown are they looked for.
    """

    def add_arguments(self, actions: Iterable[argparse.Action]) -> None:
        """Add a group of options to what is shown."""
        for action in actions:
            if action.dest == "format" and action.metavar is not None:
                ours = built_in_formats()
                others = [name for name in renderer_names() if name not in ours]
                action.help = _formats_text({**ours, **dict.fromkeys(others, "")})
            self.add_argument(action)


def _formats_text(formats: Mapping[str, str]) -> str:
    """Return what formats there are, and what each is for, as argparse takes it."""
    told = [f"{name} ({purpose})" if purpose else name for name, purpose in formats.items()]
    text = "; ".join(told).replace("%", "%%")
    return f"{text}. All are text; the default is {next(iter(formats))}"


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options on the report."""
    shown = parser.add_argument_group("how it is shown")
    formats = shown.add_mutually_exclusive_group()
    formats.add_argument(
        "--format",
        default="text",
        metavar="NAME",
        help=_formats_text(built_in_formats()),
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
        "--group-by",
        choices=("origin", "trace", "kind", "size", "shape"),
        default="origin",
        help="what the leaks of a group share: backtrace and kind (origin, the default), one of"
        " these, or size or shape, by which they are grouped where nothing else is known",
    )
    shown.add_argument(
        "--sort",
        choices=("bytes", "count", "size", "oldest"),
        help="which groups come first: the most bytes (default) or objects, the largest or oldest"
        " objects; single leaks follow their groups, unless --order is given",
    )
    shown.add_argument(
        "--order",
        choices=("allocation", "address", "size", "cluster"),
        help="order of single leaks (default allocation); cluster: heads, each before what it leads"
        " to",
    )
    shown.add_argument(
        "--all",
        dest="unfold",
        action="store_true",
        help="show below each group, as a tree, what its heads lead to; in a list, the order of"
        " clusters",
    )
    shown.add_argument(
        "--hex",
        type=values.count,
        default=32,
        metavar="BYTES",
        help="bytes of content to show (default 32)",
    )
    shown.add_argument(
        "--weight",
        choices=("bytes", "objects"),
        default="bytes",
        help="what stacks are measured in (folded; speedscope has both, and shows this first)",
    )
    shown.add_argument(
        "--redact", action="store_true", help="show nothing of what the memory holds"
    )
    output.add_output(shown)
    shown.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="no progress, and no report on standard output: the exit code tells",
    )


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the options that leave leaks out: of every format, and of the exit code."""
    only = parser.add_argument_group(
        "only some leaks",
        "Patterns are whole names with * for anything; of several, one is enough.",
    )
    only.add_argument(
        "--min-size",
        type=values.size,
        default=0,
        metavar="BYTES",
        help="only leaks of at least so many bytes (K, M, G: powers of 1024)",
    )
    only.add_argument(
        "--max-size", type=values.size, metavar="BYTES", help="only leaks of at most so many bytes"
    )
    for name, what in (
        ("type", "leaks of this kind, where the dump tells kinds"),
        ("function", "leaks with this function in their backtrace"),
        ("module", "leaks with this module in their backtrace"),
    ):
        only.add_argument(
            f"--{name}",
            dest=f"{name}s",
            action="append",
            default=[],
            metavar="PATTERN",
            help=f"only {what} (can be given more than once)",
        )


def render_options(arguments: argparse.Namespace) -> RenderOptions:
    """Return how the report is shown."""
    from ..report import RenderOptions

    return RenderOptions(
        limit=arguments.limit,
        min_size=arguments.min_size,
        max_size=arguments.max_size,
        types=tuple(arguments.types),
        functions=tuple(arguments.functions),
        modules=tuple(arguments.modules),
        sort=arguments.sort,
        order=arguments.order,
        unfold=arguments.unfold,
        redact=arguments.redact,
        hex_bytes=arguments.hex,
        weight=arguments.weight,
    )
