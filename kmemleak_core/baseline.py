"""Turns the groups of a report into a small file, and such a file into what is known already.

A group is known again by its backtrace (names without offsets, which every build moves, and a mark
for frames without a name, whose addresses every run moves) and what its objects are; without a
backtrace by size and by which of the first words are pointers, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .frame_patterns import function_of, module_of
from .leaks import LeakGroup
from .shapes import WORDS

#: Version of the file's layout.
VERSION = 1

_SCHEMA = "kmemleak-baseline"
#: A frame that has no name.
NAMELESS = "?"
#: No file of groups, of which a report has a few thousand, is larger.
_MOST = 1 << 26
_FIGURES = ("objects", "bytes", "direct_objects", "direct_bytes")


class Signature(NamedTuple):
    """What a group is known by in another dump.

    Parameters
    ----------
    kind
        What its objects are; empty where nothing tells.
    frames
        The backtrace, as ``"function"``, ``"function [module]"`` or, without a name, ``"?"``.
    size
        Bytes of each object; −1 with a backtrace, or where they differ.
    shape
        ``obj`` and ``ptr`` where a word points; empty with a backtrace.
    """

    kind: str
    frames: tuple[str, ...]
    size: int
    shape: str


class Figures(NamedTuple):
    """Objects and bytes, all of them and the directly leaked ones."""

    objects: int = 0
    nbytes: int = 0
    direct_objects: int = 0
    direct_bytes: int = 0

    def plus(self, other: Figures) -> Figures:
        """Add up."""
        return Figures(*(a + b for a, b in zip(self, other, strict=True)))

    def beyond(self, other: Figures) -> Figures:
        """Return by how much these are more; 0 where they are less."""
        return Figures(*(max(0, a - b) for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True)
class Baseline:
    """The groups of an earlier report.

    Parameters
    ----------
    groups
        What each came to, by signature.
    path
        Its file.
    """

    groups: Mapping[Signature, Figures] = field(default_factory=dict)
    path: str = ""

    @classmethod
    def of(cls, groups: Iterable[LeakGroup]) -> Baseline:
        """Take down the groups of a report; those of one signature count as one."""
        found: dict[Signature, Figures] = {}
        for group in groups:
            key = signature(group)
            found[key] = found.get(key, Figures()).plus(figures(group))
        return cls(found)

    @classmethod
    def load(cls, path: Path) -> Baseline:
        """Read a file.

        Raises
        ------
        UsageError
            It cannot be read, or is no baseline.
        """
        try:
            with path.open(encoding="utf-8") as file:
                text = file.read(_MOST + 1)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text"
            raise UsageError(f"{path}: the baseline cannot be read: {reason}") from None
        try:
            if len(text) > _MOST:
                raise ValueError("it is too large")
            return cls(_groups(json.loads(text)), str(path))
        except (ValueError, RecursionError) as error:
            reason = error if isinstance(error, ValueError) else "it is nested too deeply"
            raise UsageError(
                f"{path}: this is no baseline: {reason}", hint="write it anew: --write-baseline"
            ) from None

    def write(self, out: TextIO) -> None:
        """Write the file, in an order that depends on nothing but the groups: fit to be diffed."""
        lines = [
            json.dumps(
                {
                    "kind": key.kind,
                    "frames": key.frames,
                    "size": None if key.size < 0 else key.size,
                    "shape": key.shape,
                    **dict(zip(_FIGURES, value, strict=True)),
                }
            )
            for key, value in sorted(self.groups.items())
        ]
        body = ",\n  ".join(lines)
        out.write(f'{{\n "schema": "{_SCHEMA}",\n "version": {VERSION},\n "groups": [')
        out.write(f"\n  {body}\n ]\n}}\n" if lines else "]\n}\n")


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """What of a report is in a baseline.

    Parameters
    ----------
    path
        The baseline's file.
    known
        Which leaks are in groups that the baseline has, and that have not grown: ``(n,)``.
    signature
        Index of each leak's signature in `earlier`, ``(n,)``.
    earlier
        What the baseline has of each signature of the report; zeros where it has nothing.
    growth
        By how much each is more now.
    gone
        Groups that only the baseline has.
    """

    path: str
    known: NDArray[np.bool_] = field(repr=False)
    signature: NDArray[np.int64] = field(repr=False)
    earlier: tuple[Figures, ...] = field(repr=False)
    growth: tuple[Figures, ...] = field(repr=False)
    gone: int = 0

    def take(self, rows: NDArray[Any]) -> Comparison:
        """Return the comparison of some rows."""
        return Comparison(
            self.path, self.known[rows], self.signature[rows], self.earlier, self.growth, self.gone
        )

    def earlier_of(self, group: LeakGroup) -> Figures | None:
        """Return what the baseline has of a group; None where it is not one of its groups."""
        own = np.unique(self.signature[group.rows])
        return self.earlier[int(own[0])] if own.size == 1 else None


def compare(baseline: Baseline, groups: Iterable[LeakGroup], leaks: int) -> Comparison:
    """Compare the groups of a report, which has so many leaks, with a baseline."""
    numbers: dict[Signature, int] = {}
    now: list[Figures] = []
    column = np.zeros(leaks, np.int64)
    for group in groups:
        number = numbers.setdefault(signature(group), len(now))
        if number == len(now):
            now.append(Figures())
        now[number] = now[number].plus(figures(group))
        column[group.rows] = number
    earlier = tuple(baseline.groups.get(key, Figures()) for key in numbers)
    growth = tuple(n.beyond(e) for n, e in zip(now, earlier, strict=True))
    same = np.array(
        [
            e.objects > 0 and not (g.objects or g.nbytes)
            for e, g in zip(earlier, growth, strict=True)
        ],
        np.bool_,
    )
    known = same[column] if same.size else np.zeros(leaks, np.bool_)
    gone = len(baseline.groups.keys() - numbers.keys())
    return Comparison(baseline.path, known, column, earlier, growth, gone)


def signature(group: LeakGroup) -> Signature:
    """Return what a group is known by."""
    return signature_of(group.origin.kind, group.origin.frames, group.size, group.shape)


def signature_of(kind: str, backtrace: Iterable[str], size: int | None, shape: str) -> Signature:
    """Return what a group is known by, of which no more is at hand; see `LeakGroup`."""
    frames = tuple(frame_name(frame) for frame in backtrace)
    if frames:
        return Signature(kind, frames, -1, "")
    return Signature(kind, (), -1 if size is None else size, _pointers(shape))


def figures(group: LeakGroup) -> Figures:
    """Return what a group comes to."""
    return Figures(group.count, group.nbytes, group.direct_count, group.direct_bytes)


def frame_name(frame: str) -> str:
    """Return what is left of a frame of a backtrace in every build and every run."""
    if frame.startswith("0x"):
        return NAMELESS
    module = module_of(frame)
    return f"{function_of(frame)} [{module}]" if module else function_of(frame)


def _pointers(shape: str) -> str:
    """Return a shape that tells pointers alone: what else a word holds changes from run to run."""
    if shape == "others":
        return shape
    words: list[str] = []
    for part in shape.removesuffix(" …").split("·"):
        name, _, times = part.partition("×")
        held = name if name in ("obj", "ptr") else "-"
        words += [held] * (min(int(times), WORDS) if times.isdigit() else 1)
    return "·".join(words).rstrip("·-")


def _groups(document: Any) -> dict[Signature, Figures]:
    if not isinstance(document, dict) or document.get("schema") != _SCHEMA:
        raise ValueError(f'it is no JSON object with "schema": "{_SCHEMA}"')
    if document.get("version") != VERSION:
        raise ValueError(f"its version is not {VERSION}")
    entries = document.get("groups")
    if not isinstance(entries, list):
        raise ValueError("it has no list of groups")
    found: dict[Signature, Figures] = {}
    for index, entry in enumerate(entries):
        try:
            key, value = _group(entry)
        except (TypeError, KeyError, ValueError):
            raise ValueError(f"its group {index} is damaged") from None
        found[key] = found.get(key, Figures()).plus(value)
    return found


def _group(entry: dict[str, Any]) -> tuple[Signature, Figures]:
    kind, frames, size, shape = (entry[name] for name in ("kind", "frames", "size", "shape"))
    texts = [kind, shape, *frames]
    numbers = [-1 if size is None else size, *(entry[name] for name in _FIGURES)]
    if not all(isinstance(text, str) for text in texts) or not isinstance(frames, list):
        raise TypeError
    if not all(type(number) is int and -1 <= number < 1 << 64 for number in numbers):
        raise TypeError
    if min(numbers[1:]) < 0:
        raise ValueError
    return Signature(kind, tuple(frames), numbers[0], shape), Figures(*numbers[1:])
