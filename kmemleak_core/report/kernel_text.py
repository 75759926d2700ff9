"""Turns the analysis of a kernel's report into text for people, or into one leak a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from ..kernel_leaks import KernelAnalysis, KernelLeakGroup
from ..kernel_record import KernelRecord
from .escape import printable, quoted
from .hexdump import hex_rows
from .model import RenderOptions
from .parts import heading, left_out, wrapped
from .terminal import Line, line_writer, shortened, terminal_width
from .units import count_text, size_text

#: Groups, and lines that were not understood, that are shown unless told otherwise.
DEFAULT_LIMIT = 10

_LIST_HEADER = "# address size group pid jiffies caller comm"


def render_kernel_text(
    analysis: KernelAnalysis, out: TextIO, options: RenderOptions | None = None
) -> None:
    """Write what leaks, the most bytes first, and what of the log was not understood."""
    options = options or RenderOptions()
    line = line_writer(out, options.color)
    width = max(40, options.width or terminal_width(out))
    limit = DEFAULT_LIMIT if options.limit is None else options.limit
    path = analysis.report.path or "report"
    heading(line, path, headline(analysis), width, good=not analysis.found)
    diff = analysis.diff
    if diff is None:
        _groups(analysis.groups, options, line, limit)
    else:
        if diff.new_groups:
            line()
            line(("New leaks", "bold"))
            marks = {
                g.key: "more of a known one" for g in diff.new_groups if g.key in diff.old_keys
            }
            _groups(diff.new_groups, options, line, limit, marks)
        if diff.gone_groups:
            line()
            line(("Gone leaks", "bold"))
            marks = {g.key: "others remain" for g in diff.gone_groups if g.key in diff.keys}
            _groups(diff.gone_groups, options, line, limit, marks)
    _closing(analysis, line, width, limit)


def headline(analysis: KernelAnalysis) -> str:
    """Return the one sentence that tells whether there is something to do."""
    diff = analysis.diff
    if diff is not None:
        old = printable(diff.old_path) or "the older report"
        new = f"{count_text(len(diff.new), 'new leak')} ({_bytes(diff.new)})"
        if not diff.new:
            new = "no new leaks"
        gone = f"{len(diff.gone):,} gone ({_bytes(diff.gone)})" if diff.gone else "none gone"
        return f"{new}, {gone}, {diff.kept:,} still there, compared with {old}"
    if not analysis.leaks:
        if analysis.suppressed:
            return f"no leaks but {count_text(analysis.suppressed, 'suppressed one')}"
        return f"no leaks in {count_text(analysis.report.lines, 'line')}"
    places = count_text(len(analysis.groups), "place")
    leaked = f"{count_text(len(analysis.leaks), 'object')} ({size_text(analysis.nbytes)})"
    text = f"{leaked} leaked, allocated at {places}"
    if analysis.unlisted:
        text += f"; the kernel counted {analysis.unlisted:,} more there, which it did not list"
    return text


def render_kernel_list(
    analysis: KernelAnalysis, out: TextIO, options: RenderOptions | None = None
) -> None:
    """Write one leak a line, in the order of the report; of a comparison, ``+`` new, ``-`` gone.

    ``address size group pid jiffies caller comm``, separated by single spaces; ``caller`` is
    ``-`` where there is no backtrace. The first line is a comment that names the columns.
    """
    options = options or RenderOptions()
    out.write(_LIST_HEADER + "\n")
    diff = analysis.diff
    parts: Sequence[tuple[str, Sequence[KernelRecord], Sequence[KernelLeakGroup]]]
    if diff is None:
        parts = [("", analysis.leaks, analysis.groups)]
    else:
        parts = [("+ ", diff.new, diff.new_groups), ("- ", diff.gone, diff.gone_groups)]
    for mark, leaks, groups in parts:
        numbers = {row: (i, group) for i, group in enumerate(groups) for row in group.rows}
        shown = leaks[: options.limit] if options.limit else leaks
        for row, leak in enumerate(shown):
            number, group = numbers[row]
            caller = group.frames[0].replace(" ", "") if group.frames else "-"
            out.write(
                f"{mark}{leak.address:#x} {leak.size} {number} {leak.pid} {leak.jiffies} "
                f"{printable(caller)} {quoted(leak.comm)}\n"
            )
        if len(shown) < len(leaks):
            out.write(f"# {len(leaks) - len(shown)} more\n")


def _groups(
    groups: Sequence[KernelLeakGroup],
    options: RenderOptions,
    line: Line,
    limit: int,
    marks: dict[tuple[tuple[str, ...], str, int], str] | None = None,
) -> None:
    shown = groups[:limit] if limit > 0 else groups
    for group in shown:
        _group(group, options, line, (marks or {}).get(group.key, ""))
    rest = groups[len(shown) :]
    left_out(line, "place", len(rest), sum(g.count for g in rest), sum(g.nbytes for g in rest))


def _group(group: KernelLeakGroup, options: RenderOptions, line: Line, mark: str) -> None:
    title = count_text(group.count, "object")
    if group.min_size == group.max_size:
        title += f" of {count_text(group.max_size, 'byte')}"
    else:
        title += f" of {group.min_size:,} to {count_text(group.max_size, 'byte')}"
    if group.count > 1:
        title += f", {size_text(group.nbytes)}"
    line()
    line("  ", (title, "bold"), *([("  [" + mark + "]", "cyan")] if mark else []))
    if group.unlisted:
        line(f"    and {count_text(group.unlisted, 'more object')} that the kernel did not list")
    for symbol in group.frames:
        line("      ", printable(symbol))
    if not group.frames:
        line("      (the kernel kept no backtrace)")
    if group.skipped:
        line(("    through " + printable(", ".join(group.skipped)), "dim"))
    oldest = group.oldest
    space = f" ({oldest.space})" if oldest.space else ""
    line(
        "    oldest " if group.count > 1 else "    at ",
        (f"{oldest.address:#x}", "yellow"),
        f"{space}, comm {quoted(oldest.comm)}, pid {oldest.pid}, jiffies {oldest.jiffies}",
        f", age {oldest.age:.3f} s" if oldest.age is not None else "",
    )
    others = [quoted(comm) for comm in group.comms if comm != oldest.comm]
    if others:
        line("    also ", shortened(", ".join(others[:20]), 80))
    if oldest.hex_bytes and not options.redact:
        for text in hex_rows(oldest.hex_bytes[: max(0, options.hex_bytes)]):
            line("      ", (text, "dim"))


def _closing(analysis: KernelAnalysis, line: Line, width: int, limit: int) -> None:
    report = analysis.report
    notes = []
    if analysis.repeated:
        notes.append(
            f"{count_text(analysis.repeated, 'record')} told of objects that others had told of"
        )
    if analysis.suppressed:
        size = size_text(analysis.suppressed_bytes)
        notes.append(f"{count_text(analysis.suppressed, 'leak')} ({size}) suppressed")
    several = len({use.path for use in analysis.suppressions}) > 1
    notes += [
        f"suppression {use.pattern!r} in line {use.line}{f' of {use.path}' if several else ''} was"
        " not used"
        for use in analysis.suppressions
        if not use.count
    ]
    if notes or report.coverage.notes:
        line()
    for note in notes:
        wrapped(line, note, width)
    if len(report.coverage):
        line(("not seen, or not understood:", "bold"))
    for found in report.coverage:
        wrapped(line, found.message, width, "  ")
    details = [*report.malformed, *report.incomplete]
    details.sort()
    for skipped in details[:limit] if limit > 0 else details:
        text = f": {quoted(skipped.text)}" if skipped.text else ""
        line("    ", shortened(f"line {skipped.number} {_reason(skipped.reason)}{text}", width - 4))
    left = report.malformed_count + report.incomplete_count
    left -= min(len(details), limit) if limit > 0 else len(details)
    if left:
        line(f"    and {left:,} more (--limit 0 shows all that are kept)")


def _reason(reason: str) -> str:
    return f"({reason})"


def _bytes(records: Sequence[KernelRecord]) -> str:
    return size_text(sum(record.size for record in records))
