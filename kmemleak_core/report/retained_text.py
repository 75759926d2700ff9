"""Turns retained sizes into text for people: who holds most, and what hangs on the first few."""

from __future__ import annotations

from typing import Literal, TextIO

from ..shapes import classify, shape_text
from ..who.retained import By, Holder, Retained
from .escape import printable
from .model import RenderOptions, Report
from .parts import heading, left_out, wrapped
from .terminal import Line, line_writer, shortened, terminal_width
from .units import count_text, size_text

#: What is shown unless told otherwise: holders; below how many of them what they hold, and of
#: that how many each.
DEFAULT_LIMIT = 10
_TREES = 3
BRANCHES = 4

_HEADINGS = {
    "object": "Objects that no other object alone holds",
    "type": "Types: with what their objects hold",
    "variable": "Variables, and other roots",
    "root": "Roots",
    "module": "Modules, and other groups of roots",
}


def render_retained_text(
    report: Report,
    found: Retained,
    out: TextIO,
    options: RenderOptions,
    *,
    by: By | Literal["variable"] = "object",
    depth: int = 2,
) -> None:
    """Write the holders that retain most, with trees of so many levels below the first few."""
    line = line_writer(out, options.color)
    width = max(60, options.width or terminal_width(out))
    limit = DEFAULT_LIMIT if options.limit is None else options.limit
    heading(line, report.source.path or "memory", headline(found), width, good=True)
    chosen: By = "root" if by == "variable" else by
    shown = found.top(limit, chosen)
    if shown:
        line()
        line((_HEADINGS[by], "bold"))
        line((f"  {'retained':>10}  {'objects':>11}  {'its own':>10}  ", "dim"))
    apart = False
    for at, holder in enumerate(shown):
        if apart:
            line()
        apart = at < _TREES and depth > 0 and bool(found.held(holder, 1))
        _row(report, found, line, width, holder, "", options)
        if at < _TREES:
            _tree(report, found, line, width, holder, "", depth, options)
    total, count, nbytes = found.totals(chosen)
    count -= sum(h.count for h in shown)
    nbytes -= sum(h.nbytes for h in shown)
    left_out(line, by, total - len(shown), count, nbytes)
    if report.coverage:
        line()
        line(("not seen, or not understood:", "bold"))
    for note in report.coverage:
        wrapped(line, note.message, width, "  ")


def headline(found: Retained) -> str:
    """Return the sentence that tells how much there is, and how much one module cannot free."""
    everything = found.everything
    if not everything.count:
        return "nothing is reachable: nobody retains anything"
    shared, count = found.shared
    reachable = f"{count_text(everything.count, 'object')} ({size_text(everything.nbytes)})"
    return (
        f"{reachable} reachable; {size_text(shared)} of it in {count_text(count, 'object')}"
        " held from more than one module"
    )


def shape(report: Report, holder: Holder, *, redact: bool = False) -> str:
    """Return what an object's first words look like; empty for anything else."""
    if holder.kind != "object" or report.result is None:
        return ""
    image, objects = report.result.image, report.result.objects
    row = slice(holder.node, holder.node + 1)
    codes = classify(image, objects, objects.address[row], objects.size[row])
    text = shape_text(codes.tobytes(), holder.size, image.word_size)
    return text.replace("text", "data").replace("int", "data") if redact else text


def type_name(report: Report, holder: Holder) -> str:
    """Return what is known of an object's type, such as its slab cache; empty for anything else."""
    kinds = report.kinds if holder.kind == "object" else None
    return "" if kinds is None else kinds.kind_of(holder.node)


def _tree(
    report: Report,
    found: Retained,
    line: Line,
    width: int,
    holder: Holder,
    indent: str,
    depth: int,
    options: RenderOptions,
) -> None:
    if depth <= 0:
        return
    held = found.held(holder, BRANCHES + 1)
    for below in held[:BRANCHES]:
        _row(report, found, line, width, below, indent + "  ", options)
        _tree(report, found, line, width, below, indent + "  ", depth - 1, options)
    if len(held) > BRANCHES:
        own = holder.size if holder.kind == "object" else 0
        nbytes = holder.nbytes - own - sum(h.nbytes for h in held[:BRANCHES])
        line(f"{_figures(nbytes, None, None)}{indent}    and more")


def _row(
    report: Report,
    found: Retained,
    line: Line,
    width: int,
    holder: Holder,
    indent: str,
    options: RenderOptions,
) -> None:
    own = holder.size if holder.address is not None or holder.kind == "type" else None
    figures = _figures(holder.nbytes, holder.count, own) + indent
    looks = shape(report, holder, redact=options.redact)
    kind = printable(type_name(report, holder))
    looks = (f"  {kind}" if kind else "") + (f"  [{looks}]" if looks else "")
    told = ""
    if holder.kind == "object" and not indent:
        above = found.dominator(holder)
        if above is not None and above.kind != "several":
            told = f"  held by {printable(above.name)}"
    name = shortened(printable(holder.name), max(20, width - len(figures)))
    room = max(0, width - len(figures) - len(name) - len(looks))
    line(figures, (name, "yellow"), (looks, "cyan"), shortened(told, room) if room > 12 else "")


def _figures(nbytes: int, count: int | None, own: int | None) -> str:
    objects = "" if count is None else f"{count:,}"
    size = "" if own is None else size_text(own)
    return f"  {size_text(nbytes):>10}  {objects:>11}  {size:>10}  "
