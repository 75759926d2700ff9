"""Turns the kinds of pointer that hold objects into words."""

from __future__ import annotations

import numpy as np

from ..leaks import END, INTERIOR, START, LeakGroup, LeakTable
from .units import count_text

_NAMES = {START: "start", INTERIOR: "interior", END: "end"}


def pointer_names(held: int) -> list[str]:
    """Return the kinds of pointer that bits of a leak table's ``held`` column stand for."""
    return [name for bit, name in _NAMES.items() if held & bit]


def reason(table: LeakTable, group: LeakGroup) -> str:
    """Say what holds the heads of a group of possibly lost objects."""
    rows = table.array[group.rows]
    held = rows["held"][rows["direct"]] & (INTERIOR | END)
    told = (
        (INTERIOR, "into the middle"),
        (END, "past the end"),
        (INTERIOR | END, "into the middle, and past the end"),
    )
    parts = [(int(np.count_nonzero(held == bits)), words) for bits, words in told]
    parts = [(count, words) for count, words in parts if count]
    if len(parts) == 1:
        return f"only pointers {parts[0][1]} hold {'it' if parts[0][0] == 1 else 'them'}"
    return "only pointers hold them: " + "; ".join(
        f"{words} of {count_text(count, 'object')}" for count, words in parts
    )
