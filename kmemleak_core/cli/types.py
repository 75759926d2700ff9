"""Turns ``kmemleak types`` into a table of what a heap consists of, by type."""

from __future__ import annotations

import argparse

from . import output, scan_options, values

_DESCRIPTION = """\
Tells what a heap consists of: how many objects of each type there are, how many bytes these take,
and how many of them leak. Objects whose type nothing tells are added up by size.

Types are found without instrumentation: C++ classes by their virtual tables (symbols, else RTTI),
what standard containers allocate, Python objects, nodes of GLib's lists; a kernel's slab caches.
"""

_EPILOG = """\
examples:
  kmemleak types core                 what eats the memory
  kmemleak types --leaks core         what leaks
  kmemleak types --json --limit 0 core > types.json

exit codes:
  0  done
  2  wrong usage
  3  the dump cannot be read, or holds no known heap
"""


def prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "types",
        help="tell what a heap consists of, by type, leaks or not",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.set_defaults(run=run)
    scan_options.add_scan_options(parser)
    shown = parser.add_argument_group("how it is shown")
    shown.add_argument("--leaks", action="store_true", help="add up leaks alone")
    shown.add_argument(
        "--limit",
        type=values.count,
        metavar="N",
        help="how many types to show (0: all; default 20)",
    )
    output.add_answer(shown, "types_schema.json", but="types")


def run(arguments: argparse.Namespace) -> int:
    """Scan, add up, show, and return the exit code."""
    source = scan_options.source(arguments)
    output.check_output(arguments.output, arguments.force)

    from ..pipeline import analyse
    from ..report.model import RenderOptions
    from ..report.types_json import render_types_json
    from ..report.types_text import render_types_text
    from .command import ExitCode

    asked = scan_options.analyse_options(arguments)
    with output.progress(arguments.quiet) as tell:
        report = analyse(source, asked, tell)
        if tell is not None:
            tell("types")
        found = report.types(of_leaks=arguments.leaks)
    render = render_types_json if arguments.json else render_types_text
    options = RenderOptions(limit=arguments.limit, redact=arguments.redact)
    with output.opened(arguments.output, arguments.force) as stream:
        render(report, found, stream, options, of_leaks=arguments.leaks)
    return ExitCode.CLEAN
