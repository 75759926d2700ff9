"""Turns an Explanation into text for people, and its parts into lines for scripts."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TextIO, TypeVar

from ..who.explain import Explanation, Route
from ..who.holders import Holder
from ..who.keeping import Keeping
from .escape import printable, quoted
from .hexdump import hex_rows
from .terminal import Line, line_writer, terminal_width
from .units import count_text, size_text

_T = TypeVar("_T")

_VERDICTS = {
    "reachable": "held: a root leads to it",
    "unconditional": "held: it is never taken for a leak, whoever refers to it",
    "direct": "leaked, directly: nothing reachable and no other leak leads to it",
    "indirect": "leaked, indirectly: only other leaks hold it",
    "ignored": "ignored: it is not looked at",
}
_INTO = {"start": "", "interior": " (into it)", "end": " (its end)"}


def render_explanation(told: Explanation, out: TextIO, *, limit: int = 20) -> None:
    """Write what there is to say of an object; `limit` lines of each part, 0 for all."""
    line = line_writer(out)
    width = max(40, terminal_width(out))
    _title(told, line)
    for text in hex_rows(told.content):
        line("    ", (text, "dim"))
    for offset, name in _some(told.symbols, limit):
        line(f"    +{offset:#x} is the address of ", (printable(name), "cyan"))
    counted = [h for h in told.holders if h.word.live]
    leaked = [h for h in told.holders if h.word.kind == "object" and not h.word.live]
    stale = [h for h in told.holders if h.word.kind != "object" and not h.word.live]
    _holders(line, "Held by", counted, limit)
    _holders(line, "Held by leaks", leaked, limit)
    _holders(line, "Left over, and not counted", stale, limit)
    if not told.holders:
        line()
        line("no word of the dump refers to it")
    if told.path is not None:
        _path(line, told, told.path, limit)
    if told.keeping is not None:
        _keepers(line, told, told.keeping, limit)
    if told.references:
        line()
        line((f"Refers to {count_text(len(told.references), 'object')}", "bold"))
        for r in _some(told.references, limit):
            into = f"+{r.into:#x}" if r.into else ""
            kind = f"  [{printable(r.what)}]" if r.what else ""
            line(f"  +{r.offset:#x} → ", (f"{r.target:#x}{into}", "yellow"), kind)
        _more(line, len(told.references), limit)
    for note in told.coverage:
        if note.code.startswith(("symbols.", "explain.")):
            line()
            for part in textwrap.wrap(printable(note.message), width):
                line(part)


def _title(told: Explanation, line: Line) -> None:
    what = f"  [{printable(told.what)}]" if told.what else ""
    line(
        (f"{told.address:#x}-{told.address + told.size:#x}", "bold yellow"),
        f"  {count_text(told.size, 'byte')}",
        (what, "cyan"),
    )
    if told.asked != told.address:
        line(f"  {told.asked:#x} is {told.asked - told.address:#x} behind its start")
    style = "bold red" if told.leaked else "bold green"
    by = f" (nearest head: {told.head:#x})" if told.head is not None else ""
    line("  ", (_VERDICTS[told.verdict] + by, style))
    if told.possible:
        line(
            "  ", ("possibly lost: no way to it is of pointers to objects' starts alone", "yellow")
        )
    keeping = told.keeping
    if keeping is not None and keeping.count > 1:
        others = count_text(keeping.count - 1, "other object")
        line(f"  it alone keeps {others}: {size_text(keeping.nbytes)} with its own")
    if told.min_count > 1:
        line(f"  {told.count} of {told.min_count} references that it takes to hold it were found")
    origin = told.origin
    if origin.pid is not None:
        line(f"  allocated by {quoted(origin.comm)}, pid {origin.pid}")
    for frame in origin.frames:
        line("    ", printable(frame))


def _holders(line: Line, title: str, holders: Sequence[Holder], limit: int) -> None:
    if not holders:
        return
    line()
    line((f"{title} ({count_text(len(holders), 'word')})", "bold"))
    for holder in _some(holders, limit):
        line("  ", printable(holder.text), _INTO[holder.word.pointer])
        if holder.stale:
            line("    ", (printable(holder.stale), "dim"))
    _more(line, len(holders), limit)


def _path(line: Line, told: Explanation, path: Route, limit: int) -> None:
    title = {
        "root": "Shortest path from a root",
        "unconditional": f"Shortest path, from {path.start:#x}, which is never taken for a leak",
        "leak": f"Shortest path from a leak's head, {path.start:#x}",
    }[path.origin]
    if not path.steps:
        return
    line()
    line((f"{title} ({count_text(len(path.steps), 'reference')})", "bold"))
    steps = list(enumerate(path.steps))
    shown = steps
    if 0 < limit < len(steps):
        shown = [*steps[: limit - limit // 2], *steps[len(steps) - limit // 2 :]]
    at = 0
    for i, step in shown:
        if i != at:
            line(f"  … {count_text(i - at, 'more reference')}")
        at = i + 1
        line("  ", printable(step.holder.text))
        if step.holder.stale:
            line("    ", (printable(step.holder.stale), "dim"))
        line("    → ", (f"{step.target:#x}", "yellow"))


def _keepers(line: Line, told: Explanation, keeping: Keeping, limit: int) -> None:
    keepers = keeping.keepers
    if not keepers:
        if told.verdict in ("reachable", "indirect"):
            line()
            what = "leaked clusters" if told.leaked else "roots"
            line((f"Several {what} lead to it, by ways that have nothing in common", "bold"))
        return
    line()
    line(("Every way to it leads through", "bold"), ", the nearest first")
    rows = [(size_text(k.nbytes), f"{k.count:,}", k) for k in _some(keepers, limit)]
    wide = max(len(nbytes) for nbytes, _, _ in rows)
    broad = max(len(count) for _, count, _ in rows)
    for nbytes, count, keeper in rows:
        kind = "all of " if keeper.kind == "module" else ""
        line(
            f"  retains {nbytes:>{wide}} in {count:>{broad}}  ",
            (kind + printable(keeper.name), "yellow"),
            (f"  [{printable(keeper.what)}]" if keeper.what else "", "cyan"),
        )
    _more(line, len(keepers) + keeping.left_out, limit)


def list_holders(holders: Iterable[Holder], out: TextIO) -> None:
    """Write one line a referring word: live, leaked or stale; place; value; pointer; what."""
    for h in holders:
        state = "live" if h.word.live else "leaked" if h.word.kind == "object" else "stale"
        place = "-" if h.word.place is None else f"{h.word.place:#x}"
        note = f"; {h.stale}" if h.stale else ""
        fields = (state, place, f"{h.word.value:#x}", h.word.pointer, printable(h.text + note))
        out.write("\t".join(fields) + "\n")


def list_paths(routes: Iterable[Route], out: TextIO) -> None:
    """Write one line a path: what it begins at, how many references it has, its places."""
    for route in routes:
        places = [step.holder.text for step in route.steps]
        places.append(f"object {route.steps[-1].target if route.steps else route.start:#x}")
        text = " -> ".join(printable(place) for place in places)
        out.write(f"{route.origin}\t{len(route.steps)}\t{text}\n")


def _some(items: Sequence[_T], limit: int) -> Sequence[_T]:
    return items[:limit] if limit else items


def _more(line: Line, count: int, limit: int) -> None:
    if 0 < limit < count:
        line(f"  and {count - limit:,} more (--limit 0 shows all)")
