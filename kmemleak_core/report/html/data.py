"""Turns a report into the data that the page's scripts show, as much as a number of bytes takes."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...leaks import LeakGroup
from ..escape import printable
from ..model import RenderOptions, Report
from ..select import chosen_groups
from ..units import count_text
from .links import clusters, group_links
from .packing import Room, packed
from .rows import FIELDS, contents, group_rows

#: The parts of what is left that each kind of data may take, one after the other: the rows come
#: first, but even of too many groups the largest ones have contents and a picture.
_ROWS, _CONTENTS, _LINKS = 0.8, 0.6, 0.3
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
    groups = chosen_groups(report, options)
    wanted = groups[: options.limit or None]
    room = Room(nbytes - 2000)  # for the members of fixed size below
    rows, shown = room.fill(group_rows(report, wanted, options), _ROWS)
    examples, with_content = room.fill(contents(report, wanted[:shown], options), _CONTENTS)
    positions = np.full(len(report.groups), -1, np.int64)
    positions[[index for index, _ in wanted[:shown]]] = np.arange(shown)
    links = group_links(report, positions)
    told, linked = room.fill(links[:_MOST_LINKS].tolist(), _LINKS)
    pictures, _ = room.fill(clusters(report, wanted[:shown], positions))
    members = {
        "fields": packed(FIELDS),
        "groups": rows,
        "others": packed(_others([group for _, group in groups[shown:]])),
        "contents": examples,
        "links": told,
        "clusters": pictures,
        "sort": packed(options.sort or "bytes"),
        "redacted": packed(options.redact),
        "core": packed(_core(report)),
        "clock": packed("jiffies" if report.kernel is not None else "at"),
    }
    left_out = []
    if shown < len(wanted):
        left_out.append(count_text(len(wanted) - shown, "small group"))
    if with_content < shown and not options.redact and options.hex_bytes > 0:
        left_out.append(f"the contents of {count_text(shown - with_content, 'group')}")
    if linked < len(links):
        left_out.append(f"references between {count_text(len(links) - linked, 'pair')} of groups")
    text = ",".join(f'"{name}":{value}' for name, value in members.items())
    return PageData(f"{{{text}}}", tuple(left_out))


def _others(groups: Sequence[LeakGroup]) -> dict[str, int] | None:
    """Return what the groups without a row come to."""
    if not groups:
        return None
    return {
        "groups": len(groups),
        "objects": sum(group.count for group in groups),
        "bytes": sum(group.nbytes for group in groups),
        "direct": sum(group.direct_count for group in groups),
        "directBytes": sum(group.direct_bytes for group in groups),
        "heldBytes": sum(group.retained_bytes for group in groups),
    }


def _core(report: Report) -> str:
    """Return the dump as a command line names it; "" if no other command reads it."""
    path = printable(report.source.path)
    if not path or report.source.format == "raw" or len(path) > 1000:
        return ""
    return shlex.quote(path)
