"""Turns a report into two profiles, bytes and objects, in speedscope's file format."""

from __future__ import annotations

import json
from typing import Any, TextIO

from .escape import printable
from .frames import Frame
from .model import RenderOptions, Report
from .stacks import stacks

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


class SpeedscopeRenderer:
    """Each stack is a sample, its weight what leaks there."""

    name = "speedscope"

    def render(self, report: Report, out: TextIO, options: RenderOptions) -> None:
        """Write the document; see `Renderer`."""
        found = stacks(report, options)
        numbers: dict[tuple[str, str, int], int] = {}
        frames: list[dict[str, Any]] = []

        def number(frame: Frame) -> int:
            key = frame.label, frame.file, frame.line
            if key not in numbers:
                numbers[key] = len(frames)
                frames.append(_frame(frame))
            return numbers[key]

        samples = [[number(frame) for frame in stack.frames] for stack in found]
        profiles = [
            _profile("leaked bytes", "bytes", samples, [stack.nbytes for stack in found]),
            _profile("leaked objects", "none", samples, [stack.objects for stack in found]),
        ]
        document = {
            "$schema": _SCHEMA,
            "exporter": f"kmemleak_core {report.version}",
            "name": printable(report.source.path) or "memory",
            "activeProfileIndex": 1 if options.weight == "objects" else 0,
            "shared": {"frames": frames},
            "profiles": profiles,
        }
        out.write(json.dumps(document) + "\n")


def _frame(frame: Frame) -> dict[str, Any]:
    told: dict[str, Any] = {"name": frame.label}
    if frame.file:
        told |= {"file": frame.file, "line": frame.line}
    return told


def _profile(name: str, unit: str, samples: list[list[int]], weights: list[int]) -> dict[str, Any]:
    return {
        "type": "sampled",
        "name": name,
        "unit": unit,
        "startValue": 0,
        "endValue": sum(weights),
        "samples": samples,
        "weights": weights,
    }
