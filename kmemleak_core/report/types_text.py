"""Turns sums by type into text for people: what a heap consists of, the largest first."""

from __future__ import annotations

from typing import TextIO

from ..type_sums import TypeSum, TypeTable
from .escape import printable
from .model import RenderOptions, Report
from .parts import heading, left_out, wrapped
from .terminal import line_writer, shortened, terminal_width
from .units import count_text, size_text

#: Types to show unless told otherwise.
DEFAULT_LIMIT = 20


def render_types_text(
    report: Report,
    table: TypeTable,
    out: TextIO,
    options: RenderOptions,
    *,
    of_leaks: bool = False,
) -> None:
    """Write the types that take most."""
    line = line_writer(out, options.color)
    width = max(60, options.width or terminal_width(out))
    limit = DEFAULT_LIMIT if options.limit is None else options.limit
    title = report.source.path or "memory"
    heading(line, title, headline(table, of_leaks), width, good=not of_leaks or not len(table))
    shown = [table[i] for i in range(min(limit, len(table)) if limit else len(table))]
    if shown:
        leaked = "" if of_leaks else f"  {'leaked':>10}  {'objects':>11}"
        line()
        line((f"  {'bytes':>10}  {'objects':>11}{leaked}  {'each':>10}  ", "dim"))
    for one in shown:
        figures = f"  {size_text(one.nbytes):>10}  {one.count:>11,}"
        if not of_leaks:
            told = one.leaked_count > 0
            figures += f"  {size_text(one.leaked_bytes) if told else '':>10}"
            figures += f"  {f'{one.leaked_count:,}' if told else '':>11}"
        figures += f"  {'' if one.size is None else size_text(one.size):>10}  "
        room = max(20, width - len(figures))
        if one.name:
            line(figures, (shortened(printable(one.name), room), "bold"))
        else:
            line(figures, (shortened(f"[{looks(one, options)}]", room), "cyan"))
    objects, nbytes = table.left_out(len(shown))
    left_out(line, "type", len(table) - len(shown), objects, nbytes)
    if report.coverage:
        line()
        line(("not seen, or not understood:", "bold"))
    for note in report.coverage:
        wrapped(line, note.message, width, "  ")


def headline(table: TypeTable, of_leaks: bool) -> str:
    """Return the sentence that tells how much there is, and of how much the type is known."""
    objects, nbytes = table.left_out(0)
    if not objects:
        return "nothing leaks" if of_leaks else "there are no objects"
    known, known_bytes = table.known()
    what = "leaked" if of_leaks else "allocated"
    return (
        f"{count_text(objects, 'object')} ({size_text(nbytes)}) {what}; the type of"
        f" {known:,} ({size_text(known_bytes)}) is known"
    )


def looks(one: TypeSum, options: RenderOptions) -> str:
    """Return what objects without a type look like; redacted, of data nothing."""
    if not options.redact:
        return one.shape
    return one.shape.replace("text", "data").replace("int", "data")
