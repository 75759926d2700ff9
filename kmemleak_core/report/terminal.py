"""Turns lines made of styled pieces into text: with colours only where the stream takes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TextIO

_DEFAULT_WIDTH = 100

#: Writes one line made of pieces, each plain text or (text, style).
Line = Callable[..., None]


def shortened(text: str, width: int) -> str:
    """Cut a text to a width, and show that it was cut."""
    return text if len(text) <= width else text[: width - 1] + "…"


def terminal_width(out: TextIO) -> int:
    """Return the columns of a terminal; of anything else, a usual width."""
    try:
        return os.get_terminal_size(out.fileno()).columns or _DEFAULT_WIDTH
    except (OSError, ValueError, AttributeError):
        return _DEFAULT_WIDTH


def wants_color(out: TextIO) -> bool:
    """Return whether a stream is a terminal that takes colours and nobody asked for none."""
    return out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def line_writer(out: TextIO, color: bool | None = None) -> Line:
    """Return what writes one line of pieces; None finds out whether the stream takes colours."""
    if not (wants_color(out) if color is None else color):

        def plain(*pieces: str | tuple[str, str]) -> None:
            out.write("".join(p if isinstance(p, str) else p[0] for p in pieces) + "\n")

        return plain

    from rich.console import Console
    from rich.text import Text

    console = Console(
        file=out, force_terminal=True, markup=False, emoji=False, highlight=False, no_color=False
    )

    def styled(*pieces: str | tuple[str, str]) -> None:
        # Text never reads markup: a name such as "[red]" stays what it is.
        console.print(Text.assemble(*pieces), soft_wrap=True)

    return styled
