"""What has changed between two dumps, as values: of a name, a group, what holds new objects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .census import Amount

#: How a group has changed.
State = Literal["new", "grown", "same", "shrunk", "gone"]
STATES: tuple[State, ...] = ("new", "grown", "same", "shrunk", "gone")


@dataclass(frozen=True, slots=True)
class Change:
    """What something came to in either dump.

    Parameters
    ----------
    name
        Of the type, holder or module.
    before, after
        Objects and bytes.
    """

    name: str
    before: Amount
    after: Amount

    @property
    def growth(self) -> Amount:
        """After less before."""
        return self.after.minus(self.before)


#: Holds what is lost.
NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class GroupChange:
    """How a group of objects that look alike has changed.

    Parameters
    ----------
    kind
        What they are; empty where nothing tells.
    frames
        The backtrace of their allocation, innermost first, without offsets.
    size
        Bytes of each; None where they differ.
    shape
        Where pointers are among the first words; empty with a backtrace, ``"any"`` where they
        differ.
    state
        How it has changed.
    before, after
        Objects and bytes.
    came, went
        Objects that are only in the new dump, or only in the old one; of leaks, those that have
        become leaks and those that are none any more.
    example
        Address of a member of the new dump, if it has any a new one; else of the old one.
    held_by
        Who holds most of those that came (of those that are there, where none is known to have
        come; of those that went, where none is left), with how much of it; `NOBODY` has what
        leaks.
    """

    kind: str
    frames: tuple[str, ...]
    size: int | None
    shape: str
    state: State
    before: Amount
    after: Amount
    came: Amount
    went: Amount
    example: int
    held_by: tuple[tuple[str, Amount], ...] = ()

    @property
    def growth(self) -> Amount:
        """After less before."""
        return self.after.minus(self.before)


@dataclass(frozen=True, slots=True)
class Anchor:
    """Something that was there before, and that new objects hang on now.

    Parameters
    ----------
    name
        Who holds it.
    address, size, kind, shape
        The object, one of the old dump's that alone holds the new ones; None and empty where they
        hang on the holder itself, or on several objects.
    amount
        The new objects, and bytes in them.
    """

    name: str
    address: int | None
    size: int | None
    kind: str
    shape: str
    amount: Amount
