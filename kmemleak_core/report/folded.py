"""Turns a report into folded stacks, one a line, as flame graph tools take them."""

from __future__ import annotations

from typing import TextIO

from .model import RenderOptions, Report
from .stacks import stacks


class FoldedRenderer:
    """``outermost;…;innermost N``: N bytes, or objects if those are the weight."""

    name = "folded"

    def render(self, report: Report, out: TextIO, options: RenderOptions) -> None:
        """Write one line a stack; see `Renderer`."""
        for stack in stacks(report, options):
            # A semicolon ends a frame.
            frames = ";".join(frame.label.replace(";", ":") for frame in stack.frames)
            weight = stack.objects if options.weight == "objects" else stack.nbytes
            out.write(f"{frames} {weight}\n")
