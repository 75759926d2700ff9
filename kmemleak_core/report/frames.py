"""Turns the text of a backtrace's frame into its parts: function, module, file and line.

The kernel's ``name+0x1/0x20 [module]``, glibc's ``module(name+0x1) [0x7f…]`` and
``module:[0x40…]``, and ``name (file:7)``, ``name at file:7`` or ``file:7`` of others. Each takes
time in proportion to the text.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from ..frame_patterns import function_of, module_of
from .escape import printable

_LINE_DIGITS = 9


class Frame(NamedTuple):
    """What one frame tells; empty, or 0, where it does not.

    Parameters
    ----------
    text
        All of it, fit to be shown.
    function, module
        Names, without offsets.
    file, line
        Where it is in the source.
    """

    text: str
    function: str = ""
    module: str = ""
    file: str = ""
    line: int = 0

    @property
    def label(self) -> str:
        """A short name that is the same wherever in its function the frame is."""
        if not self.function:
            return self.text
        return f"{self.function} [{self.module}]" if self.module else self.function


@lru_cache(8192)
def parse_frame(text: str) -> Frame:
    """Return the parts of a frame; whatever is no visible character is written as an escape."""
    text = printable(text)
    if text.startswith("0x"):
        return Frame(text)
    if text.endswith("]"):
        before, bracket, inside = text[:-1].rpartition("[")
        if bracket and inside.startswith("0x"):
            return _of_backtrace(text, before.rstrip())
    if text.endswith(")"):
        name, bracket, place = text[:-1].rpartition(" (")
        file, line = _place(place)
        if bracket and file:
            return Frame(text, name, "", file, line)
    name, at, place = text.rpartition(" at ")
    file, line = _place(place)
    if file and (at or "/" in file or "." in file):
        return Frame(text, name if at else "", "", file, line)
    return Frame(text, function_of(text), module_of(text) or "")


def _of_backtrace(text: str, before: str) -> Frame:
    """Read what stands before the address in glibc's words."""
    function = ""
    if before.endswith(")"):
        before, _, inside = before[:-1].rpartition("(")
        name, plus, _ = inside.rpartition("+")
        function = name if plus else inside
    module = before.removesuffix(":")
    return Frame(text, function, module)


def _place(text: str) -> tuple[str, int]:
    """Return file and line; empty and 0 where it is no place."""
    file, colon, line = text.rpartition(":")
    if colon and line.isascii() and line.isdigit() and len(line) <= _LINE_DIGITS and int(line):
        return file, int(line)
    return "", 0
