"""Turns what a subcommand tells of itself into help that a terminal of any width shows well."""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from collections.abc import Iterable
from typing import Any, NoReturn

#: Columns of text on a terminal that has more; lines longer than that are hard to read.
_WIDEST = 98
#: A column of text narrower than that goes below what it belongs to.
_NARROWEST = 24
#: More options than that are not told one by one in the line of usage.
_FEW = 5


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fills paragraphs to the terminal's width; of those with indented lines, what stands behind.

    Such lines are examples and tables: a command or a name, then, behind a gap, what it is.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        width = min(width, _WIDEST)
        filled = []
        for paragraph in text.strip("\n").split("\n\n"):
            if "\n " in f"\n{paragraph}":
                lines = (_narrowed(indent + line, width) for line in paragraph.split("\n"))
                filled.append("\n".join(lines))
            else:
                filled.append(_filled(paragraph, width, indent, indent))
        return "\n\n".join(filled)

    def _format_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Any,
        prefix: str | None,
    ) -> str:
        actions = list(actions)
        options = [action for action in actions if action.option_strings]
        if usage is None and len(options) > _FEW:
            required = [
                f"{action.option_strings[0]} {action.metavar}"
                for action in options
                if action.required
            ]
            places = [
                self._format_args(action, str(action.metavar or action.dest))
                for action in actions
                if not action.option_strings
            ]
            usage = " ".join(("%(prog)s", "[OPTION …]", *required, *places))
        return super()._format_usage(usage, actions, groups, prefix)


class CommandParser(argparse.ArgumentParser):
    """A parser of ours: with help as above, and options that are never abbreviated."""

    def __init__(
        self,
        *,
        formatter_class: type[argparse.HelpFormatter] = HelpFormatter,
        allow_abbrev: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(formatter_class=formatter_class, allow_abbrev=allow_abbrev, **options)

    def error(self, message: str) -> NoReturn:
        """Tell what is wrong with the command line, and who tells more; exit with 2."""
        self.print_usage(sys.stderr)
        self.exit(2, f"{self.prog}: {message}\n  try: {self.prog} --help\n")


def _narrowed(line: str, width: int) -> str:
    """Return a line of a table with its second column filled, or below the first."""
    columns = re.match(r"(\s*\S.*?\s{2,})(\S.*)", line)
    if len(line) <= width or columns is None:
        return line
    first, told = columns.groups()
    if width - len(first) >= _NARROWEST:
        return _filled(told, width, first, " " * len(first))
    return f"{first.rstrip()}\n{_filled(told, width, ' ' * 6, ' ' * 6)}"


def _filled(text: str, width: int, first: str, others: str) -> str:
    return textwrap.fill(
        " ".join(text.split()),
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_on_hyphens=False,
        break_long_words=False,
    )
