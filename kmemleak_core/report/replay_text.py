"""Turns the replay of an allocation log into text for people."""

from __future__ import annotations

from typing import TextIO

from ..replay import Anomaly, AnomalyKind, LiveGroup, Replay
from .escape import printable
from .model import RenderOptions
from .parts import heading, left_out, wrapped
from .terminal import Line, line_writer, shortened, terminal_width
from .units import count_text, size_text

#: Groups and anomalies that are shown unless told otherwise.
DEFAULT_LIMIT = 10

_NAMES = {
    AnomalyKind.OVERLAP: "overlap",
    AnomalyKind.DOUBLE_FREE: "double free",
    AnomalyKind.INTERIOR_FREE: "free inside an object",
    AnomalyKind.UNKNOWN_FREE: "free of an unknown object",
}
_PLURALS = {
    AnomalyKind.OVERLAP: "overlaps",
    AnomalyKind.DOUBLE_FREE: "double frees",
    AnomalyKind.INTERIOR_FREE: "frees inside objects",
    AnomalyKind.UNKNOWN_FREE: "frees of unknown objects",
}


def render_replay_text(
    found: Replay, groups: list[LiveGroup], out: TextIO, options: RenderOptions | None = None
) -> None:
    """Write what is live, group by group as given, what was wrong, and when most was live."""
    options = options or RenderOptions()
    line = line_writer(out, options.color)
    width = max(40, options.width or terminal_width(out))
    limit = DEFAULT_LIMIT if options.limit is None else options.limit
    heading(line, found.log.path or "log", headline(found), width, good=found.clean)
    _groups(found, groups, line, width, limit)
    _anomalies(found, line, limit)
    line()
    for value, event, what in (
        (size_text(found.peak_bytes.value), found.peak_bytes.event, "bytes"),
        (count_text(found.peak_objects.value, "object"), found.peak_objects.event, "objects"),
    ):
        line(f"most {what} live: {value}, after event {event:,}{_time(found, event)}")
    if len(found.log.coverage):
        line()
        line(("not seen, or not understood:", "bold"))
    for note in found.log.coverage:
        wrapped(line, note.message, width, "  ")


def headline(found: Replay) -> str:
    """Return the one sentence that tells whether there is something to do."""
    events = count_text(len(found.log), "event")
    wrong = [
        f"{total:,} {_NAMES[kind] if total == 1 else _PLURALS[kind]}"
        for kind, total in found.totals.items()
        if total
    ]
    if len(found):
        text = f"{count_text(len(found), 'object')} ({size_text(found.nbytes)}) live after {events}"
    else:
        text = f"nothing is live after {events}"
    return text + ("; " + ", ".join(wrong) if wrong else "")


def _groups(found: Replay, groups: list[LiveGroup], line: Line, width: int, limit: int) -> None:
    if not groups:
        return
    line()
    line(("Live objects", "bold"))
    shown = groups[:limit] if limit > 0 else groups
    for group in shown:
        title = f"{count_text(group.objects, 'object')} of {count_text(group.size, 'byte')}"
        title += f", {size_text(group.nbytes)}" if group.objects > 1 else ""
        line()
        line("  ", (title, "bold"))
        name = printable(found.log.trace_name(group.trace))
        if name:
            line("    ", (shortened(f"by {name}", width - 4), "cyan"))
        address = f"{int(found.log.address[group.oldest]):#x}"
        line(
            f"    {'the oldest' if group.objects > 1 else 'allocated'} at ",
            (address, "yellow"),
            f" by event {group.oldest:,}{_time(found, group.oldest)}",
        )
    rest = groups[len(shown) :]
    objects, nbytes = sum(g.objects for g in rest), sum(g.nbytes for g in rest)
    left_out(line, "group", len(rest), objects, nbytes)


def _anomalies(found: Replay, line: Line, limit: int) -> None:
    if not any(found.totals.values()):
        return
    line()
    line(("What was wrong", "bold"))
    for kind in AnomalyKind:
        rows = [anomaly for anomaly in found.anomalies if anomaly.kind == kind]
        for anomaly in rows[:limit] if limit > 0 else rows:
            line("  ", _sentence(found, anomaly))
        left = found.totals[kind] - (min(limit, len(rows)) if limit > 0 else len(rows))
        if left:
            line(f"  and {left:,} more {_PLURALS[kind]}")


def _sentence(found: Replay, anomaly: Anomaly) -> str:
    event = f"event {anomaly.event:,}{_time(found, anomaly.event)}"
    place = f"{anomaly.address:#x}"
    other = f"event {anomaly.other:,}"
    if anomaly.kind == AnomalyKind.OVERLAP:
        old = int(found.log.address[anomaly.other])
        return f"{event} makes an object at {place} over that of {other} at {old:#x}"
    if anomaly.kind == AnomalyKind.DOUBLE_FREE:
        return f"{event} frees {place}, which {other} freed"
    if anomaly.kind == AnomalyKind.INTERIOR_FREE:
        return f"{event} frees {place}, which is inside the object of {other}"
    ended = f", which ended when {other} came over it" if anomaly.other >= 0 else ""
    return f"{event} frees {place}{ended or ', which nothing allocated'}"


def _time(found: Replay, event: int) -> str:
    times = found.log.time
    return "" if times is None or event >= times.size else f" (time {times[event]:g})"
