"""What one analysis came to, in columns small enough to be kept beside another: a Census."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..errors import UsageError
from .identity import Identity

#: Nothing stands above: the value of `Members.above` for what no object holds.
NO_OBJECT = np.uint32(0xFFFFFFFF)


class Amount(NamedTuple):
    """So many objects, and bytes in them."""

    objects: int = 0
    nbytes: int = 0

    def minus(self, other: Amount) -> Amount:
        """Return the difference."""
        return Amount(self.objects - other.objects, self.nbytes - other.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class Likeness:
    """What the objects of each group have in common, a row a group.

    Parameters
    ----------
    kinds, traces, shapes
        What the next columns are indices into: what objects are; backtraces, innermost first, of
        return addresses or of functions' names; where pointers are among the first words
        (``"obj·-·ptr"``).
    typed
        Whether kinds are types: then objects of one are alike, wherever their pointers are.
    functions
        Return address → name without an offset, ``"?"`` for none.
    kind, trace, shape
        ``(g,)`` ``int32``; −1 where nothing is known.
    size
        ``(g,)`` ``int64``: bytes of each object; −1 where they differ.
    """

    kinds: Sequence[str]
    traces: Sequence[tuple[int | str, ...]]
    functions: Mapping[int, str]
    typed: bool
    shapes: Sequence[str]
    kind: NDArray[np.int32]
    trace: NDArray[np.int32]
    shape: NDArray[np.int32]
    size: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class GroupColumns(Likeness):
    """Groups of objects that look alike, a row each.

    Parameters
    ----------
    count, nbytes
        ``(g,)`` ``int64`` and ``uint64``: all objects; zeros where only leaks are known.
    leaked_count, leaked_bytes
        The same of leaks.
    example, leaked_example
        ``(g,)`` ``uint64``: address of the member, and of the leak, that was allocated last; 0
        for none.
    """

    count: NDArray[np.int64]
    nbytes: NDArray[np.uint64]
    leaked_count: NDArray[np.int64]
    leaked_bytes: NDArray[np.uint64]
    example: NDArray[np.uint64]
    leaked_example: NDArray[np.uint64]

    @classmethod
    def counted(
        cls,
        alike: Likeness,
        address: NDArray[np.uint64],
        group: NDArray[np.int32],
        leaked: NDArray[np.bool_],
        order: NDArray[np.uint32] | None = None,
    ) -> GroupColumns:
        """Count the members of groups; columns as of `Members`."""
        n, size = alike.size.size, alike.size.astype(np.uint64)
        count = np.bincount(group, minlength=n)
        leaked_count = np.bincount(group[leaked], minlength=n)
        rows: NDArray[Any] = np.arange(address.size) if order is None else order
        example, leaked_example = np.zeros(n, np.uint64), np.zeros(n, np.uint64)
        # Of several that are written to one place the last one stays: the last allocated.
        example[group[rows]] = address[rows]
        rows = rows[leaked[rows]]
        leaked_example[group[rows]] = address[rows]
        return cls(
            **{part.name: getattr(alike, part.name) for part in fields(Likeness)},
            count=count,
            nbytes=size * count.astype(np.uint64),
            leaked_count=leaked_count,
            leaked_bytes=size * leaked_count.astype(np.uint64),
            example=example,
            leaked_example=leaked_example,
        )

    def __len__(self) -> int:
        return int(self.size.size)


@dataclass(frozen=True, slots=True, eq=False)
class Members:
    """All objects by address, a row each: 21 bytes, 33 with the last two.

    Parameters
    ----------
    address
        ``(n,)`` ``uint64``.
    group
        ``(n,)`` ``int32``: row of its `GroupColumns`, which tells its size.
    leaked
        ``(n,)`` ``bool``.
    holder
        ``(n,)`` ``int32``: index into the names of the `Holding`; −1 for what nobody holds.
    above
        ``(n,)`` ``uint32``: row of the object that alone holds it most closely; `NO_OBJECT`.
    order
        ``(n,)`` ``uint32``: rows in the order of allocation; None where that is not known.
    birth
        ``(n,)`` ``int64``: when it was allocated, in ticks; None where nothing tells.
    """

    address: NDArray[np.uint64]
    group: NDArray[np.int32]
    leaked: NDArray[np.bool_]
    holder: NDArray[np.int32]
    above: NDArray[np.uint32]
    order: NDArray[np.uint32] | None = None
    birth: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return int(self.address.size)


@dataclass(frozen=True, slots=True, eq=False)
class Holding:
    """How much hangs on each of some names.

    Parameters
    ----------
    names
        Of holders; each once.
    count, nbytes
        ``(h,)`` ``int64`` and ``uint64``.
    """

    names: Sequence[str]
    count: NDArray[np.int64]
    nbytes: NDArray[np.uint64]

    @classmethod
    def of(
        cls, names: Sequence[str], holder: NDArray[np.int32], size: NDArray[np.uint64]
    ) -> Holding:
        """Add up what each holder has: objects' holders, −1 for none, and their sizes."""
        held = holder >= 0
        nbytes = np.zeros(len(names), np.uint64)
        np.add.at(nbytes, holder[held], size[held])
        return cls(names, np.bincount(holder[held], minlength=len(names)), nbytes)

    def amounts(self) -> dict[str, Amount]:
        """Return the figures by name."""
        rows = zip(self.names, self.count.tolist(), self.nbytes.tolist(), strict=True)
        return {name: Amount(count, nbytes) for name, count, nbytes in rows}


@dataclass(frozen=True, slots=True, eq=False)
class Census:
    """What one analysis came to.

    Parameters
    ----------
    identity
        Whose memory it was.
    objects, leaked
        The totals.
    groups
        Who there is, by what they look like.
    members
        One by one; None where only groups of leaks are known.
    holders
        What each variable, mapping, stack, … holds at the top: what is reachable is counted
        exactly once. None likewise.
    modules
        What all roots of one file, of one stack, … alone hold; None likewise.
    coverage
        What was missing or not understood.
    notes
        What must be known of it before it is compared.
    """

    identity: Identity
    objects: Amount
    leaked: Amount
    groups: GroupColumns
    members: Members | None = None
    holders: Holding | None = None
    modules: Holding | None = None
    coverage: Coverage = field(default_factory=Coverage)
    notes: Coverage = field(default_factory=Coverage)

    @property
    def complete(self) -> bool:
        """Whether all objects are counted, not only leaks."""
        return self.members is not None

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> None:
        """Write a file that `diff` takes instead of the dump; it holds nothing of its memory.

        Parameters
        ----------
        path
            Of the file.
        force
            Replace a file that is there.

        Raises
        ------
        UsageError
            It is the census of a report, or the file is there already.
        """
        from .census_file import write_census

        try:
            with open(path, "wb" if force else "xb") as out:
                write_census(self, out)
        except FileExistsError:
            raise UsageError(f"{path} is there already", hint="replace it with force") from None

    def __repr__(self) -> str:
        return (
            f"<Census of {self.identity.path!r}: {self.objects.objects:,} objects,"
            f" {self.objects.nbytes:,} bytes in {len(self.groups):,} groups>"
        )
