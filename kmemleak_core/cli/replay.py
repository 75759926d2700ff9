"""Turns ``kmemleak replay`` into what is live at the end of an allocation log."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from . import output, values

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..replay import LiveGroup, Replay

_DESCRIPTION = """\
Replays a log of allocations and frees: what is live at its end, by call site and size; frees
that fit no object; objects that overlap; when most was live.

The log is a table (CSV, JSONL or npz with the columns kind, address, size, time, trace, thread;
kind is alloc, free, free_part, resize or realloc), or what glibc's mtrace() wrote, compressed or
not.
"""

_EPILOG = """\
examples:
  MALLOC_TRACE=trace LD_PRELOAD=libc_malloc_debug.so.0 ./program   (which calls mtrace())
  kmemleak replay trace
  kmemleak replay --sort age --limit 0 events.csv
  kmemleak replay --at peak events.npz           what was live when most bytes were
  kmemleak replay --json events.jsonl > live.json

exit codes:
  0  nothing is live, no free is wrong
  1  objects are live, or an object was freed twice or by an inner address
  2  wrong usage
  3  the log cannot be read
"""


def prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "replay",
        help="tell what is live at the end of a log of allocations and frees",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.set_defaults(run=run)
    parser.add_argument("log", type=Path, metavar="LOG", help="the log")
    parser.add_argument("--format", metavar="NAME", help="of the log: npz, mtrace, table")
    parser.add_argument(
        "--at",
        type=_at,
        metavar="EVENT|peak",
        help="what is live after so many events, or when most bytes were",
    )
    parser.add_argument(
        "--sort",
        choices=("bytes", "objects", "size", "age"),
        default="bytes",
        help="which groups come first: the most bytes (default) or objects, the largest or"
        " oldest objects",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="everything, for machines (report/replay_schema.json tells the layout)",
    )
    parser.add_argument(
        "--limit",
        type=values.count,
        metavar="N",
        help="groups, and anomalies of each kind, to show (0: all; default: 10, all in JSON)",
    )
    output.add_output(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="no report: the exit code tells")


def run(arguments: argparse.Namespace) -> int:
    """Read, replay, show, and return the exit code."""
    from ..logs.events import open_events
    from ..replay import AnomalyKind, replay
    from .command import ExitCode

    output.check_output(arguments.output, arguments.force)
    with output.progress(arguments.quiet) as tell:
        if tell is not None:
            tell("read")
        log = open_events(arguments.log, format=arguments.format)
        if tell is not None:
            tell("replay")
        at = arguments.at
        if at == "peak":
            at = replay(log, samples=1, max_anomalies=0).peak_bytes.event + 1
        found = replay(log, at=at)
    if arguments.output is not None or not arguments.quiet:
        _show(arguments, found)
    wrong = found.totals[AnomalyKind.DOUBLE_FREE] + found.totals[AnomalyKind.INTERIOR_FREE]
    return ExitCode.LEAKS if len(found) or wrong else ExitCode.CLEAN


def _show(arguments: argparse.Namespace, found: Replay) -> None:
    from ..report.model import RenderOptions
    from ..report.replay_json import render_replay_json
    from ..report.replay_text import render_replay_text

    groups = sorted(found.groups(), key=_keys(arguments.sort))
    options = RenderOptions(limit=arguments.limit)
    render = render_replay_json if arguments.json else render_replay_text
    with output.opened(arguments.output, arguments.force) as stream:
        render(found, groups, stream, options)


def _keys(sort: str) -> Callable[[LiveGroup], int]:
    return {
        "bytes": lambda group: -group.nbytes,
        "objects": lambda group: -group.objects,
        "size": lambda group: -group.size,
        "age": lambda group: group.oldest,
    }[sort]


def _at(text: str) -> int | str:
    return text if text == "peak" else values.count(text)
