"""Turns a report into a short piece of HTML without scripts, as notebooks show it."""

from __future__ import annotations

import html

from ..model import RenderOptions, Report
from ..select import chosen_groups, shown_shape
from ..text import headline
from ..units import size_text
from .packing import clipped

_SHOWN = 20


def summary_html(report: Report) -> str:
    """Return the summary and the largest groups that no baseline knows, everything escaped."""
    return (
        f"<p><b>{_text(report.source.path or 'memory')}</b>: {_text(headline(report))}</p>"
        + group_table(report, RenderOptions())
    )


def group_table(report: Report, options: RenderOptions) -> str:
    """Return the first groups that are shown as a table, everything escaped."""
    groups = chosen_groups(report, options)
    rows = "".join(
        f"<tr><td>{g.count:,}</td><td>{size_text(g.nbytes)}</td>"
        f"<td>{'' if g.size is None else f'{g.size:,}'}</td><td>{g.direct_count:,}</td>"
        f"<td>{_text(g.origin.kind)}</td><td>{_text(shown_shape(g, options))}</td>"
        f"<td><code>{g.example:#x}</code></td></tr>"
        for _, g in groups[:_SHOWN]
    )
    more = len(groups) - _SHOWN
    return (
        "<table><tr><th>objects</th><th>bytes</th><th>size</th><th>direct</th><th>type</th>"
        f"<th>contents</th><th>example</th></tr>{rows}</table>"
        + (f"<p>… and {more:,} more groups</p>" if more > 0 else "")
    )


def _text(text: str) -> str:
    return html.escape(clipped(text))
