"""Turns a report into text for people: what leaks, the largest first, and what was not seen."""

from __future__ import annotations

import re
import textwrap
from typing import TYPE_CHECKING, TextIO

from ..leaks import LeakGroup, Loss
from .escape import printable, quoted
from .facts import (
    check_facts,
    core_argument,
    counter_facts,
    left_out_facts,
    note_text,
    source_facts,
    suppression_facts,
)
from .hexdump import hex_rows
from .kernel_part import verdict_lines
from .model import RenderOptions, Report
from .parts import wrapped
from .pointers import reason
from .select import chosen_groups, example_size, shown_shape
from .terminal import Line, line_writer, shortened, terminal_width
from .trees import Trees, shared_lines, tree_lines
from .units import count_text, size_text

if TYPE_CHECKING:
    from ..baseline import Figures

#: What is shown unless told otherwise: groups of direct leaks and notes on coverage; groups of
#: indirect leaks, which go away with the direct ones.
DEFAULT_LIMIT = 10
_INDIRECT_LIMIT = 5
#: How to read shapes; one that tells nothing: of no word have all members the same.
_SHAPES = (
    "in brackets: what the first words of an object hold (obj: a pointer to an object, ptr: another"
    " pointer, int: a small number, data: another one, any: they differ)"
)
_ANYTHING = re.compile(r"any(×\d+)?( …)?")


class TextRenderer:
    """The report on a terminal, or in a log: colours only where the stream takes them."""

    name = "text"

    def render(self, report: Report, out: TextIO, options: RenderOptions) -> None:
        """Write the report; see `Renderer`."""
        line = line_writer(out, options.color)
        width = max(40, options.width or terminal_width(out))
        limit = DEFAULT_LIMIT if options.limit is None else options.limit
        _title(report, options, line, width)
        style = "bold red" if report.summary.leaked_objects else "bold green"
        for text in textwrap.wrap(headline(report), width):
            line((text, style))
        groups = chosen_groups(report, options)
        for text in left_out_facts(report, options):
            wrapped(line, text, width)
        trees = Trees(report.leaks, report.groups) if options.unfold else None
        _section(
            report,
            options,
            line,
            limit,
            "Directly leaked: nothing reachable and no other leak leads to these",
            [(i, g) for i, g in groups if g.direct_count],
            direct=True,
            trees=trees,
        )
        held = [(i, g) for i, g in groups if g.indirect_count]
        if options.sort in (None, "bytes"):
            held.sort(key=lambda one: -one[1].indirect_bytes)
        few = _INDIRECT_LIMIT if options.limit is None else limit
        if trees is None:
            _section(
                report,
                options,
                line,
                few,
                "Indirectly leaked: only other leaks hold these",
                held,
                direct=False,
            )
        else:
            shared_lines(report, trees, options, line, few)
        _possible(report, options, line, few)
        if report.kernel is not None:
            for text in verdict_lines(report.kernel, width):
                line(text)
        _closing(report, line, width, limit)
        if options.exit_code is not None:
            _next_steps(report, options, groups, line, width)


def _possible(report: Report, options: RenderOptions, line: Line, limit: int) -> None:
    """Show what is possibly lost: the heads of it, and what holds them."""
    if not len(report.possible):
        return
    part = report.of_possible()
    groups = [(i, g) for i, g in chosen_groups(part, options) if g.direct_count]
    _section(
        part,
        options,
        line,
        limit,
        "Possibly lost: only pointers into their middle or past their end hold these",
        groups,
        direct=True,
        trees=Trees(part.leaks, part.groups) if options.unfold else None,
    )


def headline(report: Report) -> str:
    """Return the one sentence that tells whether there is something to do."""
    s = report.summary
    if not s.objects:
        return "nothing to scan: no allocated object was found"
    scanned = f"{count_text(s.objects, 'object')} ({size_text(s.object_bytes)})"
    known = f"{s.suppressed_objects:,} suppressed ({size_text(s.suppressed_bytes)})"
    possible = ""
    if s.possible_objects:
        possible = f"; {s.possible_objects:,} possibly lost ({size_text(s.possible_bytes or 0)})"
    if not s.leaked_objects:
        if s.suppressed_objects:
            return f"no leaks but {known}: {scanned} scanned{possible}"
        return f"no leaks: {scanned} scanned, nothing is out of reach{possible}"
    leaked = f"{count_text(s.leaked_objects, 'object')} ({size_text(s.leaked_bytes)})"
    text = f"{leaked} leaked of {scanned.replace(' objects', '').replace(' object', '')} scanned"
    text += f": {s.direct_objects:,} directly ({size_text(s.direct_bytes)})"
    if s.indirect_objects:
        held = f"{s.indirect_objects:,} held only by other leaks"
        text += f", {held} ({size_text(s.indirect_bytes)})"
    return (f"{text}; {known}" if s.suppressed_objects else text) + possible


def _title(report: Report, options: RenderOptions, line: Line, width: int) -> None:
    line((printable(report.source.path) or "memory", "bold"))
    for text in textwrap.wrap(", ".join(source_facts(report)), width - 2):
        line("  ", (text, "dim"))
    arguments = report.source.process.get("arguments", "")
    if arguments and not options.redact:
        line("  ", (shortened(f"arguments: {printable(arguments)}", width - 2), "dim"))
    line()


def _section(
    report: Report,
    options: RenderOptions,
    line: Line,
    limit: int,
    heading: str,
    groups: list[tuple[int, LeakGroup]],
    *,
    direct: bool,
    trees: Trees | None = None,
) -> None:
    if not groups:
        return
    line()
    line((heading, "bold"))
    shown = groups[:limit] if limit > 0 else groups
    for index, group in shown:
        _group(report, options, line, group, direct=direct)
        if trees is not None:
            tree_lines(report, trees, index, options, line, limit)
        _example(report, options, line, group, direct=direct)
    rest = [group for _, group in groups[len(shown) :]]
    if rest:
        count = sum(g.direct_count if direct else g.indirect_count for g in rest)
        nbytes = sum(g.direct_bytes if direct else g.indirect_bytes for g in rest)
        line(
            f"  and {count_text(len(rest), 'more group')}: {count_text(count, 'object')},"
            f" {size_text(nbytes)} (--limit 0 shows all)"
        )


def _group(
    report: Report, options: RenderOptions, line: Line, group: LeakGroup, *, direct: bool
) -> None:
    count = group.direct_count if direct else group.indirect_count
    nbytes = group.direct_bytes if direct else group.indirect_bytes
    title = count_text(count, "object")
    title += f" of {count_text(group.size, 'byte')}" if group.size is not None else ""
    title += f", {size_text(nbytes)}" if count > 1 else ""
    line()
    earlier = None if report.comparison is None else report.comparison.earlier_of(group)
    if earlier is not None and earlier.objects:
        title += f" (were {earlier.direct_objects if direct else _indirect(earlier):,})"
    told = [(printable(group.origin.kind), "bold")] if group.origin.kind else []
    if not told or not _ANYTHING.fullmatch(group.shape):
        told.append((f"[{shown_shape(group, options)}]", "cyan"))
    line("  ", (title, "bold"), *(part for one in told for part in ("  ", one)))
    for frame in group.origin.frames:
        line("      ", printable(frame))
    if int(report.leaks["loss"][group.rows[0]]) == Loss.POSSIBLE:
        line(f"    {reason(report.leaks, group)}")
    if direct and group.retained_count:
        line(
            f"    {'leads' if count == 1 else 'lead'} to"
            f" {count_text(group.retained_count, 'more object')},"
            f" {size_text(group.retained_bytes)}, that nothing else leads to"
        )


def _example(
    report: Report, options: RenderOptions, line: Line, group: LeakGroup, *, direct: bool
) -> None:
    count = group.direct_count if direct else group.indirect_count
    address, size, origin = group.example, example_size(report, group), group.origin
    if not direct and group.direct_count:
        row = int(group.rows[~report.leaks["direct"][group.rows]][0])
        address, size = report.leaks[row].address, report.leaks[row].size
        origin = report.provenance.origin(row) if report.provenance is not None else origin
    which = "oldest at" if count > 1 and origin.birth is not None else "for example"
    line(
        f"    {which if count > 1 else 'at'} ",
        (f"{address:#x}", "yellow"),
        f", comm {quoted(origin.comm)}" if origin.comm else "",
        f", pid {origin.pid}" if origin.pid is not None else "",
        f", jiffies {origin.birth}" if origin.birth is not None else "",
    )
    if options.redact or options.hex_bytes <= 0:
        return
    content = report.content(address, min(size, options.hex_bytes))
    for text in hex_rows(content):
        line("      ", (text, "dim"))
    if not content and size:
        line("      (its content is not in the dump)")


def _indirect(figures: Figures) -> int:
    return figures.objects - figures.direct_objects


def _closing(report: Report, line: Line, width: int, limit: int) -> None:
    line()
    for text in suppression_facts(report):
        wrapped(line, text, width)
    for number, text in enumerate(check_facts(report)):
        line("  " if number else "", text)
    notes = list(report.coverage)
    if notes:
        line(("not seen, or not understood:", "bold"))
    for note in notes[:limit] if limit > 0 else notes:
        wrapped(line, note_text(note), width, indent="  ")
    if limit > 0 and len(notes) > limit:
        line(f"  and {len(notes) - limit:,} more (--limit 0 shows all)")
    for what, facts in zip(("counted", "time"), counter_facts(report.counters), strict=True):
        if facts:
            text = f"{what}: {', '.join(facts)}"
            for part in textwrap.wrap(text, width, subsequent_indent="  "):
                line((part, "dim"))


def _next_steps(
    report: Report,
    options: RenderOptions,
    groups: list[tuple[int, LeakGroup]],
    line: Line,
    width: int,
) -> None:
    """Write how to read it, and the commands that tell more, as they can be copied."""
    core = core_argument(report)
    groups = groups or chosen_groups(report.of_possible(), options)
    if not groups:
        return
    for part in textwrap.wrap(_SHAPES, width, subsequent_indent="  "):
        line((part, "dim"))
    if not core:
        return
    line()
    line(("next:", "bold"))
    line(f"  who holds the first, or held it:  kmemleak explain {core} {groups[0][1].example:#x}")
    line(f"  all groups, in a browser:         kmemleak scan --format html -o report.html {core}")
