"""Turns two Censuses into a Difference: what came, grew, shrank and went, and who holds it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..errors import UsageError
from ..gate import Gate
from ..shared_property import shared_property
from .census import Amount, Census, Holding
from .change import NOBODY, STATES, Anchor, Change, GroupChange, State
from .growth import Cells, Columns, Moved, Sums, count_up, hang, moved, place, share_out
from .matching import (
    Match,
    Merged,
    Stayed,
    decide,
    merge_groups,
    named_traces,
    other_program,
    stayed,
)

if TYPE_CHECKING:
    from ..report.model import RenderOptions

#: Which groups come first.
SORTS = ("bytes", "count", "size")

#: What `Difference.amount` knows, for gates.
GATES = ("growth", "leaks")

#: Holders that are told of one group.
_MOST_HOLDERS = 3


@dataclass(frozen=True, eq=False)
class Difference:
    """What has changed between two dumps, or two reports.

    Attributes
    ----------
    old, new : Census
        What is compared.
    by_address : bool
        Whether objects were matched one by one, rather than their groups.
    asked : str
        How they were asked to be matched.
    reason : str
        Why they are matched so.
    notes : Coverage
        What was not compared, and what must be known of it.
    """

    old: Census
    new: Census
    by_address: bool
    asked: Match
    reason: str
    notes: Coverage = field(repr=False)
    _merged: Merged = field(repr=False)
    _stayed: Stayed | None = field(repr=False)

    # ---- totals

    @property
    def complete(self) -> bool:
        """Whether all objects were compared, not only leaks."""
        return self.old.complete and self.new.complete

    @property
    def objects(self) -> Change:
        """All objects."""
        return Change("objects", self.old.objects, self.new.objects)

    @property
    def leaks(self) -> Change:
        """All leaks."""
        return Change("leaks", self.old.leaked, self.new.leaked)

    @property
    def growth(self) -> Amount:
        """By how much all objects are more."""
        return self.objects.growth

    @shared_property
    def came(self) -> Amount:
        """Objects that are only in the new dump; by groups, where they are not matched singly."""
        return self._all.came.total

    @shared_property
    def went(self) -> Amount:
        """Objects that are only in the old dump; likewise."""
        return self._all.went.total

    @property
    def changed(self) -> Amount | None:
        """Objects that stayed, or were replaced, with pointers at other places; None: not known."""
        if self._stayed is None or self.new.members is None:
            return None
        rows = self._stayed.new[self._stayed.changed]
        sizes = self.new.groups.size[self.new.members.group[rows]]
        return Amount(rows.size, int(sizes.sum()))

    @shared_property
    def new_leaks(self) -> Amount:
        """Leaks that were none before."""
        return self._leaks.came.total

    @shared_property
    def gone_leaks(self) -> Amount:
        """Leaks that are none any more."""
        return self._leaks.went.total

    @property
    def kept_leaks(self) -> Amount:
        """Leaks that were leaks before."""
        return self.new.leaked.minus(self.new_leaks)

    @property
    def lost(self) -> Amount | None:
        """New leaks that were there before, and in reach; None where objects are not matched."""
        if self._stayed is None or self.old.members is None or self.new.members is None:
            return None
        rows = self._stayed.new
        rows = rows[self.new.members.leaked[rows] & ~self.old.members.leaked[self._stayed.old]]
        sizes = self.new.groups.size[self.new.members.group[rows]]
        return Amount(rows.size, int(sizes.sum()))

    def states(self, *, leaks: bool = False) -> dict[State, int]:
        """Count the groups by how they have changed."""
        columns = self._leaks if leaks else self._all
        counts = np.bincount(columns.states[columns.there], minlength=len(STATES))
        return dict(zip(STATES, counts.tolist(), strict=True))

    # ---- tables

    def groups(
        self,
        limit: int = 0,
        *,
        sort: str = "bytes",
        min_size: int = 0,
        leaks: bool = False,
        grown: bool | None = None,
    ) -> list[GroupChange]:
        """Return the groups that have changed: what has grown first, what shrank last.

        Of leaks, those too that are as large as before, but with other members.

        Parameters
        ----------
        limit
            How many; 0 for all.
        sort
            Those first that have grown most by ``"bytes"`` or ``"count"``, or whose objects are
            largest (``"size"``).
        min_size
            Leave out groups of smaller objects, in bytes.
        leaks
            Only leaks are counted; a group of which some are new has grown.
        grown
            Only groups that have grown; or only those that shrank, the most first.

        Raises
        ------
        UsageError
            `sort` is something else.
        """
        if sort not in SORTS:
            raise UsageError(f"groups are not sorted by {sort!r}", hint=f"one of: {SORTS}")
        columns = self._leaks if leaks else self._all
        rows = columns.chosen(sort, min_size, self._merged.size, moved=leaks, grown=grown)
        rows = rows[:limit] if limit > 0 else rows
        states = columns.states[rows].tolist()
        return [
            self._group(columns, row, state, leaks)
            for row, state in zip(rows.tolist(), states, strict=True)
        ]

    def tally(
        self, *, min_size: int = 0, leaks: bool = False, grown: bool | None = None
    ) -> tuple[int, Amount]:
        """Return how many groups `groups` has, and by how much they have grown together."""
        columns = self._leaks if leaks else self._all
        rows = columns.chosen("bytes", min_size, self._merged.size, moved=leaks, grown=grown)
        more, nbytes = columns.growth(moved=leaks)
        return rows.size, Amount(int(more[rows].sum()), int(nbytes[rows].sum()))

    @shared_property
    def types(self) -> tuple[Change, ...]:
        """What objects of each type came to; the name is empty for those of no known type."""
        merged = self._merged
        if not self.complete or not any(merged.kinds):
            return ()
        kind = np.where(merged.kind < 0, len(merged.kinds), merged.kind).astype(np.int64)
        names = [*merged.kinds, ""]
        before, after = (
            side.added(kind, len(names)) for side in (self._all.before, self._all.after)
        )
        rows = range(len(names))
        return _changes(names, [before.at(r) for r in rows], [after.at(r) for r in rows])

    @shared_property
    def holders(self) -> tuple[Change, ...]:
        """What each variable, mapping, stack, … holds: what is reachable is counted once."""
        return _of_holdings(self.old.holders, self.new.holders)

    @shared_property
    def modules(self) -> tuple[Change, ...]:
        """What all roots of each file, stack, … alone hold."""
        return _of_holdings(self.old.modules, self.new.modules)

    @shared_property
    def unheld(self) -> Change:
        """What nobody holds: leaks, and what the scan ignores."""
        sides = []
        for census in (self.old, self.new):
            held = census.holders
            total = Amount()
            if held is not None:
                total = Amount(int(held.count.sum()), int(held.nbytes.sum(dtype=np.uint64)))
            sides.append(census.objects.minus(total))
        return Change("", *sides)

    def anchors(self, limit: int = 10) -> list[Anchor]:
        """Return what was there before and holds new objects now, the most bytes first; 0: all.

        Each new object that is reachable counts once: for the nearest of the objects that
        dominate it that was there before.
        """
        hanging, members, holding = self._hanging, self.new.members, self.new.holders
        if hanging is None or members is None or holding is None:
            return []
        rows, figures = hanging
        order = np.lexsort((rows, ~figures.nbytes))
        found = []
        for at in (order[:limit] if limit > 0 else order).tolist():
            row, amount = int(rows[at]), figures.at(at)
            if row >= len(members):
                name = holding.names[row - len(members)]
                found.append(Anchor(name, None, None, "", "", amount))
                continue
            holder, group = int(members.holder[row]), int(members.group[row])
            columns = self.new.groups
            kind = int(columns.kind[group])
            found.append(
                Anchor(
                    holding.names[holder] if holder >= 0 else "",
                    int(members.address[row]),
                    int(columns.size[group]),
                    columns.kinds[kind] if kind >= 0 else "",
                    columns.shapes[int(columns.shape[group])],
                    amount,
                )
            )
        return found

    # ---- verdict and output

    def amount(self, gate: Gate) -> int:
        """Return what a gate looks at: ``"growth"`` of all objects or new ``"leaks"``."""
        if gate.what not in GATES:
            raise UsageError(f"there is no gate {gate.what!r}", hint=f"one of: {', '.join(GATES)}")
        found = self.growth if gate.what == "growth" else self.new_leaks
        return found.nbytes if gate.nbytes else found.objects

    def to_dict(self, **options: Any) -> dict[str, Any]:
        """Return it as plain values, laid out as ``report/diff_schema.json`` tells.

        Parameters
        ----------
        **options
            Fields of `RenderOptions`.
        """
        from ..report.diff_json import diff_to_dict

        return diff_to_dict(self, _render_options(options))

    def report(self, format: str = "text", **options: Any) -> str:
        """Return it as ``"text"`` or ``"json"``; options as of `to_dict`."""
        from ..report.diff_json import render_diff_json
        from ..report.diff_text import render_diff_text

        renderers = {"text": render_diff_text, "json": render_diff_json}
        if format not in renderers:
            raise UsageError(f"there is no format {format!r}", hint=f"one of: {[*renderers]}")
        out = io.StringIO()
        renderers[format](self, out, _render_options(options))
        return out.getvalue()

    def to_pandas(self, *, leaks: bool = False) -> Any:
        """Return a ``pandas.DataFrame`` with one row a group that has changed.

        Raises
        ------
        KmemleakError
            pandas is not installed.
        """
        from ..notebook import data_frame

        return data_frame(
            [
                {
                    "state": g.state,
                    "kind": g.kind,
                    "backtrace": "\n".join(g.frames),
                    "size": g.size,
                    "shape": g.shape,
                    "objects_before": g.before.objects,
                    "objects_after": g.after.objects,
                    "bytes_before": g.before.nbytes,
                    "bytes_after": g.after.nbytes,
                    "example": g.example,
                    "held_by": g.held_by[0][0] if g.held_by else "",
                }
                for g in self.groups(leaks=leaks)
            ]
        )

    def __repr__(self) -> str:
        from ..report.diff_text import growth_sentence, leaks_sentence

        return f"<Difference: {growth_sentence(self)}; {leaks_sentence(self)}>"

    def _repr_html_(self) -> str:
        from ..report.diff_text import difference_html

        return difference_html(self)

    # ---- how it is found out

    @shared_property
    def _moved(self) -> Moved | None:
        if self._stayed is None:
            return None
        return moved(self.old, self.new, self._stayed, leaks=False)

    @shared_property
    def _placed(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        return place(self.old, self.new, self._merged, self._stayed)

    @shared_property
    def _all(self) -> Columns:
        """All objects, by merged group."""
        return count_up(self.old, self.new, self._merged, self._placed, self._moved, leaks=False)

    @shared_property
    def _leaks(self) -> Columns:
        gone = None
        if self._stayed is not None:
            gone = moved(self.old, self.new, self._stayed, leaks=True)
        return count_up(self.old, self.new, self._merged, self._placed, gone, leaks=True)

    @shared_property
    def _cells(self) -> tuple[Cells | None, Cells | None]:
        """How much of each group each holder has, of both sides."""
        if self._placed is None:
            return None, None
        none = np.empty(0, np.int64)
        gone, n = self._moved or Moved(none, none), len(self._merged)
        return (
            share_out(self.old, self._placed[0], n, gone.went),
            share_out(self.new, self._placed[1], n, gone.came),
        )

    @shared_property
    def _hanging(self) -> tuple[NDArray[np.int64], Sums] | None:
        if self._stayed is None or self._moved is None or self.new.holders is None:
            return None
        return hang(self.new, self._stayed, self._moved.came)

    def _group(self, columns: Columns, row: int, state: int, leaks: bool) -> GroupChange:
        kind, frames, shape = self._merged.looks(row)
        size = int(self._merged.size[row])
        after = columns.after.at(row)
        return GroupChange(
            kind,
            frames,
            size if size >= 0 else None,
            shape,
            STATES[state],
            columns.before.at(row),
            after,
            columns.came.at(row),
            columns.went.at(row),
            int(columns.example[row]),
            () if leaks else self._held_by(row, 1 if after.objects else 0),
        )

    def _held_by(self, row: int, side: int) -> tuple[tuple[str, Amount], ...]:
        cells, holding = self._cells[side], (self.old, self.new)[side].holders
        if cells is None or holding is None:
            return ()
        names = [*holding.names, NOBODY]
        return tuple((names[i], amount) for i, amount in cells.largest(row, _MOST_HOLDERS))


def compare(old: Census, new: Census, match: Match = "auto") -> Difference:
    """Compare two censuses.

    Parameters
    ----------
    old, new
        What each dump or report came to.
    match
        ``"address"``: an object is the same where it is at one place in both, of one size: of
        one process. ``"signature"``: only groups are compared. ``"auto"``: what fits.

    Raises
    ------
    UsageError
        There are no addresses to match by.
    """
    by_address, reason = decide(old, new, match)
    notes = Coverage()
    for which, census in (("the old one", old), ("the new one", new)):
        for note in census.notes:
            notes.add(note.code, f"{which}: {note.message}")
    different = other_program(old.identity, new.identity)
    if different:
        notes.add("diff.programs", f"what is compared does not belong together: {different}")
    if not (old.complete and new.complete):
        notes.add(
            "diff.leaks-only",
            "a report tells of leaks alone: what is reachable, and who holds it, was not compared",
        )
    traces = named_traces(old.groups, new.groups, one_start=by_address)
    return Difference(
        old,
        new,
        by_address,
        match,
        reason,
        notes,
        merge_groups(old.groups, new.groups, traces),
        stayed(old, new, traces) if by_address else None,
    )


def _render_options(options: Mapping[str, Any]) -> RenderOptions:
    from ..report.model import RenderOptions

    return RenderOptions(**options)


def _of_holdings(old: Holding | None, new: Holding | None) -> tuple[Change, ...]:
    if old is None or new is None:
        return ()
    before, after = old.amounts(), new.amounts()
    names = list(dict.fromkeys([*after, *before]))
    return _changes(
        names, [before.get(n, Amount()) for n in names], [after.get(n, Amount()) for n in names]
    )


def _changes(
    names: Sequence[str], before: Sequence[Amount], after: Sequence[Amount]
) -> tuple[Change, ...]:
    """Return those that have any objects, the most growth first."""
    changes = [
        Change(name, a, b)
        for name, a, b in zip(names, before, after, strict=True)
        if a.objects or b.objects
    ]
    return tuple(sorted(changes, key=lambda c: (-c.growth.nbytes, -c.growth.objects, c.name)))
