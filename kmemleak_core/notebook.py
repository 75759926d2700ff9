"""Turns tables into what notebooks show and use: the first rows as HTML, all as a DataFrame."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

from .errors import KmemleakError

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


def data_frame(values: Any) -> Any:
    """Return a ``pandas.DataFrame`` of columns by name, or of rows.

    Raises
    ------
    KmemleakError
        pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise KmemleakError(
            "to_pandas() needs pandas, which is not installed",
            hint="pip install 'kmemleak-core[pandas]'",
        ) from None
    return pd.DataFrame(values)
