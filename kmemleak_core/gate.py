"""Turns what is leaked into a verdict for a build: is it more than a gate lets through."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import UsageError
from .quantities import HIGHEST, parse_size

#: What can be counted: all leaks, or those that the report tells apart (``definite`` is another
#: word for direct), or what is only possibly lost and no leak.
WHAT = ("any", "direct", "definite", "indirect", "possible")


@dataclass(frozen=True, slots=True)
class Gate:
    """So much of something fails.

    Parameters
    ----------
    what
        One of `WHAT`, or what another verdict can be asked.
    least
        From so many objects, or bytes, on.
    nbytes
        Whether bytes are counted.
    """

    what: str
    least: int = 1
    nbytes: bool = False

    @classmethod
    def parse(cls, text: str, among: Sequence[str] = WHAT) -> Gate:
        """Read ``"direct"`` (one is enough), ``"any:100"`` (objects), ``"direct:1MB"`` (bytes).

        A number with a unit, be it B alone, is of bytes.

        Raises
        ------
        ValueError
            It is no gate.
        """
        what, colon, amount = text.strip().partition(":")
        if what not in among:
            raise ValueError(f"{text!r} is no gate: {', '.join(among)}, with :COUNT or :BYTES")
        if not colon:
            return cls(what)
        nbytes = re.fullmatch(r"[0-9]+", amount.strip()) is None
        # A bare B is a unit here, where it tells bytes from objects.
        least = parse_size(amount)
        if not 0 < least <= HIGHEST:
            raise ValueError(f"{text!r} is no gate: nothing at all would fail")
        return cls(what, least, nbytes)

    def __str__(self) -> str:
        return f"{self.what}:{self.least}{'B' if self.nbytes else ''}"


@dataclass(frozen=True, slots=True)
class Amounts:
    """Leaks that count: objects, and bytes in them.

    What is possibly lost is none of them; None where that is not told.
    """

    objects: int
    nbytes: int
    direct_objects: int
    direct_bytes: int
    possible_objects: int | None = None
    possible_bytes: int | None = None

    def of(self, gate: Gate) -> int:
        """Return what a gate looks at.

        Raises
        ------
        UsageError
            There is no such gate, or nothing tells of what it looks at.
        """
        total = self.nbytes if gate.nbytes else self.objects
        direct = self.direct_bytes if gate.nbytes else self.direct_objects
        if gate.what not in WHAT:
            raise UsageError(f"there is no gate {gate.what!r}", hint=f"one of: {', '.join(WHAT)}")
        if gate.what == "possible":
            possible = self.possible_bytes if gate.nbytes else self.possible_objects
            if possible is None:
                raise UsageError(
                    "this report does not tell what is possibly lost",
                    hint="a process's core or plain memory does, without --no-possible",
                )
            return possible
        amounts = {"any": total, "indirect": total - direct}
        return amounts.get(gate.what, direct)

    def fails(self, gate: Gate) -> bool:
        """Whether it is too much."""
        return self.of(gate) >= gate.least
