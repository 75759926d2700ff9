"""Turns a report's groups into the rows of the page's table, and their examples into contents."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any

from ...frame_patterns import Skipper
from ...leaks import LeakGroup, Loss
from ..model import RenderOptions, Report
from ..pointers import reason
from ..select import example_size, shown_shape
from .packing import Words

#: What a row tells, in this order; ``js/model.js`` reads them by these names. What is None at a
#: row's end is left out.
FIELDS = (
    "words",  # texts that no row before had, else 0: others are numbers of these, −1 for none
    "id",  # number of the group, as in JSON
    "objects",
    "bytes",
    "direct",  # objects that head a cluster
    "directBytes",
    "held",  # objects that only these lead to
    "heldBytes",
    "smallest",  # bytes of a member
    "largest",
    "shape",  # a word's number
    "kind",  # a word's number
    "trace",  # −1, the number of one that came before, or, new: which frame is the caller, frames
    "example",  # its address, hexadecimal
    "exampleSize",
    "holder",  # address of the head that leads to an indirect example, else 0
    "possible",  # of what is possibly lost, why that is: a word's number
    "comm",  # a word's number
    "pid",
    "birth",
    "earlier",  # objects that a baseline has
)

#: Frames of a backtrace, and bytes of an example, that are told.
_FRAMES = 64
_BYTES = 4096


def group_rows(
    report: Report, groups: Sequence[tuple[int, LeakGroup]], options: RenderOptions
) -> Iterator[list[Any]]:
    """Yield a row a group, laid out as `FIELDS` tells; words are numbered from 0 on."""
    words, skipper = Words(), Skipper()
    traces: dict[tuple[str, ...], int] = {}
    table = report.leaks.array
    for index, group in groups:
        origin = group.origin
        smallest = largest = group.size
        if smallest is None:
            sizes = table["size"][group.rows]
            smallest, largest = int(sizes.min()), int(sizes.max())
        trace: Any = traces.get(origin.frames, -1)
        if trace < 0 and origin.frames:
            traces[origin.frames] = len(traces)
            frames = origin.frames[:_FRAMES]
            trace = [_caller(frames, skipper), *(words[frame] for frame in frames)]
        holder: Any = 0
        if not group.direct_count:  # its example is its first member
            holder = f"{table['address'][table['head'][group.rows[0]]]:x}"
        earlier = None if report.comparison is None else report.comparison.earlier_of(group)
        lost = int(table["loss"][group.rows[0]])
        row: list[Any] = [
            0,
            index,
            group.count,
            group.nbytes,
            group.direct_count,
            group.direct_bytes,
            group.retained_count,
            group.retained_bytes,
            smallest,
            largest,
            words[shown_shape(group, options)],
            words[origin.kind],
            trace,
            f"{group.example:x}",
            example_size(report, group),
            holder,
            words[reason(report.leaks, group) if lost == Loss.POSSIBLE else ""],
            words[origin.comm],
            origin.pid,
            origin.birth,
            None if earlier is None else earlier.objects,
        ]
        row[0] = words.new() or 0
        while row[-1] is None:
            row.pop()
        yield row


def contents(
    report: Report, groups: Sequence[tuple[int, LeakGroup]], options: RenderOptions
) -> Iterator[str]:
    """Yield the first bytes of each group's example, in base 64; none if they are to be hidden."""
    if options.redact or options.hex_bytes <= 0:
        return
    for _, group in groups:
        size = min(example_size(report, group), options.hex_bytes, _BYTES)
        yield b64encode(report.content(group.example, size)).decode("ascii")


def _caller(frames: tuple[str, ...], skipper: Skipper) -> int:
    """Return which frame is the first that is not an allocator's; 0 if all are."""
    return next((at for at, frame in enumerate(frames) if not skipper.skips(frame)), 0)
