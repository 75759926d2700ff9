"""Fills holes of a core from the files that were mapped there."""

from __future__ import annotations

from pathlib import Path

from ..coverage import Coverage
from ..image import Hole, Segment


def fill_holes(
    segments: list[Segment], holes: list[Hole], sysroot: Path | None, coverage: Coverage
) -> tuple[list[Segment], list[Hole]]:
    """Fill what can be filled."""
    return segments, holes
