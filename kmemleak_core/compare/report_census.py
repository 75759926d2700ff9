"""Turns a report, or the JSON that it was written as, into a Census: of its leaks alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from ..baseline import Signature, signature, signature_of
from ..coverage import Coverage
from ..errors import UsageError
from ..report.json import SCHEMA_VERSION
from .census import Amount, Census, GroupColumns
from .identity import Identity

if TYPE_CHECKING:
    from ..report.model import Report

_SCHEMA = "kmemleak-report"
#: More characters than the groups of a report take; its single leaks are not read.
_MOST = 1 << 28
#: How a report, as it is written here, goes on after all that is read of it.
_LEAKS = ' "leaks": ['


def is_report(head: bytes) -> bool:
    """Whether a file that begins like this is meant to be JSON, rather than a dump."""
    return head.lstrip(b" \t\r\n\xef\xbb\xbf")[:1] == b"{"


def load_report(path: Path) -> Census:
    """Read a report that ``kmemleak scan --json`` wrote.

    Raises
    ------
    UsageError
        It cannot be read, or is no report, or one of a version that is not known.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = _head(file)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"{path}: the report cannot be read: {reason}") from None
    try:
        if len(text) > _MOST:
            raise ValueError("it is too large")
        document = json.loads(text)
    except RecursionError:
        raise _no_report(str(path), "it is nested too deeply") from None
    except ValueError as error:
        raise _no_report(str(path), f"its JSON does not parse: {error}") from None
    return census_of_document(document, str(path))


def census_of_document(document: Any, path: str = "") -> Census:
    """Return what a report's document (`Report.to_dict`) came to; errors as `load_report`."""
    if not isinstance(document, dict) or document.get("schema") != _SCHEMA:
        raise _no_report(path, f'it is no JSON object with "schema": "{_SCHEMA}"')
    version = document.get("version")
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise _no_report(path, f"its version is {version!r}, not {SCHEMA_VERSION}")
    try:
        return _census(document, path)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        raise _no_report(path, "its summary, source or groups are damaged") from None


def census_of_report(report: Report) -> Census:
    """Return what a report's leaks came to."""
    source, summary, notes = report.source, report.summary, Coverage()
    columns = leak_columns(
        ((signature(g), Amount(g.count, g.nbytes), g.example) for g in report.groups),
        typed=report.kernel is None,
    )
    _note_groups(notes, columns, report.grouped_by, bool(summary.suppressed_objects))
    return Census(
        identity=Identity(
            path=source.path,
            what="report",
            format=source.format,
            architecture=source.architecture,
            word_size=source.word_size,
            process=dict(source.process),
            program=f"Linux {report.kernel.release}" if report.kernel is not None else "",
            kernel=report.kernel is not None,
        ),
        objects=Amount(summary.objects, summary.object_bytes),
        leaked=Amount(summary.leaked_objects, summary.leaked_bytes),
        groups=columns,
        coverage=report.coverage,
        notes=notes,
    )


def leak_columns(
    groups: Iterable[tuple[Signature, Amount, int]], *, typed: bool = False
) -> GroupColumns:
    """Return groups of leaks alone: what each is known by, its amount, an example."""
    kinds: dict[str, int] = {}
    traces: dict[tuple[str, ...], int] = {}
    shapes: dict[str, int] = {}
    rows = [
        (
            kinds.setdefault(known.kind, len(kinds)) if known.kind else -1,
            traces.setdefault(known.frames, len(traces)) if known.frames else -1,
            shapes.setdefault(known.shape, len(shapes)),
            known.size,
            amount.objects,
            amount.nbytes,
            example,
        )
        for known, amount, example in groups
    ]
    columns = list(zip(*rows, strict=True)) if rows else [()] * 7
    zeros = np.zeros(len(rows), np.uint64)
    return GroupColumns(
        kinds=tuple(kinds),
        traces=tuple(traces),
        functions={},
        typed=typed,
        shapes=tuple(shapes),
        kind=np.array(columns[0], np.int32),
        trace=np.array(columns[1], np.int32),
        shape=np.array(columns[2], np.int32),
        size=np.array(columns[3], np.int64),
        count=zeros.astype(np.int64),
        nbytes=zeros,
        leaked_count=np.array(columns[4], np.int64),
        leaked_bytes=np.array(columns[5], np.uint64),
        example=zeros,
        leaked_example=np.array(columns[6], np.uint64),
    )


def _head(file: TextIO) -> str:
    """Read a report without its single leaks, of which there can be millions, one a line."""
    lines: list[str] = []
    room = _MOST
    while room >= 0 and (line := file.readline(room + 1)):
        if line.startswith(_LEAKS):
            lines.append(_LEAKS + "]}")
            break
        lines.append(line)
        room -= len(line)
    return "".join(lines)


def _census(document: Mapping[str, Any], path: str) -> Census:
    source, summary, kernel = document["source"], document["summary"], document.get("kernel")
    groups = document["groups"]
    notes = Coverage()
    if document.get("groups_left_out"):
        notes.add(
            "diff.limit",
            f"it shows {len(groups):,} groups, and leaves out {int(document['groups_left_out']):,}"
            " (--limit), which are not compared",
        )
    hidden = document.get("hidden") or {}
    if hidden.get("objects"):
        notes.add(
            "diff.filters",
            f"filters or a baseline hid {int(hidden['objects']):,} leaks, which are not compared",
        )
    by = document.get("grouped_by", "origin")
    # What an object of a process is, its type tells; a slab cache of a kernel is of many uses.
    columns = leak_columns((_group(group) for group in groups), typed=kernel is None)
    _note_groups(notes, columns, by, bool(_number(summary.get("suppressed_objects", 0))))
    process = {str(k): str(v) for k, v in dict(source.get("process") or {}).items()}
    release = "" if kernel is None else str(kernel.get("release", ""))
    return Census(
        identity=Identity(
            path=path or str(source.get("path", "")),
            what="report",
            format=str(source.get("format", "")),
            architecture=str(source.get("architecture", "")),
            word_size=_number(source.get("word_size", 0)),
            process=process,
            program=f"Linux {release}".strip() if kernel is not None else "",
            kernel=kernel is not None,
        ),
        objects=Amount(*(_number(summary[k]) for k in ("objects", "object_bytes"))),
        leaked=Amount(*(_number(summary[k]) for k in ("leaked_objects", "leaked_bytes"))),
        groups=columns,
        notes=notes,
    )


def _note_groups(notes: Coverage, columns: GroupColumns, by: str, suppressed: bool) -> None:
    if "others" in columns.shapes:
        notes.add("diff.folded", "its smallest groups are folded into one, and compared as one")
    if by != "origin":
        notes.add("diff.grouped", f"its leaks are grouped by {by}: others are not found again")
    if suppressed:
        notes.add("diff.suppressed", "leaks that were suppressed are not compared")


def _group(group: Mapping[str, Any]) -> tuple[Signature, Amount, int]:
    size, kind, frames = group["size"], group.get("kind") or "", group.get("backtrace") or []
    if not (isinstance(kind, str) and all(isinstance(f, str) for f in frames)):
        raise TypeError
    known = signature_of(kind, frames, None if size is None else _number(size), str(group["shape"]))
    address = int(str(group["example"]["address"]), 16)
    if not 0 <= address < 1 << 64:
        raise ValueError
    return known, Amount(_number(group["objects"]), _number(group["bytes"])), address


def _number(value: Any) -> int:
    """Return a number of objects or bytes as it is."""
    if type(value) is not int or not 0 <= value < 1 << 62:
        raise ValueError
    return value


def _no_report(path: str, reason: str) -> UsageError:
    return UsageError(
        f"{path or 'this'} is no report to compare: {reason}",
        hint="kmemleak scan --json -o FILE CORE writes one; dumps can be compared, too",
    )
