"""Turns a report into a short piece of HTML, as notebooks show it."""

from __future__ import annotations

import html

from ..escape import printable
from ..model import RenderOptions, Report
from ..select import chosen_groups
from ..text import headline
from ..units import size_text

_SHOWN = 20


def summary_html(report: Report) -> str:
    """Return the summary and the largest groups that no baseline knows, everything escaped."""
    groups = chosen_groups(report, RenderOptions())
    rows = "".join(
        f"<tr><td>{g.count:,}</td><td>{size_text(g.nbytes)}</td>"
        f"<td>{'' if g.size is None else f'{g.size:,}'}</td><td>{g.direct_count:,}</td>"
        f"<td>{_text(g.shape)}</td><td><code>{g.example:#x}</code></td></tr>"
        for _, g in groups[:_SHOWN]
    )
    more = len(groups) - _SHOWN
    return (
        f"<p><b>{_text(report.source.path or 'memory')}</b>: {_text(headline(report))}</p>"
        "<table><tr><th>objects</th><th>bytes</th><th>size</th><th>direct</th>"
        f"<th>contents</th><th>example</th></tr>{rows}</table>"
        + (f"<p>… and {more:,} more groups</p>" if more > 0 else "")
    )


def _text(text: str) -> str:
    return html.escape(printable(text))
