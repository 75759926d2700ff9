"""Turns two Censuses into pairs: whether they are of one process, which objects stayed, where
groups of one are in the other.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..baseline import NAMELESS
from ..errors import UsageError
from .census import Census, GroupColumns, Members
from .identity import Identity

#: How objects of two dumps are matched: ``"address"`` where both are of one process.
Match = Literal["auto", "address", "signature"]

#: The backtraces of either side, as names.
Traces = tuple[Sequence[tuple[str, ...]], Sequence[tuple[str, ...]]]

#: So few objects of one size and kind are never merged for looking different.
_FEW = 4
#: The shape of groups whose members do not look alike, and of those whose shape does not matter.
_VARIED, _ANY = -2, -3


@dataclass(frozen=True, slots=True, eq=False)
class Stayed:
    """Objects that are at the same place in both dumps, and of the same size.

    Parameters
    ----------
    old, new
        ``(p,)`` ``int64``, both rising: rows of the members that are one object.
    changed
        ``(p,)`` ``bool``: whether it holds pointers at other places now: it may be another one
        that was put where the first had been.
    """

    old: NDArray[np.int64]
    new: NDArray[np.int64]
    changed: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """The groups of both sides, each once.

    Parameters
    ----------
    kinds, traces, shapes
        As of `GroupColumns`, of both sides.
    kind, trace, shape
        ``(m,)`` ``int32``: indices into these; −1 where nothing is known.
    size
        ``(m,)`` ``int64``: bytes of each object; −1 where they differ.
    old, new
        The merged group of each group of either side.
    """

    kinds: Sequence[str]
    traces: Sequence[tuple[str, ...]]
    shapes: Sequence[str]
    kind: NDArray[np.int32]
    trace: NDArray[np.int32]
    shape: NDArray[np.int32]
    size: NDArray[np.int64]
    old: NDArray[np.int64]
    new: NDArray[np.int64]

    def __len__(self) -> int:
        return int(self.kind.size)

    def shape_of(self, row: int) -> str:
        """Return where the pointers of a group's objects are; ``"any"``: at various places."""
        shape = int(self.shape[row])
        return self.shapes[shape] if shape >= 0 else "any" if shape == _VARIED else ""

    def looks(self, row: int) -> tuple[str, tuple[str, ...], str]:
        """Return what a group's objects are, whatever its number."""
        kind, trace = int(self.kind[row]), int(self.trace[row])
        return (
            self.kinds[kind] if kind >= 0 else "",
            self.traces[trace] if trace >= 0 else (),
            self.shape_of(row),
        )


def decide(old: Census, new: Census, match: Match) -> tuple[bool, str]:
    """Return whether objects are matched by address, and why.

    Raises
    ------
    UsageError
        That was asked for and cannot be.
    """
    if match == "signature":
        return False, "as asked"
    if match == "address":
        for census in (old, new):
            if census.members is None:
                raise UsageError(
                    f"{census.identity.path}: a report of leaks does not tell where all objects"
                    " are: they cannot be matched by address",
                    hint="--match signature",
                )
        return True, "as asked"
    if match != "auto":
        raise UsageError(
            f"objects are not matched by {match!r}", hint="one of: auto, address, signature"
        )
    if old.members is None or new.members is None:
        return False, "a report of leaks does not tell where all objects are"
    return _one_process(old, new)


def other_program(old: Identity, new: Identity) -> str:
    """Return what tells that two dumps are of different programs; empty where they are of one."""
    if old.kernel != new.kernel:
        return "one is of a kernel, the other of a process"
    machines = [one.architecture for one in (old, new)]
    if machines[0] != machines[1] and not {"", "unknown"}.intersection(machines):
        return f"one is of {machines[0]}, the other of {machines[1]}"
    names = [
        (one.program if one.kernel else os.path.basename(one.program))
        or str(one.process.get("name", ""))
        for one in (old, new)
    ]
    if all(names) and names[0] != names[1]:
        return f"one is of {names[0]}, the other of {names[1]}"
    if old.build_id and new.build_id and old.build_id != new.build_id:
        return f"they are of two builds of {names[0] or 'the program'}"
    return ""


def _one_process(old: Census, new: Census) -> tuple[bool, str]:
    a, b = old.identity, new.identity
    different = other_program(a, b)
    if different:
        return False, different
    pids = [str(one.process.get("pid", "")) for one in (a, b)]
    if a.start and b.start:
        if a.kernel:
            same = "one boot: the kernel and what it chose by chance lie at the same addresses"
            return a.start == b.start, same if a.start == b.start else "two boots of one kernel"
        if a.start != b.start:
            return False, "the program was started anew in between"
        if pids[0] == pids[1]:
            return True, f"one process, started once{f': pid {pids[0]}' if pids[0] else ''}"
        return True, "one start of the program: a process and its fork"
    if a.kernel:
        agreed = _same_births(old, new)
        if a.layout == b.layout and agreed:
            return True, "one boot: objects at the same addresses were made at the same times"
        return False, "nothing tells whether it is one boot"
    if a.layout and a.layout == b.layout and pids[0] and pids[0] == pids[1]:
        return True, f"one process: pid {pids[0]}, everything mapped at the same addresses"
    return False, "nothing tells whether it is one process"


def _same_births(old: Census, new: Census) -> bool:
    """Whether most objects of the old one that still have a match were made when that was."""
    a, b = old.members, new.members
    if a is None or b is None or a.birth is None or b.birth is None:
        return False
    mine, theirs = _same_address(a, b)
    same = np.count_nonzero(a.birth[mine] == b.birth[theirs])
    return bool(mine.size and 2 * same > mine.size)


def stayed(old: Census, new: Census, traces: Traces) -> Stayed:
    """Find the objects that are at one place in both, of one size and, where known, one birth."""
    a, b = old.members, new.members
    assert a is not None
    assert b is not None
    sides = (old.groups, new.groups)
    mine, theirs = _same_address(a, b)
    of_mine, of_theirs = a.group[mine], b.group[theirs]
    same = old.groups.size[of_mine] == new.groups.size[of_theirs]
    if a.birth is not None and b.birth is not None:
        same &= a.birth[mine] == b.birth[theirs]
    for column, values in (("kind", (old.groups.kinds, new.groups.kinds)), ("trace", traces)):
        same &= _alike(*_common(sides, values, column), of_mine, of_theirs)
    mine, theirs = mine[same], theirs[same]
    # What a pointer points to may have been freed since.
    shapes = [[shape.replace("ptr", "obj") for shape in side.shapes] for side in sides]
    pointers = _common(sides, (shapes[0], shapes[1]), "shape")
    before, after = pointers[0][a.group[mine]], pointers[1][b.group[theirs]]
    return Stayed(mine, theirs, before != after)


def named_traces(old: GroupColumns, new: GroupColumns, *, one_start: bool) -> Traces:
    """Return the backtraces of both sides with names for addresses.

    Parameters
    ----------
    one_start
        Whether an address is the same function in both: what one of them has no name for, such as
        the code of a module that is no longer there, the other may have.
    """
    more: list[Mapping[int, str]] = [{}, {}]
    if one_start:
        more = [
            {at: name for at, name in side.functions.items() if name != NAMELESS}
            for side in (new, old)
        ]
    found = []
    for side, others in zip((old, new), more, strict=True):
        names = {**side.functions, **others}
        found.append(
            [
                tuple(at if isinstance(at, str) else names[at] for at in trace)
                for trace in side.traces
            ]
        )
    return found[0], found[1]


def merge_groups(old: GroupColumns, new: GroupColumns, traces: Traces) -> Merged:
    """Find which groups of both sides are one.

    As in a baseline, a backtrace makes a group with what the objects are; without one size and
    pointers do. Where nearly every object of a size and kind has its pointers at other places,
    these do not matter, nor do those of objects whose type is known.
    """
    names: dict[str, list[Any]] = {}
    columns = []
    for name, values in (
        ("kind", (old.kinds, new.kinds)),
        ("trace", traces),
        ("shape", (old.shapes, new.shapes)),
    ):
        columns.append(np.concatenate(_common((old, new), values, name)))
        names[name] = list(dict.fromkeys([*values[0], *values[1]]))
    kind, trace, shape = columns
    size = np.concatenate((old.size, new.size))
    count = np.concatenate([np.maximum(side.count, side.leaked_count) for side in (old, new)])
    traced = trace >= 0
    own_size = size
    typed = np.repeat([old.typed, new.typed], [len(old), len(new)]) & (kind >= 0)
    size, shape = np.where(traced, -1, size), np.where(traced | typed, _ANY, shape)
    shape = _merge_varied(kind, size, shape, count, ~traced & ~typed & (size >= 0))
    order = np.lexsort((shape, size, trace, kind))
    new_one = np.zeros(order.size, np.bool_)
    new_one[:1] = True
    for column in (kind, trace, size, shape):
        new_one[1:] |= column[order][1:] != column[order][:-1]
    number = np.empty(order.size, np.int64)
    number[order] = np.cumsum(new_one) - 1
    first, starts = order[new_one], np.flatnonzero(new_one)
    if order.size:
        # With a backtrace, too, objects may happen to be of one size.
        low = np.minimum.reduceat(own_size[order], starts)
        uniform = low == np.maximum.reduceat(own_size[order], starts)
        size_of = np.where(uniform, low, -1)
    else:
        size_of = size[first]
    return Merged(
        names["kind"],
        names["trace"],
        names["shape"],
        kind[first].astype(np.int32),
        trace[first].astype(np.int32),
        shape[first].astype(np.int32),
        size_of,
        number[: len(old)],
        number[len(old) :],
    )


def _merge_varied(
    kind: NDArray[np.int64],
    size: NDArray[np.int64],
    shape: NDArray[np.int64],
    count: NDArray[np.int64],
    chosen: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Give groups of one kind and size one shape where there are nearly as many as objects."""
    rows = np.flatnonzero(chosen)
    if not rows.size:
        return shape
    rows = rows[np.lexsort((shape[rows], size[rows], kind[rows]))]
    new = np.ones(rows.size, np.bool_)
    new[1:] = (kind[rows][1:] != kind[rows][:-1]) | (size[rows][1:] != size[rows][:-1])
    other = new.copy()
    other[1:] |= shape[rows][1:] != shape[rows][:-1]
    starts = np.flatnonzero(new)
    members = np.add.reduceat(count[rows], starts)
    shapes = np.add.reduceat(other.astype(np.int64), starts)
    varied = (members >= _FEW) & (2 * shapes > members)
    merged = shape.copy()
    lengths = np.diff(np.append(starts, rows.size))
    merged[rows[np.repeat(varied, lengths)]] = _VARIED
    return merged


def _same_address(a: Members, b: Members) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of either that start at the same addresses."""
    if not len(a) or not len(b):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    at = np.searchsorted(b.address, a.address)
    at[at == len(b)] = 0
    mine = np.flatnonzero(b.address[at] == a.address)
    return mine, at[mine]


def _alike(
    old: NDArray[np.int64],
    new: NDArray[np.int64],
    of_old: NDArray[np.int32],
    of_new: NDArray[np.int32],
) -> NDArray[np.bool_]:
    """Whether two objects are known to have nothing different: by the groups that they are in."""
    a, b = old[of_old], new[of_new]
    alike: NDArray[np.bool_] = (a == b) | (a < 0) | (b < 0)
    return alike


def _common(
    sides: tuple[GroupColumns, GroupColumns],
    values: tuple[Sequence[Hashable], Sequence[Hashable]],
    name: str,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return a column of either side, given what it is an index into, in common numbers."""
    known: dict[Hashable, int] = {}
    a, b = (
        _numbers(getattr(side, name), of_side, known)
        for side, of_side in zip(sides, values, strict=True)
    )
    return a, b


def _numbers(
    index: NDArray[np.int32], values: Sequence[Hashable], known: dict[Hashable, int]
) -> NDArray[np.int64]:
    numbers = [known.setdefault(value, len(known)) for value in values]
    # The last one stands for −1.
    numbered: NDArray[np.int64] = np.array([*numbers, -1], np.int64)[index]
    return numbered
