"""Turns ranges and register values into Roots: what is scanned unconditionally, with names."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from intervaltree import IntervalTree
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class RootRange:
    """Memory that is scanned unconditionally.

    Parameters
    ----------
    address, size
        The range, in bytes.
    kind
        Its class, as a switch names it: ``"data"``, ``"stacks"``, ``"anonymous"``, ….
    name
        What a person would call it: ``".data of libfoo.so"``, ``"stack of thread 7"``.
    """

    address: int
    size: int
    kind: str = "memory"
    name: str = ""

    @property
    def end(self) -> int:
        """Address of the first byte after the range."""
        return self.address + self.size


@dataclass(frozen=True, slots=True)
class RootWord:
    """A value that is a root by itself: a register, part of a vector register.

    Parameters
    ----------
    value
        The word.
    kind
        Its class: ``"registers"``.
    name
        ``"r12 of thread 7"``.
    """

    value: int
    kind: str = "registers"
    name: str = ""


class Roots:
    """Root ranges and root words, in the order in which they are scanned (words first).

    Attributes
    ----------
    ranges : tuple of RootRange
        Empty ranges are dropped.
    words : tuple of RootWord
        Values that are roots by themselves.
    """

    __slots__ = ("ranges", "words")

    def __init__(self, ranges: Iterable[RootRange] = (), words: Iterable[RootWord] = ()) -> None:
        self.ranges = tuple(r for r in ranges if r.size > 0)
        self.words = tuple(words)
        for r in self.ranges:
            if r.address < 0 or r.end > 1 << 64:
                raise ValueError(f"root range {r.address:#x} (size {r.size}) is no address range")
        for w in self.words:
            if not 0 <= w.value < 1 << 64:
                raise ValueError(f"root word {w.value:#x} is no 64-bit value")

    @classmethod
    def from_ranges(
        cls,
        ranges: Iterable[RootRange | tuple[Any, ...]] = (),
        words: Iterable[RootWord | tuple[Any, ...] | int] = (),
    ) -> Roots:
        """Build roots from plain tuples.

        Parameters
        ----------
        ranges
            ``(address, size)``, optionally followed by kind and name.
        words
            Integers, or ``(value, kind, name)`` with the last two optional.
        """
        return cls(
            (r if isinstance(r, RootRange) else RootRange(int(r[0]), int(r[1]), *r[2:]))
            for r in ranges
        )._with_words(words)

    def _with_words(self, words: Iterable[RootWord | tuple[Any, ...] | int]) -> Roots:
        made = []
        for word in words:
            if isinstance(word, RootWord):
                made.append(word)
            elif isinstance(word, tuple):
                made.append(RootWord(int(word[0]), *word[1:]))
            else:
                made.append(RootWord(int(word)))
        return Roots(self.ranges, made)

    @property
    def kinds(self) -> frozenset[str]:
        """The classes that occur."""
        return frozenset(r.kind for r in self.ranges) | frozenset(w.kind for w in self.words)

    def without(self, kinds: Collection[str]) -> Roots:
        """Return roots with whole classes left out."""
        return Roots(
            (r for r in self.ranges if r.kind not in kinds),
            (w for w in self.words if w.kind not in kinds),
        )

    def subtract(self, excluded: IntervalTree) -> Roots:
        """Return roots without the parts that an interval tree covers.

        Parameters
        ----------
        excluded
            Ranges ``[begin, end)``; they may overlap, their data is ignored.
        """
        pieces: list[RootRange] = []
        for r in self.ranges:
            at = r.address
            for hole in sorted(excluded.overlap(r.address, r.end)):
                if hole.begin > at:
                    pieces.append(RootRange(at, hole.begin - at, r.kind, r.name))
                at = max(at, hole.end)
            if at < r.end:
                pieces.append(RootRange(at, r.end - at, r.kind, r.name))
        return Roots(pieces, self.words)

    def find(self, address: int) -> RootRange | None:
        """Return the first root range that holds an address, or None."""
        return next((r for r in self.ranges if r.address <= address < r.end), None)

    def range_arrays(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Return the ranges' addresses and sizes, each ``(n,)`` ``uint64``."""
        return (
            np.array([r.address for r in self.ranges], dtype=np.uint64),
            np.array([r.size for r in self.ranges], dtype=np.uint64),
        )

    def word_array(self) -> NDArray[np.uint64]:
        """Return the root words' values, ``(n,)`` ``uint64``."""
        return np.array([w.value for w in self.words], dtype=np.uint64)

    @property
    def nbytes(self) -> int:
        """Bytes in all ranges together."""
        return sum(r.size for r in self.ranges)

    def __repr__(self) -> str:
        return f"<Roots {len(self.ranges)} ranges, {self.nbytes:,} bytes, {len(self.words)} words>"
