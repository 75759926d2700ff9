"""Turns the analysis of a kernel's report into JSON, laid out as kernel_schema.json tells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from ..kernel_leaks import KernelAnalysis, KernelLeakGroup
from ..kernel_record import KernelRecord
from ..logs.kernel_report import SkippedLine
from .model import RenderOptions

#: Version of the layout: grows when a field changes its meaning or goes away.
SCHEMA_VERSION = 1


def render_kernel_json(
    analysis: KernelAnalysis,
    out: TextIO,
    options: RenderOptions | None = None,
    **more: Any,
) -> None:
    """Write the document; `more` are members to put beside the usual ones."""
    document = {**kernel_to_dict(analysis, options), **more}
    leaks = document.pop("leaks")
    # Everything beyond ASCII is written as an escape: no terminal can be harmed by it.
    head = json.dumps(document, indent=1)
    out.write(head[: head.rindex("}")].rstrip() + ',\n "leaks": [')
    separator = "\n  "
    for leak in leaks:
        out.write(separator + json.dumps(leak))
        separator = ",\n  "
    out.write("\n ]\n}\n")


def kernel_to_dict(
    analysis: KernelAnalysis, options: RenderOptions | None = None
) -> dict[str, Any]:
    """Return the document as plain values."""
    from .. import __version__

    options = options or RenderOptions()
    report, diff = analysis.report, analysis.diff
    new = None if diff is None else {id(record) for record in diff.new}
    group_of = {row: i for i, group in enumerate(analysis.groups) for row in group.rows}
    groups = analysis.groups[: options.limit] if options.limit else analysis.groups
    leaks = analysis.leaks[: options.limit] if options.limit else analysis.leaks
    return {
        "schema": "kmemleak-kernel-report",
        "version": SCHEMA_VERSION,
        "tool": {"name": "kmemleak_core", "version": __version__},
        "source": {"path": report.path, "format": report.format, "lines": report.lines},
        "redacted": options.redact,
        "summary": {
            "records": len(report.records),
            "repeated_records": analysis.repeated,
            "leaks": len(analysis.leaks),
            "bytes": analysis.nbytes,
            "groups": len(analysis.groups),
            "unlisted": analysis.unlisted,
            "suppressed": analysis.suppressed,
            "suppressed_bytes": analysis.suppressed_bytes,
            "malformed_lines": report.malformed_count,
            "incomplete_records": report.incomplete_count,
            "foreign_lines": report.foreign_count,
        },
        "diff": None if diff is None else _diff(analysis, options),
        "coverage": [
            {"code": note.code, "message": note.message, "count": note.count}
            for note in report.coverage
        ],
        "malformed": _lines(report.malformed),
        "incomplete": _lines(report.incomplete),
        "messages": _lines(report.messages),
        "suppressions": [
            {
                "pattern": use.pattern,
                "path": use.path,
                "line": use.line,
                "leaks": use.count,
                "bytes": use.nbytes,
            }
            for use in analysis.suppressions
        ],
        "groups": [_group(group, i, options) for i, group in enumerate(groups)],
        "groups_left_out": len(analysis.groups) - len(groups),
        "leaks": [
            {
                **_leak(leak, options),
                "group": group_of[row],
                "new": None if new is None else id(leak) in new,
            }
            for row, leak in enumerate(leaks)
        ],
        "leaks_left_out": len(analysis.leaks) - len(leaks),
    }


def kernel_schema() -> dict[str, Any]:
    """Return the JSON schema of the document."""
    text = Path(__file__).with_name("kernel_schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def _diff(analysis: KernelAnalysis, options: RenderOptions) -> dict[str, Any]:
    diff = analysis.diff
    assert diff is not None
    return {
        "old": diff.old_path,
        "new_leaks": len(diff.new),
        "new_bytes": sum(leak.size for leak in diff.new),
        "gone_leaks": len(diff.gone),
        "gone_bytes": sum(leak.size for leak in diff.gone),
        "kept_leaks": diff.kept,
        "new_groups": [
            {**_group(g, i, options), "known": g.key in diff.old_keys}
            for i, g in enumerate(diff.new_groups)
        ],
        "gone_groups": [
            {**_group(g, i, options), "known": g.key in diff.keys}
            for i, g in enumerate(diff.gone_groups)
        ],
        "gone": [_leak(leak, options) for leak in diff.gone],
    }


def _group(group: KernelLeakGroup, index: int, options: RenderOptions) -> dict[str, Any]:
    return {
        "id": index,
        "leaks": group.count,
        "bytes": group.nbytes,
        "min_size": group.min_size,
        "max_size": group.max_size,
        "unlisted": group.unlisted,
        "comms": list(group.comms),
        "frames": list(group.frames),
        "skipped_frames": list(group.skipped),
        "oldest": _leak(group.oldest, options),
    }


def _leak(leak: KernelRecord, options: RenderOptions) -> dict[str, Any]:
    content = None
    if leak.hex_bytes is not None and not options.redact:
        content = leak.hex_bytes.hex()
    return {
        "address": hex(leak.address),
        "size": leak.size,
        "space": leak.space or "virtual",
        "comm": leak.comm,
        "pid": leak.pid,
        "jiffies": leak.jiffies,
        "age": leak.age,
        "crc": leak.crc,
        "content": content,
        "line": leak.line,
    }


def _lines(lines: Sequence[SkippedLine]) -> list[dict[str, Any]]:
    return [{"line": line.number, "text": line.text, "reason": line.reason} for line in lines]
