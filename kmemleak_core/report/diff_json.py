"""Turns a Difference into JSON, laid out as diff_schema.json beside this module tells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from ..compare.census import Amount, Census
from ..compare.change import Anchor, Change, GroupChange
from ..compare.difference import Difference
from .model import RenderOptions

#: Version of the layout: grows when a field changes its meaning or goes away.
SCHEMA_VERSION = 1


def render_diff_json(found: Difference, out: TextIO, options: RenderOptions) -> None:
    """Write the document."""
    # Everything beyond ASCII is written as an escape: no terminal can be harmed by it.
    json.dump(diff_to_dict(found, options), out, indent=1)
    out.write("\n")


def diff_to_dict(found: Difference, options: RenderOptions | None = None) -> dict[str, Any]:
    """Return the document as plain values; a limit holds for each table."""
    options = options or RenderOptions()
    limit = options.limit or 0
    from .. import __version__

    return {
        "schema": "kmemleak-diff",
        "version": SCHEMA_VERSION,
        "tool": {"name": "kmemleak_core", "version": __version__},
        "old": _source(found.old, options),
        "new": _source(found.new, options),
        "match": {
            "by": "address" if found.by_address else "signature",
            "asked": found.asked,
            "reason": found.reason,
        },
        "compared": "objects" if found.complete else "leaks",
        "redacted": options.redact,
        "notes": [{"code": note.code, "message": note.message} for note in found.notes],
        "summary": {
            "objects": _sides(found.objects),
            "came": _amount(found.came) if found.complete else None,
            "went": _amount(found.went) if found.complete else None,
            "changed": None if found.changed is None else _amount(found.changed),
            "groups": found.states(leaks=not found.complete),
        },
        "leaks": {
            **_sides(found.leaks),
            "new": _amount(found.new_leaks),
            "kept": _amount(found.kept_leaks),
            "gone": _amount(found.gone_leaks),
            "were_reachable": None if found.lost is None else _amount(found.lost),
        },
        **_table("types", [_named(c) for c in found.types], limit),
        **_table("holders", [_named(c) for c in found.holders], limit),
        "unheld": _sides(found.unheld) if found.complete else None,
        **_table("modules", [_named(c) for c in found.modules], limit),
        **_table("anchors", [_anchor(a) for a in found.anchors(0)], limit),
        **_groups(found, options, "groups", limit, leaks=False),
        **_groups(found, options, "leak_groups", limit, leaks=True),
    }


def diff_schema() -> dict[str, Any]:
    """Return the JSON schema of the document."""
    text = Path(__file__).with_name("diff_schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def _source(census: Census, options: RenderOptions) -> dict[str, Any]:
    identity = census.identity
    process = {str(k): str(v) for k, v in identity.process.items()}
    if options.redact:
        process.pop("arguments", None)
    return {
        "path": identity.path,
        "what": identity.what,
        "format": identity.format,
        "architecture": identity.architecture,
        "program": identity.program,
        "build_id": identity.build_id or None,
        "process": process,
        "coverage": [
            {"code": note.code, "message": note.message, "count": note.count}
            for note in census.coverage
        ],
    }


def _table(name: str, rows: Sequence[dict[str, Any]], limit: int) -> dict[str, Any]:
    shown = rows[:limit] if limit > 0 else rows
    return {name: list(shown), f"{name}_left_out": len(rows) - len(shown)}


def _groups(
    found: Difference, options: RenderOptions, name: str, limit: int, *, leaks: bool
) -> dict[str, Any]:
    if not leaks and not found.complete:
        return {name: [], f"{name}_left_out": 0}
    sort, least = options.sort or "bytes", options.min_size
    shown = found.groups(limit, sort=sort, min_size=least, leaks=leaks)
    left = found.tally(leaks=leaks)[0] - len(shown)
    return {name: [_group(group) for group in shown], f"{name}_left_out": left}


def _group(group: GroupChange) -> dict[str, Any]:
    return {
        "state": group.state,
        "kind": group.kind or None,
        "backtrace": list(group.frames),
        "size": group.size,
        "shape": group.shape,
        "before": _amount(group.before),
        "after": _amount(group.after),
        "came": _amount(group.came),
        "went": _amount(group.went),
        "example": hex(group.example) if group.example else None,
        "held_by": [{"name": name, **_amount(amount)} for name, amount in group.held_by],
    }


def _anchor(anchor: Anchor) -> dict[str, Any]:
    return {
        "name": anchor.name,
        "address": None if anchor.address is None else hex(anchor.address),
        "size": anchor.size,
        "kind": anchor.kind or None,
        "shape": anchor.shape,
        **_amount(anchor.amount),
    }


def _named(change: Change) -> dict[str, Any]:
    return {"name": change.name, **_sides(change)}


def _sides(change: Change) -> dict[str, Any]:
    return {"before": _amount(change.before), "after": _amount(change.after)}


def _amount(amount: Amount) -> dict[str, int]:
    return {"objects": amount.objects, "bytes": amount.nbytes}
