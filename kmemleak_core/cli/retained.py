"""Turns ``kmemleak retained`` into a table of who keeps most of a dump's memory alive."""

from __future__ import annotations

import argparse

from . import output, scan_options, values

_DESCRIPTION = """\
Tells what keeps a heap big, even where nothing leaks: for each object, type, variable or module how
much memory it alone holds, which would be freed with it.

The dump is a core file or a kernel's vmcore, as `kmemleak scan` takes it.
"""

_EPILOG = """\
examples:
  kmemleak retained core                     objects that no other object alone holds
  kmemleak retained --by variable core       what each variable holds, by its name
  kmemleak retained --by module core         each library's globals, each stack, registers
  kmemleak retained --by type core           each type, or slab cache, with what it holds
  kmemleak retained --depth 5 --limit 3 core
  kmemleak retained --json vmcore > retained.json

exit codes:
  0  done
  2  wrong usage
  3  the dump cannot be read, or holds no known heap
"""


def prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "retained",
        help="tell what keeps a heap big, even where nothing leaks",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.set_defaults(run=run)
    scan_options.add_scan_options(parser, graph=True)
    shown = parser.add_argument_group("how it is shown")
    shown.add_argument(
        "--by",
        choices=("object", "type", "variable", "root", "module"),
        default="object",
        help="objects that no other object alone holds (default); all objects of one type, as a"
        " slab cache; variables, as symbols name them; whole ranges of roots, registers; or all"
        " roots of one file, kernel module, …",
    )
    shown.add_argument(
        "--limit",
        type=values.count,
        metavar="N",
        help="how many to show (0: all; default 10)",
    )
    shown.add_argument(
        "--depth",
        type=_depth,
        default=2,
        metavar="N",
        help="levels to show of what the largest hold in turn (default 2)",
    )
    output.add_answer(shown, "retained_schema.json")


def run(arguments: argparse.Namespace) -> int:
    """Scan, add up, show, and return the exit code."""
    source = scan_options.source(arguments)
    output.check_output(arguments.output, arguments.force)

    from ..pipeline import analyse
    from ..report.model import RenderOptions
    from ..report.retained_json import render_retained_json
    from ..report.retained_text import render_retained_text
    from .command import ExitCode

    asked = scan_options.analyse_options(arguments)
    with output.progress(arguments.quiet) as tell:
        report = analyse(source, asked, tell)
        if tell is not None:
            tell("retained sizes")
        by_variable = arguments.by == "variable"
        found = report.retained_by_variable if by_variable else report.retained
    render = render_retained_json if arguments.json else render_retained_text
    options = RenderOptions(limit=arguments.limit, redact=arguments.redact)
    with output.opened(arguments.output, arguments.force) as stream:
        render(report, found, stream, options, by=arguments.by, depth=arguments.depth)
    return ExitCode.CLEAN


def _depth(text: str) -> int:
    depth = values.count(text)
    if depth > 50:
        raise argparse.ArgumentTypeError("a depth of at most 50 is wanted")
    return depth
