"""Turns the replay of an allocation log into JSON, laid out as replay_schema.json tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from ..replay import AnomalyKind, LiveGroup, Replay
from .model import RenderOptions

#: Version of the layout: grows when a field changes its meaning or goes away.
SCHEMA_VERSION = 1


def render_replay_json(
    found: Replay, groups: list[LiveGroup], out: TextIO, options: RenderOptions | None = None
) -> None:
    """Write the document."""
    # Everything beyond ASCII is written as an escape: no terminal can be harmed by it.
    json.dump(replay_to_dict(found, groups, options), out, indent=1)
    out.write("\n")


def replay_to_dict(
    found: Replay, groups: list[LiveGroup], options: RenderOptions | None = None
) -> dict[str, Any]:
    """Return the document as plain values; the groups in the order in which they are to be told."""
    from .. import __version__

    options = options or RenderOptions()
    log = found.log
    shown = groups[: options.limit] if options.limit else groups
    line = found.timeline
    return {
        "schema": "kmemleak-replay",
        "version": SCHEMA_VERSION,
        "tool": {"name": "kmemleak_core", "version": __version__},
        "source": {"path": log.path, "format": log.format},
        "summary": {
            "events": len(log),
            "live_objects": len(found),
            "live_bytes": found.nbytes,
            "groups": len(groups),
            "null_events": found.nulls,
            **{f"{kind.name.lower()}s": found.totals[kind] for kind in AnomalyKind},
        },
        "peak": {
            "bytes": found.peak_bytes.value,
            "bytes_event": found.peak_bytes.event,
            "objects": found.peak_objects.value,
            "objects_event": found.peak_objects.event,
        },
        "coverage": [
            {"code": note.code, "message": note.message, "count": note.count}
            for note in log.coverage
        ],
        "anomalies": [
            {
                "kind": anomaly.kind.name.lower(),
                "event": anomaly.event,
                "other": anomaly.other if anomaly.other >= 0 else None,
                "address": hex(anomaly.address),
            }
            for anomaly in found.anomalies
        ],
        "anomalies_left_out": sum(found.totals.values()) - len(found.anomalies),
        "ages": {
            "unit": "events" if log.time is None else "time",
            "bins": [
                {"from": row[0], "to": row[1], "objects": row[2], "bytes": row[3]}
                for row in found.by_age().tolist()
            ],
        },
        "timeline": {
            "event": line.event.tolist(),
            "objects": line.objects.tolist(),
            "bytes": line.nbytes.tolist(),
        },
        "groups": [
            {
                "trace": log.trace_name(group.trace) or None,
                "size": group.size,
                "objects": group.objects,
                "bytes": group.nbytes,
                "oldest": _object(found, group.oldest),
                "newest": _object(found, group.newest),
            }
            for group in shown
        ],
        "groups_left_out": len(groups) - len(shown),
    }


def replay_schema() -> dict[str, Any]:
    """Return the JSON schema of the document."""
    text = Path(__file__).with_name("replay_schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def _object(found: Replay, event: int) -> dict[str, Any]:
    log = found.log
    return {
        "event": event,
        "address": hex(int(log.address[event])),
        "time": None if log.time is None else float(log.time[event]),
        "thread": None if log.thread is None else int(log.thread[event]),
    }
