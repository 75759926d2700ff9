"""Turns what every text for people has into lines: its heading, sentences, what it leaves out."""

from __future__ import annotations

import textwrap

from .escape import printable
from .terminal import Line
from .units import count_text, size_text


def heading(line: Line, title: str, sentence: str, width: int, *, good: bool) -> None:
    """Write what was looked at, and in one sentence whether there is something to do."""
    line((printable(title), "bold"))
    line()
    for text in textwrap.wrap(sentence, width):
        line((text, "bold green" if good else "bold red"))


def wrapped(line: Line, text: str, width: int, indent: str = "") -> None:
    """Write a sentence, its further lines indented by two more columns."""
    for part in textwrap.wrap(
        printable(text), width, initial_indent=indent, subsequent_indent=indent + "  "
    ):
        line(part)


def left_out(line: Line, what: str, groups: int, objects: int, nbytes: int) -> None:
    """Write how many groups are not shown, and what they hold; nothing where there are none."""
    if groups:
        line()
        held = f"{count_text(objects, 'object')}, {size_text(nbytes)}"
        line(f"  and {count_text(groups, f'more {what}')}: {held} (--limit 0 shows all)")
