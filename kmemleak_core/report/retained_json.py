"""Turns retained sizes into JSON, laid out as retained_schema.json beside this module tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, TextIO

from ..who.retained import By, Holder, Retained
from .model import RenderOptions, Report
from .retained_text import BRANCHES, DEFAULT_LIMIT, shape, type_name

#: Version of the layout: grows when a field changes its meaning or goes away.
SCHEMA_VERSION = 1


def render_retained_json(
    report: Report,
    found: Retained,
    out: TextIO,
    options: RenderOptions,
    *,
    by: By | Literal["variable"] = "object",
    depth: int = 2,
) -> None:
    """Write the document."""
    # Everything beyond ASCII is written as an escape: no terminal can be harmed by it.
    json.dump(retained_to_dict(report, found, options, by=by, depth=depth), out, indent=1)
    out.write("\n")


def retained_to_dict(
    report: Report,
    found: Retained,
    options: RenderOptions | None = None,
    *,
    by: By | Literal["variable"] = "object",
    depth: int = 2,
) -> dict[str, Any]:
    """Return the document as plain values."""
    options = options or RenderOptions()
    limit = DEFAULT_LIMIT if options.limit is None else options.limit
    chosen: By = "root" if by == "variable" else by
    shown = found.top(limit, chosen)
    everything, (shared_bytes, shared_objects) = found.everything, found.shared
    return {
        "schema": "kmemleak-retained",
        "version": SCHEMA_VERSION,
        "tool": {"name": "kmemleak_core", "version": report.version},
        "source": {
            "path": report.source.path,
            "format": report.source.format,
            "architecture": report.source.architecture,
        },
        "by": by,
        "redacted": options.redact,
        "summary": {
            "reachable_objects": everything.count,
            "reachable_bytes": everything.nbytes,
            "shared_objects": shared_objects,
            "shared_bytes": shared_bytes,
        },
        "coverage": [
            {"code": note.code, "message": note.message, "count": note.count}
            for note in report.coverage
        ],
        "holders": [_holder(report, found, holder, depth, options) for holder in shown],
        "holders_left_out": found.totals(chosen)[0] - len(shown),
    }


def retained_schema() -> dict[str, Any]:
    """Return the JSON schema of the document."""
    text = Path(__file__).with_name("retained_schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def _holder(
    report: Report, found: Retained, holder: Holder, depth: int, options: RenderOptions
) -> dict[str, Any]:
    above = found.dominator(holder)
    held = found.held(holder, BRANCHES) if depth > 0 else []
    return {
        **_named(holder),
        "size": holder.size,
        "retained_bytes": holder.nbytes,
        "retained_objects": holder.count,
        "type": type_name(report, holder) or None,
        "shape": shape(report, holder, redact=options.redact) or None,
        "held_by": None if above is None else _named(above),
        "holds": [_holder(report, found, below, depth - 1, options) for below in held],
    }


def _named(holder: Holder) -> dict[str, Any]:
    address = None if holder.address is None else hex(holder.address)
    return {"kind": holder.kind, "name": holder.name, "address": address}
