"""Turns a report into SARIF 2.1.0, which code scanning services and editors show.

A result is a group of leaks or, by a rule of its own, of what is possibly lost; what is suppressed
is one result for each suppression. With a baseline the groups that it has are told, too, as
unchanged.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote

from ..baseline import signature
from ..frame_patterns import Skipper
from ..leaks import LeakGroup
from .escape import printable
from .frames import Frame, parse_frame
from .model import RenderOptions, Report
from .pointers import reason
from .sarif_rules import KNOWN, POSSIBLE, RULES, rule_of
from .select import chosen_groups, example_size, hidden, hidden_possible, shown_shape
from .units import count_text, size_text

if TYPE_CHECKING:
    from ..suppressions import SuppressionUse

_SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
#: Name of our fingerprints: another version where equal groups get other ones.
_FINGERPRINT = "kmemleakGroup/v1"
#: Numbers beyond this are not exact in every reader of JSON.
_MOST_EXACT = 1 << 53
#: What addresses of code look like: each run has others.
_ADDRESS = re.compile(r"\[?\b0x[0-9a-f]+\]?")


class SarifRenderer:
    """One run of one tool; the dump is its artifact. Addresses are those of examples."""

    name = "sarif"

    def render(self, report: Report, out: TextIO, options: RenderOptions) -> None:
        """Write the document, a result a line; see `Renderer`."""
        head = {"$schema": _SCHEMA, "version": "2.1.0", "runs": [_run(report, options)]}
        # The results, of which there can be thousands, are written into an empty list.
        before, mark, after = json.dumps(head, indent=1).partition('"results": []')
        out.write(before + mark[:-1])
        separator = "\n"
        for result in _results(report, options):
            out.write(separator + json.dumps(result))
            separator = ",\n"
        out.write("]" + after + "\n")


def _run(report: Report, options: RenderOptions) -> dict[str, Any]:
    artifact = _artifact(report)
    summary = report.summary
    return {
        "tool": {
            "driver": {
                "name": "kmemleak",
                "semanticVersion": report.version,
                "rules": [rule.descriptor() for rule in RULES],
            }
        },
        "columnKind": "unicodeCodePoints",
        "results": [],
        "invocations": [_invocation(report, options)],
        "artifacts": [{"location": artifact, "roles": ["analysisTarget"]}] if artifact else [],
        "properties": {
            "format": report.source.format,
            "architecture": report.source.architecture,
            "allocator": report.allocator,
            "groupedBy": report.grouped_by,
            "redacted": options.redact,
            "summary": {_camel(name): getattr(summary, name) for name in summary.__slots__},
            "hiddenByFilters": _amount(*hidden(report, options)),
            "possibleHiddenByFilters": _amount(*hidden_possible(report, options)),
        },
    }


def _amount(objects: int, nbytes: int) -> dict[str, int]:
    return {"objects": objects, "bytes": nbytes}


def _invocation(report: Report, options: RenderOptions) -> dict[str, Any]:
    """Tell that it ran to its end, and what it could not see."""
    notes = [
        {
            "descriptor": {"id": printable(note.code)},
            "level": "warning",
            "message": {"text": _message(note.message)},
            "properties": {"count": note.count, "bytes": note.nbytes}
            | ({} if note.address is None else {"address": hex(note.address)}),
        }
        for note in report.coverage
    ]
    for check in report.checks:
        if not check.passed:
            text = f"{check.name}: the allocator says {check.expected:,}, found {check.found:,}"
            notes.append(
                {
                    "descriptor": {"id": "heap.check"},
                    "level": "warning",
                    "message": {"text": _message(text)},
                }
            )
    told: dict[str, Any] = {"executionSuccessful": True, "toolExecutionNotifications": notes}
    if options.exit_code is not None:
        told["exitCode"] = options.exit_code
    return told


def _results(report: Report, options: RenderOptions) -> Iterator[dict[str, Any]]:
    every = report if report.comparison is None else replace(report, comparison=None)
    skipper = Skipper()
    for group, result in _group_results(every, options, skipper):
        state = _state(report, group)
        if state:
            result["baselineState"] = state
        yield result
    if len(report.possible):
        for _, result in _group_results(report.of_possible(), options, skipper):
            yield result
    for use in report.suppressions:
        if use.used:
            yield _suppressed(report, use)


def _group_results(
    report: Report, options: RenderOptions, skipper: Skipper
) -> Iterator[tuple[LeakGroup, dict[str, Any]]]:
    seen: Counter[str] = Counter()
    for _, group in chosen_groups(report, options)[: options.limit or None]:
        result = _result(report, options, group, skipper)
        # Groups that are known by the same are told apart by their order.
        digest = _digest(group, result["ruleId"])
        seen[digest] += 1
        result["partialFingerprints"] = {_FINGERPRINT: f"{digest}:{seen[digest]}"}
        yield group, result


def _result(
    report: Report, options: RenderOptions, group: LeakGroup, skipper: Skipper
) -> dict[str, Any]:
    rule, index = rule_of(report.leaks, group)
    frames = [parse_frame(text) for text in group.origin.frames]
    callers = [
        f for f, text in zip(frames, group.origin.frames, strict=True) if not skipper.skips(text)
    ] or frames
    leaked = report.summary.leaked_bytes
    freed = group.direct_bytes + group.retained_bytes if group.direct_count else group.nbytes
    result: dict[str, Any] = {
        "ruleId": rule.id,
        "ruleIndex": index,
        "level": rule.level,
        "message": {"text": _message(_sentence(report, group, options, callers))},
        "occurrenceCount": group.count,
        "locations": _locations(report, group, callers),
        "properties": {
            "objects": group.count,
            "bytes": group.nbytes,
            "directObjects": group.direct_count,
            "directBytes": group.direct_bytes,
            "retainedObjects": group.retained_count,
            "retainedBytes": group.retained_bytes,
            "size": group.size,
            "shape": shown_shape(group, options),
            "type": printable(group.origin.kind) or None,
            "example": hex(group.example),
        },
    }
    if rule is not POSSIBLE:
        result["rank"] = round(min(100.0, 100 * freed / leaked), 3) if leaked else 0.0
    if frames:
        result["stacks"] = [
            {
                "message": {"text": "where they were allocated"},
                "frames": [_stack_frame(frame) for frame in frames],
            }
        ]
    return result


def _sentence(
    report: Report, group: LeakGroup, options: RenderOptions, callers: list[Frame]
) -> str:
    what = count_text(group.count, "object")
    what += f" of {count_text(group.size, 'byte')}" if group.size is not None else ""
    what += f" ({size_text(group.nbytes)})" if group.count > 1 or group.size is None else ""
    kind = printable(group.origin.kind) or f"[{shown_shape(group, options)}]"
    where = f", allocated by {callers[0].label}" if callers else ""
    possible = rule_of(report.leaks, group)[0] is POSSIBLE
    if possible and not group.direct_count:
        return f"{what} held only by what is possibly lost: {kind}{where}"
    if group.direct_count:
        text = f"{what} {'possibly lost' if possible else 'leaked'}: {kind}{where}"
        if possible:
            text += f"; {reason(report.leaks, group)}"
        if group.direct_count < group.count:
            others = "others" if possible else "other leaks"
            text += f"; {group.indirect_count:,} of them held by {others}"
        if group.retained_count:
            text += (
                f"; {count_text(group.retained_count, 'more object')},"
                f" {size_text(group.retained_bytes)}, that nothing else leads to"
            )
        return text
    return f"{what} held only by other leaks: {kind}{where}"


def _locations(report: Report, group: LeakGroup, callers: list[Frame]) -> list[dict[str, Any]]:
    """Tell where: the innermost frame that is not an allocator's, and the example in the dump.

    Where a frame tells its source, that comes first; else the dump does.
    """
    location: dict[str, Any] = {}
    if callers:
        location = _location(callers[0])
    if "physicalLocation" not in location:
        physical = _in_dump(report, group)
        if physical:
            location["physicalLocation"] = physical
    return [location] if location else []


def _location(frame: Frame) -> dict[str, Any]:
    names = []
    if frame.function:
        qualified = f"{frame.module}!{frame.function}" if frame.module else frame.function
        names.append({"name": frame.function, "fullyQualifiedName": qualified, "kind": "function"})
    if frame.module:
        names.append({"name": frame.module, "kind": "module"})
    location: dict[str, Any] = {"logicalLocations": names} if names else {}
    if frame.file:
        location["physicalLocation"] = {
            "artifactLocation": {"uri": _uri(frame.file)},
            "region": {"startLine": frame.line},
        }
    return location


def _stack_frame(frame: Frame) -> dict[str, Any]:
    told: dict[str, Any] = {"location": {**_location(frame), "message": {"text": frame.text}}}
    if frame.module:
        told["module"] = frame.module
    return told


def _in_dump(report: Report, group: LeakGroup) -> dict[str, Any]:
    """Return the place of the example."""
    address: dict[str, Any] = {
        "name": hex(group.example), "kind": "data", "length": example_size(report, group)
    }  # fmt: skip
    if group.example < _MOST_EXACT:
        address["absoluteAddress"] = group.example
    artifact = _artifact(report)
    if not artifact:
        return {"address": address}
    return {"artifactLocation": {**artifact, "index": 0}, "address": address}


def _suppressed(report: Report, use: SuppressionUse) -> dict[str, Any]:
    pattern = use.pattern if use.what != "leak" else f"leak:{use.pattern}"
    parts = [f"{count_text(use.count, 'object')} ({size_text(use.nbytes)})"] if use.count else []
    parts += [f"{count_text(use.possible, 'possibly lost object')}"] if use.possible else []
    text = f"{' and '.join(parts)} suppressed by {pattern}"
    suppression: dict[str, Any] = {
        "kind": "external", "status": "accepted", "justification": printable(pattern)
    }  # fmt: skip
    if use.path and use.line and not use.builtin:
        suppression["location"] = {
            "physicalLocation": {
                "artifactLocation": {"uri": _uri(use.path)},
                "region": {"startLine": use.line},
            }
        }
    artifact = _artifact(report)
    result: dict[str, Any] = {
        "ruleId": KNOWN.id,
        "ruleIndex": RULES.index(KNOWN),
        "level": KNOWN.level,
        "message": {"text": _message(text)},
        "occurrenceCount": use.count + use.possible,
        "locations": [],
        "suppressions": [suppression],
        "partialFingerprints": {_FINGERPRINT: _hash(["suppression", use.what, use.pattern])},
        "properties": {
            "objects": use.count,
            "bytes": use.nbytes,
            "possibleObjects": use.possible,
        },
    }
    if artifact:
        result["locations"] = [{"physicalLocation": {"artifactLocation": {**artifact, "index": 0}}}]
    return result


def _state(report: Report, group: LeakGroup) -> str:
    """Return how a group stands to the baseline; empty without one."""
    compared = report.comparison
    if compared is None:
        return ""
    if bool(compared.known[group.rows].all()):
        return "unchanged"
    earlier = compared.earlier_of(group)
    return "new" if earlier is not None and not earlier.objects else "updated"


def _digest(group: LeakGroup, rule: str) -> str:
    """Return what a group is known by in other runs, as a baseline knows it, without addresses."""
    own = signature(group)
    frames = [_ADDRESS.sub("?", frame) for frame in own.frames]
    # What leaks in one run can be held by others in the next, but no more than that.
    apart = [rule] if rule == POSSIBLE.id else []
    return _hash([own.kind, *frames, str(own.size), own.shape, *apart])


def _hash(parts: list[str]) -> str:
    text = json.dumps(parts)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _artifact(report: Report) -> dict[str, Any]:
    return {"uri": _uri(report.source.path)} if report.source.path else {}


def _uri(path: str) -> str:
    """Return a path as a URI: absolute ones begin with ``file:``."""
    text = quote(path.encode("utf-8", "surrogateescape"))
    return f"file://{text}" if path.startswith("/") else text


def _message(text: str) -> str:
    """Return text as a message has it: braces are placeholders there, and brackets can be links."""
    return printable(text).replace("{", "{{").replace("}", "}}").replace("](", "] (")


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.title() for word in others)
