"""Turns the first rows of a table into HTML, as notebooks show it."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

#: Rows that are shown.
SHOWN = 20


def html_table(
    shown: object, columns: Sequence[str], rows: Iterable[Sequence[str]], more: str = ""
) -> str:
    """Return what `shown` says of itself, a table, and how much of it was left out.

    Parameters
    ----------
    shown
        Its ``repr``, without the angle brackets, goes before the table.
    columns, rows
        Plain text, which is escaped.
    more
        What was left out: ``"7 more groups"``.
    """
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    rest = f"<p>… and {html.escape(more)}</p>" if more else ""
    return f"<p>{html.escape(repr(shown)[1:-1])}</p><table><tr>{head}</tr>{body}</table>{rest}"
