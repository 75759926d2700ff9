"""Turns a report into lines, one leak a line, for grep, sort and awk."""

from __future__ import annotations

from typing import TextIO

from .model import RenderOptions, Report
from .select import chosen_rows, hidden, hidden_possible

#: Of the columns of a leak, what a line shows.
_COLUMNS = ["address", "size", "count", "min_count", "direct", "group"]

_HEADER = "# address size kind references/wanted group held-by"

_CHUNK = 8192


class ListRenderer:
    """``address size kind references/wanted group held-by``, separated by single spaces.

    Kinds are ``direct`` and ``indirect``, then what is no leak but ``possible``, whose groups are
    numbered by themselves. ``held-by`` is the address of the head that leads to an object, ``-``
    for a head. The first line is a comment that names the columns.
    """

    name = "list"

    def render(self, report: Report, out: TextIO, options: RenderOptions) -> None:
        """Write one line a leak; see `Renderer`."""
        out.write(_HEADER + "\n")
        left_out = _rows(report, out, options, "direct", "indirect")
        if left_out:
            out.write(f"# {left_out} more\n")
        objects, _ = hidden(report, options)
        if objects:
            out.write(f"# {objects} hidden by filters\n")
        if report.comparison is not None and report.comparison.known.any():
            out.write(f"# {int(report.comparison.known.sum())} known\n")
        if report.summary.suppressed_objects:
            out.write(f"# {report.summary.suppressed_objects} suppressed\n")
        if len(report.possible):
            left_out = _rows(report.of_possible(), out, options, "possible", "possible")
            if left_out:
                out.write(f"# {left_out} more possible\n")
            objects, _ = hidden_possible(report, options)
            if objects:
                out.write(f"# {objects} possible hidden by filters\n")


def _rows(report: Report, out: TextIO, options: RenderOptions, head: str, held: str) -> int:
    """Write lines; return how many the limit left out."""
    rows, left_out = chosen_rows(report, options)
    table = report.leaks.array
    address = f"0x%0{report.source.word_size * 2}x"
    head_line = f"{address} %d {head} %d/%d %d -\n"
    held_line = f"{address} %d {held} %d/%d %d {address}\n"
    for start in range(0, rows.size, _CHUNK):
        part = table[rows[start : start + _CHUNK]]
        heads = table["address"][part["head"]].tolist()
        out.writelines(
            head_line % (place, size, count, wanted, group)
            if direct
            else held_line % (place, size, count, wanted, group, head)
            for (place, size, count, wanted, direct, group), head in zip(
                part[_COLUMNS].tolist(), heads, strict=True
            )
        )
    return left_out
