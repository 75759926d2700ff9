"""Turns a report into stacks, outermost frame first, with the objects and bytes that leak there.

What profilers take. A leak without a backtrace stands under what it is. What is possibly lost is
not among them: one number a stack is all that there is room for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .escape import printable
from .frames import Frame, parse_frame
from .model import RenderOptions, Report
from .select import selected, shown_shape
from .units import count_text

#: Stands where a backtrace would begin.
NO_BACKTRACE = Frame("[no backtrace]")
#: Stands for the stacks beyond a limit.
MORE = Frame("[more stacks]")


class Stack(NamedTuple):
    """Leaks of one way to their allocation.

    Parameters
    ----------
    frames
        Outermost first; at least one.
    objects, nbytes
        How many leaks, and their bytes.
    """

    frames: tuple[Frame, ...]
    objects: int
    nbytes: int


def stacks(report: Report, options: RenderOptions) -> list[Stack]:
    """Return the stacks of the leaks that pass the filters, in the order of their labels.

    With a limit those of the most weight are kept, and the others are one.
    """
    mask = selected(report, options)
    rows = np.arange(len(report.leaks)) if mask is None else np.flatnonzero(mask)
    sizes = report.leaks["size"]
    found: dict[tuple[str, ...], Stack] = {}
    for frames, members in _parts(report, options, rows):
        key = tuple(frame.label for frame in frames)
        nbytes = int(sizes[members].sum(dtype=np.uint64))
        known = found.get(key)
        if known is not None:
            frames, nbytes = known.frames, nbytes + known.nbytes
        count = members.size + (0 if known is None else known.objects)
        found[key] = Stack(frames, count, nbytes)
    ordered = [found[key] for key in sorted(found)]
    limit = options.limit or 0
    if not limit or len(ordered) <= limit:
        return ordered
    by_objects = options.weight == "objects"
    largest = sorted(ordered, key=lambda s: -s.objects if by_objects else -s.nbytes)
    kept = {id(stack) for stack in largest[:limit]}
    rest = largest[limit:]
    more = Stack((MORE,), sum(s.objects for s in rest), sum(s.nbytes for s in rest))
    return [*(stack for stack in ordered if id(stack) in kept), more]


def _parts(
    report: Report, options: RenderOptions, rows: NDArray[np.int64]
) -> Iterator[tuple[tuple[Frame, ...], NDArray[np.int64]]]:
    """Yield stacks and the rows of their leaks; a stack can come more than once."""
    told = report.provenance
    for column, name in (
        (None if told is None else told.trace, "trace"),
        (None if told is None else told.kind, "kind"),
        (report.leaks["group"], "group"),
    ):
        if column is None:
            continue
        numbers = column[rows]
        known = np.flatnonzero(numbers >= 0)
        for number, members in _by_number(numbers[known], rows[known]):
            first = int(members[0])
            if name == "trace" and told is not None:
                frames = tuple(map(parse_frame, reversed(told.frames_of(first))))
                yield frames or (NO_BACKTRACE,), members
            elif name == "kind" and told is not None:
                yield (NO_BACKTRACE, Frame(printable(told.kind_of(first)))), members
            else:
                group = report.groups[number]
                shape = f"[{shown_shape(group, options)}]"
                size = f"{count_text(group.size, 'byte')} " if group.size is not None else ""
                yield (NO_BACKTRACE, Frame(size + shape)), members
        rows = rows[numbers < 0]
    if rows.size:
        yield (NO_BACKTRACE,), rows


def _by_number(
    numbers: NDArray[Any], rows: NDArray[np.int64]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    order = np.argsort(numbers, kind="stable")
    begins = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    for part in np.split(order, begins[1:]) if numbers.size else []:
        yield int(numbers[part[0]]), rows[part]
