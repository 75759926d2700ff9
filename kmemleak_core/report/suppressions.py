"""Turns a report into lines that would suppress what it shows."""

from __future__ import annotations

from typing import TextIO

from ..frame_patterns import Skipper, function_of
from ..leaks import LeakGroup
from .model import RenderOptions, Report
from .select import chosen_groups
from .units import count_text, size_text


class SuppressionsRenderer:
    """One line a group, with a comment of what it is; the same line only once.

    By the first function of the backtrace that is not an allocator's, else by what the objects
    are, else by their size.
    """

    name = "suppressions"

    def render(self, report: Report, out: TextIO, options: RenderOptions) -> None:
        """Write the lines; see `Renderer`."""
        skipper = Skipper()
        lines: dict[str, list[LeakGroup]] = {}
        groups = [group for _, group in chosen_groups(report, options)]
        for group in groups[: options.limit or None]:
            lines.setdefault(_line(report, group, skipper), []).append(group)
        for line, covered in lines.items():
            count = sum(group.count for group in covered)
            nbytes = sum(group.nbytes for group in covered)
            out.write(f"# {count_text(count, 'object')}, {size_text(nbytes)}\n{line}\n")


def _line(report: Report, group: LeakGroup, skipper: Skipper) -> str:
    frames, kind = group.origin.frames, group.origin.kind
    if frames:
        callers = [frame for frame in frames if not skipper.skips(frame)] or list(frames)
        name = _pattern(function_of(callers[0]))
        if name:
            return f"leak:^{name}$"
    if kind and _pattern(kind):
        return f"type:{_pattern(kind)}"
    if group.size is not None:
        return f"size:{group.size}"
    sizes = report.leaks["size"][group.rows]
    return f"size:{int(sizes.min())}-{int(sizes.max())}"


def _pattern(name: str) -> str:
    """Return a pattern for a name; whatever a file does not hold as it is becomes ``*``.

    Empty where nothing would be left of it.
    """
    text = "".join(
        c if c.isprintable() and not c.isspace() and c not in "^$" else "*" for c in name
    )
    return text if text.strip("*") else ""
