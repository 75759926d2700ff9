"""Turns a Difference into text for people: what grew, who holds it, which leaks are new."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from typing import TextIO

from ..compare.census import Amount
from ..compare.change import Anchor, Change, GroupChange
from ..compare.difference import Difference
from ..compare.identity import Identity
from ..notebook import SHOWN, html_table
from .escape import printable, quoted
from .model import RenderOptions
from .parts import wrapped
from .terminal import Line, line_writer, shortened, terminal_width
from .units import count_text, size_text

#: What is shown unless told otherwise: groups, holders and so on; of those that shrank.
DEFAULT_LIMIT = 10
_SHRUNK_LIMIT = 5
#: So little of a group is not told of a holder, where others have more.
_LITTLE = 0.05


def render_diff_text(found: Difference, out: TextIO, options: RenderOptions) -> None:
    """Write what has changed, the most growth first."""
    line = line_writer(out, options.color)
    width = max(60, options.width or terminal_width(out))
    limit = DEFAULT_LIMIT if options.limit is None else options.limit
    _title(found, options, line, width)
    for sentence, bad in (
        (growth_sentence(found), found.growth.nbytes > 0),
        (leaks_sentence(found), bool(found.new_leaks.objects or found.new_leaks.nbytes)),
    ):
        for text in textwrap.wrap(sentence, width):
            line((text, "bold red" if bad else "bold green"))
    _totals(found, line)
    _changes(
        line, width, limit, "Growth by type", [_named(c, "of no known type") for c in found.types]
    )
    _changes(line, width, limit, "Who holds the growth", [*found.holders, *_unheld(found)])
    _anchors(found, line, width, limit)
    _changes(line, width, limit, "Growth by what one module alone holds", found.modules)
    if found.complete:
        _groups(found, options, line, width, leaks=False)
    _groups(found, options, line, width, leaks=True)
    _closing(found, line, width)


def growth_sentence(found: Difference) -> str:
    """Return the sentence that tells whether there is more now."""
    growth = found.growth
    if growth.nbytes > 0:
        text = f"grew by {size_text(growth.nbytes)}"
    elif growth.nbytes < 0:
        text = f"shrank by {size_text(-growth.nbytes)}"
    else:
        text = "as large as before"
    text += f": {_count(growth.objects)}"
    if not found.complete:
        return text
    came, went = found.came.objects, found.went.objects
    if found.by_address and (came or went):
        text += f" ({came:,} new, {went:,} gone"
        changed = found.changed
        if changed is not None and changed.objects:
            text += f", {changed.objects:,} changed or replaced where they were"
        text += ")"
    states = found.states()
    told = [f"{states[s]:,} {s}" for s in ("new", "grown", "shrunk", "gone") if states[s]]
    if told:
        first, *rest = told
        number, state = first.split(" ")
        noun = "group" if number == "1" else "groups"
        text += f"; {number} {noun} {state}" + "".join(f", {one}" for one in rest)
    return text


def leaks_sentence(found: Difference) -> str:
    """Return the sentence that tells whether there are new leaks."""
    new, kept, gone = found.new_leaks, found.kept_leaks, found.gone_leaks
    if new.objects or new.nbytes:
        text = f"{count_text(new.objects, 'new leak')} ({size_text(new.nbytes)})"
    else:
        text = "no new leaks"
    lost = found.lost
    if lost is not None and lost.objects:
        text += f", {lost.objects:,} of them in reach before"
    if kept.objects:
        text += f", {kept.objects:,} as before"
    return text + (f", {gone.objects:,} gone" if gone.objects else "")


def matched_sentence(found: Difference) -> str:
    """Return how objects were matched, and why."""
    how = "object by object, by address" if found.by_address else "group by group"
    return f"matched {how}: {found.reason}"


def difference_html(found: Difference) -> str:
    """Return the groups that have grown most, as notebooks show them."""
    leaks = not found.complete
    groups = found.groups(SHOWN, leaks=leaks)
    rows = [
        (
            group.state,
            f"{group.growth.objects:+,}",
            f"{group.growth.nbytes:+,}",
            f"{group.before.objects:,}",
            f"{group.after.objects:,}",
            printable(what(group)),
            printable(group.held_by[0][0]) if group.held_by else "",
            f"{group.example:#x}",
        )
        for group in groups
    ]
    left = found.tally(leaks=leaks)[0] - len(groups)
    columns = ("", "objects", "bytes", "before", "after", "what", "held by", "example")
    return html_table(found, columns, rows, f"{left:,} more groups" if left else "")


def what(group: GroupChange) -> str:
    """Return what the objects of a group are: kind, size, where their pointers are."""
    size = "" if group.size is None else f"of {count_text(group.size, 'byte')}"
    shape = "" if group.frames or (group.kind and not group.shape) else shape_text(group.shape)
    shape = f"[{shape}]" if shape else ""
    return "  ".join(part for part in (group.kind, size, shape) if part)


def shape_text(shape: str) -> str:
    """Write a shape with equal neighbours as one: ``"obj·-×3·ptr"``; ``"no pointers"``."""
    if not shape:
        return "no pointers"
    words: list[list[str]] = []
    for word in shape.split("·"):
        if words and words[-1][0] == word:
            words[-1].append(word)
        else:
            words.append([word])
    return "·".join(f"{run[0]}×{len(run)}" if len(run) > 1 else run[0] for run in words)


def _title(found: Difference, options: RenderOptions, line: Line, width: int) -> None:
    for label, census in (("old", found.old), ("new", found.new)):
        identity = census.identity
        facts = [identity.what if identity.what == "report" else "", identity.format]
        facts += [identity.architecture, _whose(identity)]
        told = printable(", ".join(fact for fact in facts if fact))
        line(f"{label}  ", (printable(identity.path) or "memory", "bold"))
        for text in textwrap.wrap(told, width - 5):
            line("     ", (text, "dim"))
        arguments = identity.process.get("arguments", "")
        if arguments and not options.redact:
            line("     ", (shortened(f"arguments: {printable(arguments)}", width - 5), "dim"))
    for text in textwrap.wrap(printable(matched_sentence(found)), width - 5):
        line("     ", (text, "dim"))
    line()


def _whose(identity: Identity) -> str:
    if identity.kernel:
        return identity.program
    name, pid = identity.process.get("name", ""), identity.process.get("pid", "")
    name = f"process {quoted(name)}" if name else ""
    return ", ".join(part for part in (name, f"pid {pid}" if pid else "") if part)


def _totals(found: Difference, line: Line) -> None:
    line()
    line((f"  {'':8}{'before':>22}{'after':>22}{'growth':>24}", "dim"))
    rows = [("objects", found.objects), ("leaks", found.leaks)]
    for name, change in rows:
        cells = [
            f"{a.objects:>{w},}{size_text(a.nbytes):>{10}}"
            for a, w in ((change.before, 12), (change.after, 12))
        ]
        growth = change.growth
        line(f"  {name:8}", *cells, f"{growth.objects:>+14,}{_size(growth.nbytes):>10}")


def _unheld(found: Difference) -> list[Change]:
    """Return what nobody holds, so that the growth adds up."""
    if not found.holders:
        return []
    leaks, unheld = found.leaks, found.unheld
    ignored = Change(
        "nobody, and not looked at",
        unheld.before.minus(leaks.before),
        unheld.after.minus(leaks.after),
    )
    return [_named(leaks, "nobody: leaked", always=True), ignored]


def _changes(line: Line, width: int, limit: int, heading: str, changes: Sequence[Change]) -> None:
    """Write a table of what grew; what shrank comes after it."""
    moved = [c for c in changes if c.growth.objects or c.growth.nbytes]
    if not moved:
        return
    moved.sort(key=lambda c: -c.growth.nbytes)
    grown = [c for c in moved if c.growth.nbytes > 0 or c.growth.nbytes == 0 < c.growth.objects]
    line()
    line((heading, "bold"))
    line((f"  {'growth':>11}  {'objects':>12}  {'before':>10}    {'after':>10}", "dim"))
    shrunk = moved[len(grown) :][::-1]
    for some, most in ((grown, limit), (shrunk, min(limit, _SHRUNK_LIMIT) if limit else 0)):
        shown = some[:most] if most else some
        for change in shown:
            growth = change.growth
            figures = (
                f"  {_size(growth.nbytes):>11}  {growth.objects:>+12,}"
                f"  {size_text(change.before.nbytes):>10} → {size_text(change.after.nbytes):>10}  "
            )
            name = shortened(printable(change.name), max(20, width - len(figures)))
            line(figures, (name, "yellow"))
        rest = some[len(shown) :]
        if rest:
            nbytes = sum(c.growth.nbytes for c in rest)
            count = sum(c.growth.objects for c in rest)
            line(f"  {_size(nbytes):>11}  {count:>+12,}  {_more(len(rest))}")


def _anchors(found: Difference, line: Line, width: int, limit: int) -> None:
    anchors = found.anchors(0)
    if not anchors:
        return
    line()
    line(("What the new objects hang on, of what was there before", "bold"))
    line((f"  {'new':>11}  {'objects':>12}", "dim"))
    shown = anchors[:limit] if limit else anchors
    for anchor in shown:
        figures = f"  {size_text(anchor.amount.nbytes):>11}  {anchor.amount.objects:>12,}  "
        pieces = _anchor(anchor)
        room = max(20, width - len(figures) - sum(len(p[0]) for p in pieces[:-1]))
        line(figures, *pieces[:-1], (shortened(pieces[-1][0], room), pieces[-1][1]))
    rest = anchors[len(shown) :]
    if rest:
        count = sum(a.amount.objects for a in rest)
        nbytes = sum(a.amount.nbytes for a in rest)
        line(
            f"  {size_text(nbytes):>11}  {count:>12,}  and {len(rest):,} more (--limit 0 shows all)"
        )


def _anchor(anchor: Anchor) -> list[tuple[str, str]]:
    if anchor.address is None:
        return [(printable(anchor.name), "yellow")]
    looks = printable(anchor.kind) or f"[{shape_text(anchor.shape)}]"
    size = count_text(anchor.size or 0, "byte")
    held = f", held by {printable(anchor.name)}" if anchor.name else ""
    return [
        (f"{anchor.address:#x}", "yellow"),
        (f"  of {size}  ", ""),
        (looks, "cyan"),
        (held, ""),
    ]


def _groups(
    found: Difference, options: RenderOptions, line: Line, width: int, *, leaks: bool
) -> None:
    limit = DEFAULT_LIMIT if options.limit is None else options.limit
    noun = "leaks" if leaks else "objects"
    for grown, title, most in (
        (True, "New leaks" if leaks else "Groups that are new or have grown", limit),
        (
            False,
            "Leaks that are none any more" if leaks else "Groups that are gone or have shrunk",
            _SHRUNK_LIMIT if options.limit is None else limit,
        ),
    ):
        shown = found.groups(
            most,
            sort=options.sort or "bytes",
            min_size=options.min_size,
            leaks=leaks,
            grown=grown,
        )
        if not shown:
            continue
        line()
        line((title, "bold"))
        for group in shown:
            _group(found, line, width, group, leaks=leaks)
        count, growth = found.tally(min_size=options.min_size, leaks=leaks, grown=grown)
        if count > len(shown):
            told = [_growth(g, leaks) for g in shown]
            objects = growth.objects - sum(g.objects for g in told)
            nbytes = growth.nbytes - sum(g.nbytes for g in told)
            line()
            line(
                f"  and {count_text(count - len(shown), 'more group')}: {objects:+,} objects,"
                f" {_size(nbytes)} (--limit 0 shows all)"
            )
    hidden = found.tally(leaks=leaks)[0]
    hidden -= found.tally(min_size=options.min_size, leaks=leaks)[0]
    if hidden:
        line()
        wrapped(line, f"--min-size hides {count_text(hidden, 'group')} of smaller {noun}", width)


def _growth(group: GroupChange, leaks: bool) -> Amount:
    if not leaks:
        return group.growth
    new = group.came.objects or group.came.nbytes
    return group.came if new else Amount().minus(group.went)


def _group(found: Difference, line: Line, width: int, group: GroupChange, *, leaks: bool) -> None:
    growth = _growth(group, leaks)
    line()
    line(
        "  ",
        (f"{growth.objects:+,} {'object' if abs(growth.objects) == 1 else 'objects'}", "bold"),
        (f", {_size(growth.nbytes)}  ", "bold"),
        (printable(what(group)), "cyan"),
    )
    for frame in group.frames:
        line("      ", printable(frame))
    text = f"{group.state}: {group.before.objects:,} → {group.after.objects:,}"
    text += f", {size_text(group.before.nbytes)} → {size_text(group.after.nbytes)}"
    if found.by_address and group.came.objects and group.went.objects:
        text += f" ({group.came.objects:,} came, {group.went.objects:,} went)"
    line(f"    {text}")
    held = _held(group, found.by_address)
    if held:
        wrapped(line, held, width, "    ")
    census = found.new if group.after.objects else found.old
    example = f"{group.example:#x}"
    path = census.identity.path
    if not group.example:
        return
    line(
        f"    {'for example' if group.after.objects != 1 else 'at'} ",
        (example, "yellow"),
        "" if group.after.objects else " (in the old one)",
        f": kmemleak explain {printable(shlex.quote(path))} {example}"
        if path and census.identity.what == "dump"
        else "",
    )


def _held(group: GroupChange, by_address: bool) -> str:
    """Tell who holds most of a group, or of what came to it where that is known."""
    if not group.held_by:
        return ""
    came = group.came.nbytes if by_address else 0
    total = max(came or group.after.nbytes or group.before.nbytes, 1)
    told = [
        f"{name} ({round(100 * amount.nbytes / total)} %)"
        for at, (name, amount) in enumerate(group.held_by)
        if at == 0 or amount.nbytes >= _LITTLE * total
    ]
    which = "held by" if group.after.objects else "were held by"
    return f"{which} {', '.join(told)}"


def _closing(found: Difference, line: Line, width: int) -> None:
    notes = [note.message for note in found.notes]
    if notes:
        line()
        line(("not compared, or to be known:", "bold"))
        for text in notes:
            wrapped(line, text, width, "  ")
    seen: dict[str, list[str]] = {}
    for label, census in (("old", found.old), ("new", found.new)):
        for note in census.coverage:
            seen.setdefault(note.message, []).append(label)
    if seen:
        line()
        line(("not seen, or not understood:", "bold"))
    for shown, (message, labels) in enumerate(seen.items()):
        if shown == DEFAULT_LIMIT:
            line(f"  and {len(seen) - shown:,} more")
            break
        where = "" if len(labels) > 1 else f" (the {labels[0]} one)"
        wrapped(line, message + where, width, "  ")


def _named(change: Change, name: str, *, always: bool = False) -> Change:
    return Change(name if always or not change.name else change.name, change.before, change.after)


def _more(rows: int) -> str:
    return f"and {rows:,} more (--limit 0 shows all)"


def _size(nbytes: int) -> str:
    return f"{'-' if nbytes < 0 else '+'}{size_text(abs(nbytes))}"


def _count(growth: int) -> str:
    if not growth:
        return "as many objects"
    return f"{count_text(abs(growth), 'object')} {'more' if growth > 0 else 'fewer'}"
