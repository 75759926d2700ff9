"""Turns a report into JSON, laid out as schema.json beside this module tells."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ..kernel_findings import Difference, KernelFindings
from ..leaks import LeakGroup
from ..provenance import Origin
from .model import RenderOptions, Report
from .pointers import pointer_names
from .select import (
    chosen_groups,
    chosen_rows,
    example_size,
    hidden,
    hidden_possible,
    shown_shape,
)

if TYPE_CHECKING:
    from ..baseline import Comparison
    from ..suppressions import SuppressionUse

#: Version of the layout: grows when a field changes its meaning or goes away.
SCHEMA_VERSION = 1

_CHUNK = 4096
#: Of the columns of a leak, what is told of each.
_COLUMNS = ["address", "size", "count", "min_count", "direct", "group", "order"]


class JsonRenderer:
    """The whole report for machines; addresses are hexadecimal strings."""

    name = "json"

    def render(self, report: Report, out: TextIO, options: RenderOptions) -> None:
        """Write the document, some of its leaks at a time; see `Renderer`."""
        # Everything beyond ASCII is written as an escape: no terminal can be harmed by it.
        head = json.dumps(_head(report, options), indent=1)
        out.write(head[: head.rindex("}")].rstrip())
        _write_rows(out, "leaks", _leaks(report, options))
        _write_rows(out, "possible", _possible(report, options))
        out.write("\n}\n")


def _write_rows(out: TextIO, name: str, rows: Iterator[dict[str, Any]]) -> None:
    out.write(f',\n "{name}": [')
    separator = "\n  "
    while some := list(islice(rows, _CHUNK)):
        # One a line: no value of a leak has a brace in it.
        lines = json.dumps(some)[1:-1].replace("}, {", "},\n  {")
        out.write(separator + lines)
        separator = ",\n  "
    out.write("\n ]")


def to_dict(report: Report, options: RenderOptions) -> dict[str, Any]:
    """Return the document as plain values."""
    return {
        **_head(report, options),
        "leaks": list(_leaks(report, options)),
        "possible": list(_possible(report, options)),
    }


def schema() -> dict[str, Any]:
    """Return the JSON schema of the document."""
    text = Path(__file__).with_name("schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def _head(report: Report, options: RenderOptions) -> dict[str, Any]:
    source, summary = report.source, report.summary
    groups = chosen_groups(report, options)
    shown = groups[: options.limit] if options.limit else groups
    _, leaks_left_out = chosen_rows(report, options)
    part = report.of_possible() if len(report.possible) else None
    possible = [] if part is None else chosen_groups(part, options)
    possible_shown = possible[: options.limit] if options.limit else possible
    process = {str(k): str(v) for k, v in source.process.items()}
    if options.redact:
        process.pop("arguments", None)
    return {
        "schema": "kmemleak-report",
        "version": SCHEMA_VERSION,
        "tool": {"name": "kmemleak_core", "version": report.version},
        "source": {
            "path": source.path,
            "format": source.format,
            "architecture": source.architecture,
            "word_size": source.word_size,
            "byteorder": source.byteorder,
            "threads": source.threads,
            "process": process,
        },
        "allocator": report.allocator or None,
        "options": {name: plain_option(name, value) for name, value in report.options.items()},
        "redacted": options.redact,
        "summary": {name: getattr(summary, name) for name in summary.__slots__},
        "suppressions": [_suppression(use) for use in report.suppressions],
        "checks": [
            {"name": c.name, "expected": c.expected, "found": c.found, "passed": c.passed}
            for c in report.checks
        ],
        "coverage": [
            {
                "code": note.code,
                "message": note.message,
                "count": note.count,
                "bytes": note.nbytes,
                "address": None if note.address is None else hex(note.address),
            }
            for note in report.coverage
        ],
        "counters": _counters(report.counters),
        "kernel": None if report.kernel is None else _kernel(report.kernel),
        "baseline": None if report.comparison is None else _baseline(report, report.comparison),
        "hidden": _amount(*hidden(report, options)),
        "possible_hidden": _amount(*hidden_possible(report, options)),
        "grouped_by": report.grouped_by,
        "groups": [_group(report, options, index, group) for index, group in shown],
        "groups_left_out": len(groups) - len(shown),
        "leaks_left_out": leaks_left_out,
        "possible_groups": []
        if part is None
        else [_group(part, options, index, group) for index, group in possible_shown],
        "possible_groups_left_out": len(possible) - len(possible_shown),
        "possible_left_out": 0 if part is None else chosen_rows(part, options)[1],
    }


def _amount(objects: int, nbytes: int) -> dict[str, int]:
    return {"objects": objects, "bytes": nbytes}


def _suppression(use: SuppressionUse) -> dict[str, Any]:
    return {
        "what": use.what,
        "pattern": use.pattern,
        "path": use.path,
        "line": use.line,
        "builtin": use.builtin,
        "objects": use.count,
        "bytes": use.nbytes,
        "possible_objects": use.possible,
    }


def _group(report: Report, options: RenderOptions, index: int, group: LeakGroup) -> dict[str, Any]:
    example: dict[str, Any] = {"address": hex(group.example)}
    if not options.redact:
        size = min(example_size(report, group), options.hex_bytes)
        example["content"] = report.content(group.example, size).hex()
    return {
        "id": index,
        "size": group.size,
        "shape": shown_shape(group, options),
        "objects": group.count,
        "bytes": group.nbytes,
        "direct_objects": group.direct_count,
        "direct_bytes": group.direct_bytes,
        "retained_objects": group.retained_count,
        "retained_bytes": group.retained_bytes,
        "example": example,
        "kind": group.origin.kind or None,
        "backtrace": list(group.origin.frames),
        **_earlier(report, group),
    }


def _baseline(report: Report, compared: Comparison) -> dict[str, Any]:
    known = report.leaks["size"][compared.known]
    new = report.counted()
    return {
        "path": compared.path,
        "known_objects": known.size,
        "known_bytes": int(known.sum()),
        "new_objects": new.objects,
        "new_bytes": new.nbytes,
        "gone_groups": compared.gone,
    }


def _earlier(report: Report, group: LeakGroup) -> dict[str, Any]:
    """Return what a baseline has of a group; nothing without one."""
    earlier = None if report.comparison is None else report.comparison.earlier_of(group)
    if earlier is None:
        return {}
    return {"earlier_objects": earlier.objects, "earlier_bytes": earlier.nbytes}


def _kernel(kernel: KernelFindings) -> dict[str, Any]:
    agreed, others = kernel.colours or (None, None)
    return {
        "release": kernel.release,
        "records": kernel.records,
        "verdict": kernel.verdict or "now",
        "differences": [_difference(d) for d in kernel.differences],
        "surprises": [_difference(d) for d in kernel.surprises],
        "kernel_reported": kernel.kernel_reported,
        "colours_agreed": agreed,
        "colours_differing": others,
    }


def _difference(difference: Difference) -> dict[str, Any]:
    return {
        "code": difference.code,
        "reason": difference.reason,
        "leak": difference.leak,
        "objects": difference.objects,
        "bytes": difference.nbytes,
        "examples": [hex(address) for address in difference.examples],
    }


def _leaks(report: Report, options: RenderOptions) -> Iterator[dict[str, Any]]:
    rows, _ = chosen_rows(report, options)
    table = report.leaks.array
    for start in range(0, rows.size, _CHUNK):
        part = table[rows[start : start + _CHUNK]]
        heads = table["address"][part["head"]].tolist()
        for i, row, head in zip(
            rows[start:].tolist(), part[_COLUMNS].tolist(), heads, strict=False
        ):
            address, size, count, wanted, direct, group, order = row
            leak = {
                "address": hex(address),
                "size": size,
                "references": count,
                "min_count": wanted,
                "direct": direct,
                "held_by": None if direct else hex(head),
                "group": None if group < 0 else group,
                "order": order,
            }
            if report.provenance is not None:
                leak |= _origin(report.provenance.origin(i))
            yield leak


def _possible(report: Report, options: RenderOptions) -> Iterator[dict[str, Any]]:
    """Yield the possibly lost objects as `_leaks` does leaks, with what it is that holds them."""
    if not len(report.possible):
        return
    part = report.of_possible()
    rows, _ = chosen_rows(part, options)
    held = part.leaks["held"][rows].tolist()
    for leak, bits in zip(_leaks(part, options), held, strict=True):
        yield leak | {"pointers": pointer_names(bits)}


def _origin(origin: Origin) -> dict[str, Any]:
    return {
        "kind": origin.kind or None,
        "comm": origin.comm or None,
        "pid": origin.pid,
        "birth": origin.birth,
    }


def _counters(counters: Mapping[str, int | float]) -> dict[str, int | float]:
    return {str(k): v if isinstance(v, float) else int(v) for k, v in counters.items()}


def plain_option(name: str, value: Any) -> Any:
    """Turn an option's value into one that JSON has."""
    if name == "pointer_mask" and value is not None:
        return hex(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, set | frozenset):
        return sorted(str(v) for v in value)
    if isinstance(value, list | tuple):
        return [plain_option("", v) for v in value]
    return str(value)
