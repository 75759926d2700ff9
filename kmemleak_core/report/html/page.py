"""Turns a report into a page of HTML that is one file, small, and loads nothing."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO

from ...errors import KmemleakError
from ..facts import (
    check_facts,
    counter_facts,
    left_out_facts,
    note_text,
    source_facts,
    suppression_facts,
)
from ..json import plain_option
from ..kernel_part import verdict_lines
from ..model import RenderOptions, Report
from ..summary import Summary
from ..text import headline
from ..units import count_text, size_text
from .data import PageData, page_data
from .notebook import group_table
from .packing import clipped

#: Bytes of a page.
LIMIT = 1_950_000
#: Notes, checks, options, … of each kind that are told.
_MOST = 60

_HERE = Path(__file__).parent
#: In this order: each uses what those before it define.
_SCRIPTS = (
    "text",
    "model",
    "hex",
    "layered",
    "force",
    "graph",
    "details",
    "table",
    "treemap",
    "main",
)


class HtmlRenderer:
    """Summary, table of groups, treemap and clusters, for a browser; scripts are in the page."""

    name = "html"

    def render(self, report: Report, out: TextIO, options: RenderOptions) -> None:
        """Write the page; see `Renderer`."""
        out.write(page(report, options))


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the summary."""

    name: str
    objects: int
    size: str
    share: float  # of all bytes, in percent
    tone: str  # how the style names its colour


def page(report: Report, options: RenderOptions, limit: int = LIMIT) -> str:
    """Return the page, of ASCII alone.

    Parameters
    ----------
    report, options
        What is shown.
    limit
        Bytes; not less than what the page takes without its groups.
    """
    try:
        import jinja2
    except ImportError:
        raise KmemleakError(
            "a report in HTML needs jinja2, which is not installed", hint="pip install jinja2"
        ) from None
    # Undefined names are mistakes, and whatever a template is given is escaped.
    template = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(_read("page.html"))
    style, script = _read("page.css"), _script()
    values = {
        "style": style,
        "script": script,
        "style_hash": _hash(style),
        "script_hash": _hash(script),
        **_values(report, options),
    }

    def filled(data: PageData) -> str:
        text = template.render(values, data=data.text, left_out=data.left_out)
        return text.encode("ascii", "xmlcharrefreplace").decode("ascii")

    without = len(filled(PageData("", ("",) * 3)))
    return filled(page_data(report, options, limit - without - 1000))


def _values(report: Report, options: RenderOptions) -> dict[str, Any]:
    """Return what the template shows of a report, texts all of them."""
    arguments = "" if options.redact else report.source.process.get("arguments", "")
    counted, times = counter_facts(report.counters)
    return {
        "path": clipped(report.source.path) or "memory",
        "version": clipped(report.version),
        "facts": [clipped(fact) for fact in source_facts(report)],
        "arguments": clipped(arguments),
        "headline": headline(report),
        "leaks": report.summary.leaked_objects > 0,
        "redacted": options.redact,
        "figures": _figures(report.summary),
        "filtered": _some(left_out_facts(report, options)),
        "verdict": "" if report.kernel is None else _verdict(report),
        "checks": _some(check_facts(report)),
        "agrees": all(check.passed for check in report.checks),
        "notes": _some(note_text(note) for note in report.coverage),
        "note_count": count_text(len(report.coverage), "note"),
        "suppressions": _some(suppression_facts(report)),
        "options": _options(report, options)[:_MOST],
        "counted": _some(counted),
        "times": _some(times),
        "table": group_table(report, options),
    }


def _figures(summary: Summary) -> list[Figure]:
    """Return the figures that are not zero, parts of all bytes that were scanned."""
    told = [
        ("directly leaked", "direct", "direct"),
        ("held by other leaks", "indirect", "indirect"),
        ("suppressed", "suppressed", "suppressed"),
        ("possibly lost", "possible", "possible"),
        ("reachable", "reachable", "reachable"),
    ]
    found = []
    for name, field, tone in told:
        objects = getattr(summary, f"{field}_objects") or 0
        nbytes = getattr(summary, f"{field}_bytes") or 0
        if field == "reachable":  # the possibly lost are, too
            objects -= summary.possible_objects or 0
            nbytes -= summary.possible_bytes or 0
        if objects or field == "direct":
            share = 100 * nbytes / summary.object_bytes if summary.object_bytes else 0.0
            found.append(Figure(name, objects, size_text(nbytes), round(share, 3), tone))
    return found


def _options(report: Report, options: RenderOptions) -> list[tuple[str, str]]:
    """Return what was asked for, of the analysis and of the renderer."""
    asked = {name: plain_option(name, value) for name, value in report.options.items()}
    asked["grouped by"] = report.grouped_by
    for name in ("min_size", "max_size", "types", "functions", "modules", "sort", "redact"):
        value = getattr(options, name)
        if value not in (0, None, (), False):
            asked[name] = ", ".join(value) if isinstance(value, tuple) else value
    return [
        (clipped(name.replace("_", " ")), clipped(_option_text(value)))
        for name, value in asked.items()
    ]


def _option_text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "the usual", True: "yes", False: "no"}[value]
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _verdict(report: Report) -> str:
    assert report.kernel is not None
    return "\n".join(_some(verdict_lines(report.kernel, 100))).strip("\n")


def _some(texts: Iterable[str]) -> Sequence[str]:
    """Return the first of some sentences, and how many more there are."""
    found = [clipped(text, 500) for text in texts]
    more = len(found) - _MOST
    return [*found[:_MOST], f"and {more:,} more"] if more > 0 else found


def _script() -> str:
    parts = (_read(f"js/{name}.js") for name in _SCRIPTS)
    return '(() => {\n"use strict";\n' + "\n".join(parts) + "})();\n"


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="ascii")


def _hash(text: str) -> str:
    """Return how a policy names a script or style that stands in the page."""
    return "sha256-" + b64encode(sha256(text.encode("ascii")).digest()).decode("ascii")
