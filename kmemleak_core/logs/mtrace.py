"""Turns the log of glibc's mtrace() into an EventLog.

A line is ``@ CALLER + ADDRESS SIZE`` for an allocation, ``-`` for a free; a realloc is two lines,
``<`` with the old address and ``>`` with the new one; ``!`` is a realloc that failed. The caller
may be missing. See mtrace(3) and malloc/mtrace-impl.c of glibc.
"""

from __future__ import annotations

import re
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..dumps.source import Source
from ..dumps.tables import lines_of
from ..event_log import EventKind, EventLog
from .events import finish, numbered

_LINE = re.compile(
    r"(?:@ (.{0,4096}) )?([-+<>!]) (0x[0-9a-f]{1,16}|\(nil\))(?: (0x[0-9a-f]{1,16}|0))?\s*"
)
_START = re.compile(rb"= Start\r?\n|(?:@ [^\n]{1,4096} )?[-+<>!] (?:0x[0-9a-f]+|\(nil\))[ \r\n]")
_KINDS = {
    "+": EventKind.ALLOC, ">": EventKind.ALLOC, "-": EventKind.FREE, "<": EventKind.FREE
}  # fmt: skip


class MtraceFormat:
    """The text that a program writes between mtrace() and muntrace()."""

    name = "mtrace"

    def matches(self, head: bytes) -> bool:
        """Whether it begins as such a log does."""
        return _START.match(head) is not None

    def read(self, source: Source) -> EventLog:
        """Read the lines; those that are none of a log are counted."""
        kinds, addresses, sizes = array("B"), array("Q"), array("Q")
        callers: list[str] = []
        malformed = first_line = 0
        for number, line in enumerate(lines_of(source), 1):
            match = _LINE.fullmatch(line)
            if match is None or (match[2] in "+>" and match[4] is None):
                if line.strip() and not line.startswith("= "):
                    malformed += 1
                    first_line = first_line or number
                continue
            kind = _KINDS.get(match[2])
            if kind is None:
                continue  # a realloc that failed changes nothing
            kinds.append(kind)
            addresses.append(0 if match[3] == "(nil)" else int(match[3], 16))
            sizes.append(int(match[4], 16) if match[4] and kind == EventKind.ALLOC else 0)
            callers.append(match[1] or "")
        names: list[str] = []
        trace = numbered(callers, names)
        columns: dict[str, NDArray[Any]] = {
            "kind": np.array(kinds, dtype=np.uint8),
            "address": np.array(addresses, dtype=np.uint64),
            "size": np.array(sizes, dtype=np.uint64),
            "trace": trace,
        }
        return finish(source, self.name, columns, names, malformed, first_line)
