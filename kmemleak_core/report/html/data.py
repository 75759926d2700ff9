"""Turns a report into the data that the page's scripts show, as much as a number of bytes takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...leaks import LeakGroup
from ..facts import core_argument
from ..model import RenderOptions, Report
from ..select import chosen_groups
from ..units import count_text
from .links import clusters, group_links
from .packing import Room, packed
from .rows import FIELDS, contents, group_rows

#: The parts of what is left that each kind of data may take, one after the other: the rows come
#: first, but even of too many groups the largest ones have contents and a picture.
_ROWS, _CONTENTS, _LINKS = 0.75, 0.5, 0.3
#: More than that many pairs of groups no page has room for.
_MOST_LINKS = 100_000


@dataclass(frozen=True, slots=True)
class PageData:
    """What the page holds for its scripts.

    Parameters
    ----------
    text
        A JSON object, of ASCII and without markup.
    left_out
        What there was no room for, a phrase each.
    """

    text: str
    left_out: tuple[str, ...]


def page_data(report: Report, options: RenderOptions, nbytes: int) -> PageData:
    """Return a report's groups, what their examples hold, and how they refer to each other.

    What is worth least is left out where bytes lack: pictures of clusters, the contents of
    small groups, then small groups themselves.

    Parameters
    ----------
    report
        What was found.
    options
        What of it is shown; a limit counts groups.
    nbytes
        Most bytes of the text.
    """
    room = Room(nbytes - 2000)  # for the members of fixed size below
    parts = [_Part(report, options)]
    if len(report.possible):
        parts.append(_Part(report.of_possible(), options, " of what is possibly lost"))
    shown = 0
    for part in parts:
        part.add_rows(room, shown)
        shown += part.shown
    for part in parts:
        part.add_contents(room)
    for part in parts:
        part.add_links(room)
    for part in parts:
        part.add_clusters(room)
    text = packed(
        {
            "fields": FIELDS,
            "sort": options.sort or "bytes",
            "redacted": options.redact,
            "core": core_argument(report),
            "clock": "jiffies" if report.kernel is not None else "at",
        }
    )
    told = ",".join(part.text() for part in parts)
    return PageData(
        f'{text[:-1]},"parts":[{told}]}}', tuple(what for part in parts for what in part.left_out)
    )


class _Part:
    """The leaks, or what is possibly lost, as the page tells of them."""

    def __init__(self, report: Report, options: RenderOptions, what: str = "") -> None:
        self.report = report
        self._options = options
        self._what = what  # ends what is told of it
        self.groups = chosen_groups(report, options)
        self.wanted = self.groups[: options.limit or None]
        self.shown = 0
        self.left_out: list[str] = []
        self._members: dict[str, str] = {}

    def add_rows(self, room: Room, first: int) -> None:
        """Add the groups that there is room for; their rows are counted from a number on."""
        rows = group_rows(self.report, self.wanted, self._options)
        self._members["groups"], self.shown = room.fill(rows, _ROWS)
        others = [group for _, group in self.groups[self.shown :]]
        self._members["others"] = packed(_others(others))
        if self.shown < len(self.wanted):
            rest = count_text(len(self.wanted) - self.shown, "small group")
            self.left_out.append(rest + self._what)
        self.wanted = self.wanted[: self.shown]
        self.positions = np.full(len(self.report.groups), -1, np.int64)
        self.positions[[index for index, _ in self.wanted]] = first + np.arange(self.shown)

    def add_contents(self, room: Room) -> None:
        """Add what the examples hold."""
        options = self._options
        examples = contents(self.report, self.wanted, options)
        self._members["contents"], told = room.fill(examples, _CONTENTS)
        if told < self.shown and not options.redact and options.hex_bytes > 0:
            rest = count_text(self.shown - told, "group")
            self.left_out.append(f"the contents of {rest}{self._what}")

    def add_links(self, room: Room) -> None:
        """Add references between groups."""
        links = group_links(self.report, self.positions)
        self._members["links"], told = room.fill(links[:_MOST_LINKS].tolist(), _LINKS)
        if told < len(links):
            rest = count_text(len(links) - told, "pair")
            self.left_out.append(f"references between {rest} of groups{self._what}")

    def add_clusters(self, room: Room) -> None:
        """Add pictures of clusters."""
        found = clusters(self.report, self.wanted, self.positions)
        self._members["clusters"], _ = room.fill(found)

    def text(self) -> str:
        """Return what was added, as JSON."""
        return "{" + ",".join(f'"{name}":{value}' for name, value in self._members.items()) + "}"


def _others(groups: Sequence[LeakGroup]) -> dict[str, int] | None:
    """Return what the groups without a row come to."""
    if not groups:
        return None
    return {
        "groups": len(groups),
        "objects": sum(group.count for group in groups),
        "bytes": sum(group.nbytes for group in groups),
        "freed": sum(group.direct_bytes + group.retained_bytes for group in groups),
    }
