"""Turns values into JSON that a page may hold, and as many of them as a number of bytes takes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from ..escape import printable

#: In a page these end a script or begin something else; inside of JSON's strings they may be
#: written as escapes, and outside of strings JSON has none of them.
_MARKUP = str.maketrans({"<": r"\u003c", ">": r"\u003e", "&": r"\u0026"})

#: Characters of a name from a dump that are shown.
_LONGEST = 300


def packed(value: Any) -> str:
    """Return a value as JSON of ASCII alone, so that characters are bytes, without markup."""
    return json.dumps(value, separators=(",", ":")).translate(_MARKUP)


def clipped(text: str, most: int = _LONGEST) -> str:
    """Return text that a person can read, and not more of it than one cares to."""
    text = printable(text[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"


class Words:
    """Texts that occur again and again, each kept once and known by its number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._new: list[str] = []

    def __getitem__(self, text: str) -> int:
        """Return the number of a text, the next one for a new text; −1 for an empty one."""
        if not text:
            return -1
        text = clipped(text)
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = len(self._numbers)
            self._new.append(text)
        return number

    def new(self) -> list[str]:
        """Return the texts that are new since this was asked last."""
        new, self._new = self._new, []
        return new


class Room:
    """Bytes that a page has left for its data."""

    def __init__(self, nbytes: int) -> None:
        self.left = max(0, nbytes)

    def fill(self, values: Iterable[Any], share: float = 1.0) -> tuple[str, int]:
        """Return a JSON list of the first values, and how many there was room for.

        Parameters
        ----------
        values
            The most important ones first; they are asked for one by one.
        share
            The part of what is left that they may take.
        """
        room = int(self.left * share) - 2
        taken = []
        for value in values:
            text = packed(value)
            room -= len(text) + 1
            if room < 0:
                break
            taken.append(text)
        made = f"[{','.join(taken)}]"
        self.left = max(0, self.left - len(made))
        return made, len(taken)
