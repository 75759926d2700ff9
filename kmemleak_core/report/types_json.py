"""Turns sums by type into JSON, laid out as types_schema.json beside this module tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from ..type_sums import TypeSum, TypeTable
from .model import RenderOptions, Report
from .types_text import DEFAULT_LIMIT, looks

#: Version of the layout: grows when a field changes its meaning or goes away.
SCHEMA_VERSION = 1


def render_types_json(
    report: Report,
    table: TypeTable,
    out: TextIO,
    options: RenderOptions,
    *,
    of_leaks: bool = False,
) -> None:
    """Write the document."""
    # Everything beyond ASCII is written as an escape: no terminal can be harmed by it.
    json.dump(types_to_dict(report, table, options, of_leaks=of_leaks), out, indent=1)
    out.write("\n")


def types_to_dict(
    report: Report,
    table: TypeTable,
    options: RenderOptions | None = None,
    *,
    of_leaks: bool = False,
) -> dict[str, Any]:
    """Return the document as plain values."""
    options = options or RenderOptions()
    limit = DEFAULT_LIMIT if options.limit is None else options.limit
    shown = min(limit, len(table)) if limit else len(table)
    (objects, nbytes), (known, known_bytes) = table.left_out(0), table.known()
    rest, rest_bytes = table.left_out(shown)
    return {
        "schema": "kmemleak-types",
        "version": SCHEMA_VERSION,
        "tool": {"name": "kmemleak_core", "version": report.version},
        "source": {
            "path": report.source.path,
            "format": report.source.format,
            "architecture": report.source.architecture,
        },
        "of": "leaks" if of_leaks else "objects",
        "redacted": options.redact,
        "summary": {
            "objects": objects,
            "bytes": nbytes,
            "known_objects": known,
            "known_bytes": known_bytes,
        },
        "coverage": [
            {"code": note.code, "message": note.message, "count": note.count}
            for note in report.coverage
        ],
        "types": [_sum(table[i], options) for i in range(shown)],
        "left_out": {"types": len(table) - shown, "objects": rest, "bytes": rest_bytes},
    }


def types_schema() -> dict[str, Any]:
    """Return the JSON schema of the document."""
    text = Path(__file__).with_name("types_schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def _sum(one: TypeSum, options: RenderOptions) -> dict[str, Any]:
    return {
        "type": one.name or None,
        "size": one.size,
        "objects": one.count,
        "bytes": one.nbytes,
        "leaked_objects": one.leaked_count,
        "leaked_bytes": one.leaked_bytes,
        "shape": looks(one, options) or None,
        "example": hex(one.example),
    }
