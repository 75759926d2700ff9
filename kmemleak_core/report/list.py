"""Turns a report into lines, one leak a line, for grep, sort and awk."""

from __future__ import annotations

from typing import TextIO

from .model import RenderOptions, Report
from .select import chosen_rows, hidden

_HEADER = "# address size kind references/wanted group held-by"

_CHUNK = 8192


class ListRenderer:
    """``address size kind references/wanted group held-by``, separated by single spaces.

    ``held-by`` is the address of the head that leads to an indirect leak, ``-`` for a direct
    one. The first line is a comment that names the columns.
    """

    name = "list"

    def render(self, report: Report, out: TextIO, options: RenderOptions) -> None:
        """Write one line a leak; see `Renderer`."""
        rows, left_out = chosen_rows(report, options)
        table = report.leaks.array
        address = f"0x%0{report.source.word_size * 2}x"
        direct_line = f"{address} %d direct %d/%d %d -\n"
        held_line = f"{address} %d indirect %d/%d %d {address}\n"
        out.write(_HEADER + "\n")
        for start in range(0, rows.size, _CHUNK):
            part = table[rows[start : start + _CHUNK]]
            heads = table["address"][part["head"]].tolist()
            out.writelines(
                direct_line % (address, size, count, wanted, group)
                if direct
                else held_line % (address, size, count, wanted, group, head)
                for (address, size, count, wanted, direct, _, group, _), head in zip(
                    part.tolist(), heads, strict=True
                )
            )
        if left_out:
            out.write(f"# {left_out} more\n")
        objects, _ = hidden(report, options)
        if objects:
            out.write(f"# {objects} hidden by filters\n")
        if report.comparison is not None and report.comparison.known.any():
            out.write(f"# {int(report.comparison.known.sum())} known\n")
        if report.summary.suppressed_objects:
            out.write(f"# {report.summary.suppressed_objects} suppressed\n")
