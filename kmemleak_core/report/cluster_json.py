"""Turns a cluster into JSON, laid out as cluster.json beside this module tells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from .cluster import Cluster, Member

#: Version of the layout: grows when a field changes its meaning or goes away.
VERSION = 1


def schema() -> dict[str, Any]:
    """Return the JSON schema of the document."""
    return dict(json.loads(Path(__file__).with_name("cluster.json").read_text(encoding="utf-8")))


def write_json(cluster: Cluster, out: TextIO) -> None:
    """Write the document, a member and a reference a line."""
    report = cluster.report
    head = {
        "schema": "kmemleak-cluster",
        "version": VERSION,
        "tool": {"name": "kmemleak_core", "version": report.version},
        "dump": report.source.path,
        "redacted": cluster.redact,
        "possible": cluster.possible,
        "left_out": cluster.graph.left_out,
    }
    out.write(json.dumps(head, indent=1)[:-2])
    _list(out, "members", (_member(member) for member in cluster.members()))
    edges = ({"source": s, "target": t, "words": words} for s, t, words in cluster.edges())
    _list(out, "references", edges)
    out.write("\n}\n")


def _member(member: Member) -> dict[str, Any]:
    return {
        "address": hex(member.address),
        "size": member.size,
        "type": member.kind or None,
        "shape": member.shape,
        "direct": member.direct,
    }


def _list(out: TextIO, name: str, values: Iterator[dict[str, Any]]) -> None:
    out.write(f',\n "{name}": [')
    separator = "\n  "
    for value in values:
        out.write(separator + json.dumps(value))
        separator = ",\n  "
    out.write("\n ]")
