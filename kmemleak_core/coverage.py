"""Collects what an analysis could not see or did not understand, to be told in its report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

#: A detector that runs for years must not fill up with what went wrong.
MOST_NOTES = 10_000


@dataclass(frozen=True, slots=True)
class CoverageNote:
    """One thing that was missing, malformed or skipped.

    Parameters
    ----------
    code
        Stable, dotted, machine-readable name: ``"dump.truncated"``, ``"heap.resync"``.
    message
        One sentence for a person.
    count
        How many times it was met.
    nbytes
        How many bytes of memory it concerns.
    address
        Where (the first place), if that means anything.
    """

    code: str
    message: str
    count: int = 1
    nbytes: int = 0
    address: int | None = None


@dataclass(slots=True)
class Coverage:
    """The notes of one analysis, in the order in which they were made."""

    notes: list[CoverageNote] = field(default_factory=list)

    def add(
        self,
        code: str,
        message: str,
        *,
        count: int = 1,
        nbytes: int = 0,
        address: int | None = None,
    ) -> None:
        """Append one note; see `CoverageNote` for the parameters.

        After `MOST_NOTES` a note only adds to the counts of the last one with its code.
        """
        if len(self.notes) >= MOST_NOTES:
            for i in range(len(self.notes) - 1, -1, -1):
                note = self.notes[i]
                if note.code == code:
                    self.notes[i] = replace(
                        note, count=note.count + count, nbytes=note.nbytes + nbytes
                    )
                    return
        self.notes.append(CoverageNote(code, message, count, nbytes, address))

    def extend(self, notes: Iterable[CoverageNote]) -> None:
        """Append many notes."""
        self.notes.extend(notes)

    def __iter__(self) -> Iterator[CoverageNote]:
        return iter(self.notes)

    def __len__(self) -> int:
        return len(self.notes)
