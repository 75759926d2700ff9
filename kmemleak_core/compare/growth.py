"""Turns two matched Censuses into columns: what each group came to, and who holds what came."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._dominators import nearest
from .census import NO_OBJECT, Amount, Census
from .change import STATES
from .keys import numbered
from .matching import Merged, Stayed


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Objects and bytes of each of several things: ``(m,)`` ``int64`` and ``uint64``."""

    count: NDArray[np.int64]
    nbytes: NDArray[np.uint64]

    @property
    def total(self) -> Amount:
        """Of all groups."""
        return Amount(int(self.count.sum()), int(self.nbytes.sum(dtype=np.uint64)))

    def at(self, row: int) -> Amount:
        """Of one group."""
        return Amount(int(self.count[row]), int(self.nbytes[row]))

    def beyond(self, other: Sums) -> Sums:
        """Return by how much these are more; 0 where they are less."""
        count = np.maximum(self.count - other.count, 0)
        return Sums(count, self.nbytes - np.minimum(self.nbytes, other.nbytes))

    def added(self, to: NDArray[np.int64], n: int) -> Sums:
        """Add up rows that go to one place, of n places."""
        found = Sums(np.zeros(n, np.int64), np.zeros(n, np.uint64))
        np.add.at(found.count, to, self.count)
        np.add.at(found.nbytes, to, self.nbytes)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """What the merged groups came to.

    Parameters
    ----------
    before, after
        Of either side.
    came, went
        What is on one side only: members, where these are matched, else the differences.
    example
        ``(m,)`` ``uint64``: address of a member that came, else of one that is there, else of one
        that went.
    """

    before: Sums
    after: Sums
    came: Sums
    went: Sums
    example: NDArray[np.uint64]

    @property
    def there(self) -> NDArray[np.bool_]:
        """Which groups have any member, on either side."""
        there: NDArray[np.bool_] = (self.before.count > 0) | (self.after.count > 0)
        return there

    @property
    def states(self) -> NDArray[np.int64]:
        """The index in `STATES` of each group's."""
        count_a, bytes_a = self.before.count, self.before.nbytes
        count_b, bytes_b = self.after.count, self.after.nbytes
        grown = (bytes_b > bytes_a) | ((bytes_b == bytes_a) & (count_b > count_a))
        shrunk = (bytes_b < bytes_a) | ((bytes_b == bytes_a) & (count_b < count_a))
        state = np.full(count_a.size, STATES.index("same"), np.int64)
        state[grown], state[shrunk] = STATES.index("grown"), STATES.index("shrunk")
        state[count_a == 0] = STATES.index("new")
        state[(count_b == 0) & (count_a > 0)] = STATES.index("gone")
        return state

    def growth(self, *, moved: bool = False) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return by how many objects, and bytes, each group has grown.

        Parameters
        ----------
        moved
            Whether what came counts (or, where nothing did, what went), though as much went.
        """
        if not moved:
            more = self.after.count - self.before.count
            return more, self.after.nbytes.astype(np.int64) - self.before.nbytes.astype(np.int64)
        some = (self.came.count > 0) | (self.came.nbytes > 0)
        return (
            np.where(some, self.came.count, -self.went.count),
            np.where(some, self.came.nbytes.astype(np.int64), -self.went.nbytes.astype(np.int64)),
        )

    def chosen(
        self,
        sort: str,
        min_size: int,
        size: NDArray[np.int64],
        *,
        moved: bool = False,
        grown: bool | None = None,
    ) -> NDArray[np.int64]:
        """Return the groups that have changed, those that have grown most first.

        Parameters
        ----------
        sort
            ``"bytes"``, ``"count"`` or, by the size of their objects, ``"size"``.
        min_size
            Leave out groups of smaller objects.
        size
            Of each group's objects; only for an order that depends on nothing else.
        moved
            As of `growth`.
        grown
            Only those that have grown; or only those that shrank, which come the other way round.
        """
        more, nbytes = self.growth(moved=moved)
        total = np.maximum(self.before.count + self.after.count, 1).astype(np.uint64)
        mean = ((self.before.nbytes + self.after.nbytes) // total).astype(np.int64)
        up = (nbytes > 0) | ((nbytes == 0) & (more > 0))
        chosen = (more != 0) | (nbytes != 0)
        if grown is not None:
            chosen &= up == grown
        rows = np.flatnonzero(chosen & (mean >= min_size))
        sign = 1 if grown is False else -1
        first = {"bytes": sign * nbytes, "count": sign * more, "size": -mean}[sort]
        keys = (self.example, size, sign * more, sign * nbytes, first)
        return rows[np.lexsort(tuple(key[rows] for key in keys))]


@dataclass(frozen=True, slots=True, eq=False)
class Moved:
    """Members that are on one side only: rows, in the order of allocation."""

    went: NDArray[np.int64]
    came: NDArray[np.int64]


def moved(old: Census, new: Census, same: Stayed, *, leaks: bool) -> Moved:
    """Find the objects, or the leaks, that are on one side only."""
    sides = ((old.members, same.old), (new.members, same.new))
    found = []
    for (members, paired), (others, other_pairs) in (sides, sides[::-1]):
        assert members is not None
        assert others is not None
        alone = members.leaked.copy() if leaks else np.ones(len(members), np.bool_)
        # A leak that was reachable has become one.
        alone[paired] &= ~others.leaked[other_pairs] if leaks else False
        order = members.order
        rows = np.flatnonzero(alone) if order is None else order[alone[order]]
        found.append(rows.astype(np.int64, copy=False))
    return Moved(*found)


def place(
    old: Census, new: Census, merged: Merged, same: Stayed | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return the merged group of each member of either side; None where only groups are known.

    An object that stayed is in one group, though it holds pointers at other places now: in the one
    that tells more, for which it does not matter which side is the old one.
    """
    a, b = old.members, new.members
    if a is None or b is None:
        return None
    before, after = merged.old[a.group], merged.new[b.group]
    if same is not None:
        pairs = np.flatnonzero(before[same.old] != after[same.new])
        rows, others = same.old[pairs], same.new[pairs]
        both = np.stack((before[rows], after[others]))
        rank = np.zeros(len(merged), np.int64)
        involved = sorted(np.unique(both).tolist(), key=merged.looks)
        rank[involved] = np.arange(len(involved))
        chosen = np.where(rank[both[0]] > rank[both[1]], both[0], both[1])
        before[rows] = after[others] = chosen
    return before, after


def count_up(
    old: Census,
    new: Census,
    merged: Merged,
    placed: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
    gone: Moved | None,
    *,
    leaks: bool,
) -> Columns:
    """Add up what each merged group came to.

    Parameters
    ----------
    old, new, merged
        The sides, and where their groups are among the merged ones.
    placed
        From `place`.
    gone
        What is on one side only; None where objects are not matched.
    leaks
        Only leaks are counted.
    """
    n = len(merged)
    if gone is None or placed is None:
        (before, a), (after, b) = (
            _groups(census, to, n, leaks=leaks)
            for census, to in ((old, merged.old), (new, merged.new))
        )
        went, came = before.beyond(after), after.beyond(before)
    else:
        (before, went, a), (after, came, b) = (
            _members(census, group, n, rows, leaks=leaks)
            for census, group, rows in ((old, placed[0], gone.went), (new, placed[1], gone.came))
        )
    return Columns(before, after, came, went, np.where(after.count > 0, b, a))


def _groups(
    census: Census, to: NDArray[np.int64], n: int, *, leaks: bool
) -> tuple[Sums, NDArray[np.uint64]]:
    """Return what a side's groups come to, and an example of each."""
    g = census.groups
    side = Sums(g.leaked_count, g.leaked_bytes) if leaks else Sums(g.count, g.nbytes)
    example = np.zeros(n, np.uint64)
    of_group = g.leaked_example if leaks else g.example
    there = of_group > 0
    example[to[there]] = of_group[there]
    return side.added(to, n), example


def _members(
    census: Census, group: NDArray[np.int64], n: int, moved: NDArray[np.int64], *, leaks: bool
) -> tuple[Sums, Sums, NDArray[np.uint64]]:
    """Return what a side's members come to by group, those that moved, and an example of each."""
    members = census.members
    assert members is not None
    rows = members.order
    rows = np.arange(len(members), dtype=np.uint32) if rows is None else rows
    rows = rows[members.leaked[rows]] if leaks else rows
    sums = []
    example = np.zeros(n, np.uint64)
    for some in (rows, moved):
        sizes = census.groups.size[members.group[some]].astype(np.uint64)
        each = Sums(np.ones(some.size, np.int64), sizes)
        sums.append(each.added(group[some], n))
        # Of several the one that is written last stays: the last allocated.
        example[group[some]] = members.address[some]
    return sums[0], sums[1], example


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """How much of each group each holder has.

    Parameters
    ----------
    key
        ``(c,)`` ``int64``, rising: group × holders + holder. The last holder is nobody.
    figures
        ``(c,)`` each.
    holders
        How many there are, nobody with them.
    """

    key: NDArray[np.int64]
    figures: Sums
    holders: int

    def largest(self, group: int, most: int) -> list[tuple[int, Amount]]:
        """Return the holders that have most of a group."""
        first = group * self.holders
        low, high = np.searchsorted(self.key, np.array([first, first + self.holders]))
        part = slice(int(low), int(high))
        order = np.lexsort((self.key[part], ~self.figures.nbytes[part]))[:most]
        at = (int(low) + order).tolist()
        return [(int(self.key[i]) - first, self.figures.at(i)) for i in at]


def share_out(
    census: Census, group: NDArray[np.int64], n: int, moved: NDArray[np.int64]
) -> Cells | None:
    """Find out who holds each group; of those with members that moved, who holds these.

    Parameters
    ----------
    census
        One side.
    group, n
        Which of n merged groups each member is in.
    moved
        Rows of members that are on this side only.
    """
    members, holding = census.members, census.holders
    if members is None or holding is None:
        return None
    some = np.zeros(n, np.bool_)
    some[group[moved]] = True
    keep = ~some[group]
    keep[moved] = True
    nobody = len(holding.names)
    holders = nobody + 1
    holder = members.holder[keep].astype(np.int64)
    holder[holder < 0] = nobody
    inverse, key = numbered((group[keep] * holders + holder).astype(np.uint64))
    sizes = census.groups.size[members.group[keep]].astype(np.uint64)
    each = Sums(np.ones(sizes.size, np.int64), sizes)
    return Cells(key.astype(np.int64), each.added(inverse, key.size), holders)


def hang(new: Census, same: Stayed, came: NDArray[np.int64]) -> tuple[NDArray[np.int64], Sums]:
    """Find what the objects that came hang on: the nearest dominators that were there before.

    Returns
    -------
    on : ndarray of int64
        Rows of members; behind those, holders: what hangs on no object that was there before.
    figures : Sums
        How much hangs on each.
    """
    members = new.members
    assert members is not None
    n = len(members)
    there = np.zeros(n + 1, np.uint8)
    there[same.new] = 1
    there[n] = 1
    above = np.full(n + 1, NO_OBJECT, np.uint32)
    above[:n] = np.where(members.above == NO_OBJECT, np.uint32(n), members.above)
    rows = came[members.holder[came] >= 0]
    on = nearest(above, there)[rows].astype(np.int64)
    directly = on == n
    on[directly] = n + members.holder[rows[directly]]
    unique, inverse = np.unique(on, return_inverse=True)
    sizes = new.groups.size[members.group[rows]].astype(np.uint64)
    return unique, Sums(np.ones(rows.size, np.int64), sizes).added(inverse, unique.size)
