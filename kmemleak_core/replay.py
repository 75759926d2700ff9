"""Turns an EventLog into a Replay: what is still live, what went wrong, when most was live.

Where a log contradicts itself, the newer event is believed: what an allocator hands out is free,
so an object that comes over an older one ends it (the log lost a free), and both are named. The
embeddable detector refuses the newer object instead, as the kernel does, for there the calls are
all that is known. A free that fits no object changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _replay
from ._replay_places import replay_places
from .errors import UsageError
from .event_log import EventKind, EventLog, frames_of
from .objects import ObjectTable
from .provenance import Provenance
from .shared_property import shared_property


class AnomalyKind(IntEnum):
    """What was wrong with an event."""

    #: It makes an object that reaches into an older live one, which thereby ends.
    OVERLAP = _replay.OVERLAP
    #: It frees what an earlier event freed.
    DOUBLE_FREE = _replay.DOUBLE_FREE
    #: It frees an address inside a live object, which stays.
    INTERIOR_FREE = _replay.INTERIOR_FREE
    #: It frees what the log never saw allocated, or what ended by an overlap.
    UNKNOWN_FREE = _replay.UNKNOWN_FREE


class Anomaly(NamedTuple):
    """One event that does not fit what was before.

    Parameters
    ----------
    kind
        What is wrong.
    event
        Its number.
    other
        The event that it contradicts: the older object's birth, or what ended the object; −1 for
        none.
    address
        Of the event.
    """

    kind: AnomalyKind
    event: int
    other: int
    address: int


class Peak(NamedTuple):
    """When most was live.

    Parameters
    ----------
    value
        How many bytes or objects.
    event
        After which event they first were.
    """

    value: int
    event: int


class Timeline(NamedTuple):
    """What was live in the course of time; arrays of one length."""

    event: NDArray[np.int64]
    objects: NDArray[np.uint64]
    nbytes: NDArray[np.uint64]


class LiveGroup(NamedTuple):
    """Live objects that one trace allocated in one size.

    Parameters
    ----------
    trace
        Its number; −1 where there is none.
    size
        Bytes of each.
    objects, nbytes
        How many, and together.
    oldest, newest
        Events that allocated the first and the last of them.
    """

    trace: int
    size: int
    objects: int
    nbytes: int
    oldest: int
    newest: int


#: One row of `Replay.by_trace`.
TRACE_DTYPE = np.dtype(
    [
        ("trace", np.int32),
        ("allocs", np.int64),
        ("alloc_bytes", np.uint64),
        ("live", np.int64),
        ("live_bytes", np.uint64),
    ]
)
#: One row of `Replay.by_age`.
AGE_DTYPE = np.dtype(
    [("from", np.float64), ("to", np.float64), ("objects", np.int64), ("nbytes", np.uint64)]
)


@dataclass(frozen=True, eq=False)
class Replay:
    """What a log comes to.

    Attributes
    ----------
    log
        The events.
    birth : ndarray of int64, shape (n,)
        Event that allocated each live object, in order; the leftovers of a partial free have the
        birth of the whole.
    address, size : ndarray of uint64, shape (n,)
        Where they are.
    anomalies
        The first ones of each kind, in the order of their events.
    totals
        How many there are of each kind.
    peak_bytes, peak_objects
        When most was live.
    timeline
        What was live after events at equal distances.
    nulls
        Events at address 0, passed over.
    """

    log: EventLog
    birth: NDArray[np.int64]
    address: NDArray[np.uint64]
    size: NDArray[np.uint64]
    anomalies: tuple[Anomaly, ...]
    totals: dict[AnomalyKind, int]
    peak_bytes: Peak
    peak_objects: Peak
    timeline: Timeline
    nulls: int

    @shared_property
    def objects(self) -> ObjectTable:
        """The live objects, ready to be scanned; their traces are the log's."""
        trace = None if self.log.trace is None else self.log.trace[self.birth]
        return ObjectTable.from_arrays(self.address, self.size, trace=trace)

    @shared_property
    def provenance(self) -> Provenance | None:
        """The backtraces of the live objects, row by row of `objects`; None where there are none.

        A trace's name is its frames, innermost first, separated by ``;``.
        """
        trace = self.objects.trace
        if trace is None or not self.log.trace_names:
            return None
        used, numbers = np.unique(trace, return_inverse=True)
        frames: dict[str, int] = {}
        traces: dict[tuple[int, ...], int] = {}
        own = [
            traces.setdefault(
                tuple(frames.setdefault(frame, len(frames)) for frame in frames_of(name)),
                len(traces),
            )
            for name in map(self.log.trace_name, used.tolist())
        ]
        column = np.where(trace < 0, -1, np.array(own, np.int64)[numbers])
        return Provenance(trace=column, traces=list(traces), symbol=list(frames).__getitem__)

    @property
    def nbytes(self) -> int:
        """Bytes live at the end."""
        return int(self.size.sum(dtype=np.uint64))

    @property
    def clean(self) -> bool:
        """Whether nothing is live and no event was wrong."""
        return not len(self) and not any(self.totals.values())

    def ages(self) -> NDArray[np.float64]:
        """Return how old each live object is, in the log's time, or in events without one."""
        if self.log.time is not None:
            ages: NDArray[np.float64] = self.log.time[-1:] - self.log.time[self.birth]
            return ages
        return (len(self.log) - 1 - self.birth).astype(np.float64)

    def by_age(self, bins: int = 10) -> NDArray[Any]:
        """Return how many objects of which age are live; ages are cut into equal parts.

        Parameters
        ----------
        bins
            How many parts.
        """
        if bins < 1:
            raise UsageError("one part at least")
        ages = self.ages()
        top = float(ages.max(initial=0.0)) or 1.0
        low = min(0.0, float(ages.min(initial=0.0)))
        edges = np.linspace(low, top, bins + 1)
        part = np.clip(np.searchsorted(edges, ages, side="right") - 1, 0, bins - 1)
        table = np.zeros(bins, dtype=AGE_DTYPE)
        table["from"], table["to"] = edges[:-1], edges[1:]
        table["objects"] = np.bincount(part, minlength=bins)
        table["nbytes"] = _sums(part, self.size, bins)
        return table

    def by_trace(self) -> NDArray[Any]:
        """Return what each trace allocated, and what of that is live; most live bytes first."""
        log = self.log
        made = np.flatnonzero((log.kind == EventKind.ALLOC) & (log.address != 0))
        none = np.zeros(1, np.int32) - 1
        traces = none.repeat(made.size) if log.trace is None else log.trace[made]
        names, rows = np.unique(traces, return_inverse=True)
        table = np.zeros(names.size, dtype=TRACE_DTYPE)
        table["trace"] = names
        table["allocs"] = np.bincount(rows, minlength=names.size)
        table["alloc_bytes"] = _sums(rows, log.size[made], names.size)
        # Leftovers of one object count as one: what is not live was freed.
        first = np.ones(len(self), dtype=np.bool_)
        first[1:] = self.birth[1:] != self.birth[:-1]
        own = none.repeat(len(self)) if log.trace is None else log.trace[self.birth]
        places = np.searchsorted(names, own)
        table["live"] = np.bincount(places[first], minlength=names.size)
        table["live_bytes"] = _sums(places, self.size, names.size)
        order = np.lexsort((table["trace"], -table["live"], ~table["live_bytes"]))
        return table[order]

    def groups(self) -> list[LiveGroup]:
        """Return the live objects by trace and size; most bytes first."""
        if not len(self):
            return []
        trace = (
            np.full(len(self), -1, np.int32)
            if self.log.trace is None
            else self.log.trace[self.birth]
        )
        order = np.lexsort((self.birth, self.size, trace))
        trace, size, birth = trace[order], self.size[order], self.birth[order]
        new = np.ones(order.size, dtype=np.bool_)
        new[1:] = (trace[1:] != trace[:-1]) | (size[1:] != size[:-1])
        begins = np.flatnonzero(new)
        ends = np.append(begins[1:], order.size)
        found = [
            LiveGroup(t, s, end - begin, s * (end - begin), oldest, newest)
            for t, s, begin, end, oldest, newest in zip(
                trace[begins].tolist(),
                size[begins].tolist(),
                begins.tolist(),
                ends.tolist(),
                birth[begins].tolist(),
                birth[ends - 1].tolist(),
                strict=True,
            )
        ]
        found.sort(key=lambda group: (-group.nbytes, -group.objects, group.oldest))
        return found

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` with one row a live object.

        Raises
        ------
        KmemleakError
            pandas is not installed.
        """
        from .notebook import data_frame

        frame: dict[str, NDArray[Any]] = {
            "address": self.address,
            "size": self.size,
            "birth": self.birth,
            "age": self.ages(),
        }
        if self.log.trace is not None:
            frame["trace"] = self.log.trace[self.birth]
        return data_frame(frame)

    def __len__(self) -> int:
        return int(self.birth.size)

    def __repr__(self) -> str:
        wrong = sum(self.totals.values())
        return (
            f"<Replay of {len(self.log):,} events: {len(self):,} objects live,"
            f" {self.nbytes:,} bytes; peak {self.peak_bytes.value:,} bytes; {wrong:,} anomalies>"
        )

    def _repr_html_(self) -> str:
        from .notebook import SHOWN, html_table

        groups = self.groups()
        rows = [
            (f"{g.objects:,}", f"{g.size:,}", f"{g.nbytes:,}", self.log.trace_name(g.trace))
            for g in groups[:SHOWN]
        ]
        more = f"{len(groups) - SHOWN:,} more groups" if len(groups) > SHOWN else ""
        return html_table(self, ("objects", "size", "bytes", "trace"), rows, more)


def live_set(log: EventLog) -> NDArray[np.uint32]:
    """Return the events that allocated what is live at a log's end, ascending.

    The fastest way to that and nothing else. A log whose objects overlap is for `replay`: here
    an object ends when its own address is freed or allocated again, whatever else came over it.
    """
    found = _replay.live_set(log.kind, log.address)
    if found is None:
        return np.unique(replay(log, samples=1, max_anomalies=0).birth).astype(np.uint32)
    return found


def replay(
    log: EventLog, *, at: int | None = None, samples: int = 256, max_anomalies: int = 1000
) -> Replay:
    """Replay a log.

    Parameters
    ----------
    log
        The events.
    at
        Only so many events, from the first on; all if None.
    samples
        Points of the timeline.
    max_anomalies
        How many anomalies of each kind are kept; all are counted.
    """
    if samples < 1 or max_anomalies < 0 or (at is not None and at < 0):
        raise UsageError("at least one sample, and no negative numbers")
    if at is not None:
        log = log.head(at)
    max_anomalies = min(max_anomalies, len(log))
    found = _replay.replay_granules(log.kind, log.address, log.size, samples, max_anomalies)
    live = None if found is None else _replay.live_set(log.kind, log.address)
    if found is None or live is None:
        found = _replay_places(log, samples, max_anomalies)
        assert found.live is not None
        birth, address, size = found.live
    else:
        birth = live.astype(np.int64)
        address, size = log.address[birth], log.size[birth]
    return Replay(
        log,
        birth,
        address,
        size,
        tuple(_anomalies(found, log)),
        {kind: found.totals[kind] for kind in AnomalyKind},
        Peak(*found.peak_bytes),
        Peak(*found.peak_count),
        Timeline(*found.timeline),
        found.nulls,
    )


def _replay_places(log: EventLog, samples: int, most: int) -> _replay.Outcome:
    """Replay any log, at the price of sorting its addresses."""
    parts = np.flatnonzero(log.kind == EventKind.FREE_PART)
    # What wraps around is behind every object: any place will do.
    ends = log.address[parts] + log.size[parts]
    # The inverse makes numpy sort, which is many times as fast here as its hash table.
    places, place = np.unique(np.concatenate((log.address, ends)), return_inverse=True)
    ranks: NDArray[np.uint32] = place.astype(np.uint32)
    return replay_places(
        log.kind,
        log.address,
        log.size,
        places,
        ranks[: len(log)],
        ranks[len(log) :],
        samples,
        most,
    )


def _anomalies(found: _replay.Outcome, log: EventLog) -> list[Anomaly]:
    rows = []
    for kind in AnomalyKind:
        event, other = found.anomalies(kind)
        where = log.address[event]
        rows += [
            Anomaly(kind, *row)
            for row in zip(event.tolist(), other.tolist(), where.tolist(), strict=True)
        ]
    rows.sort(key=lambda row: (row.event, row.kind))
    return rows


def _sums(rows: NDArray[Any], values: NDArray[np.uint64], count: int) -> NDArray[np.uint64]:
    """Add up values by row, exactly: floats would not be."""
    sums = np.zeros(count, dtype=np.uint64)
    np.add.at(sums, rows, values)
    return sums
