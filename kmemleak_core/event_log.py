"""Turns columns of allocations and frees into an EventLog: checked arrays, an event a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _replay
from .coverage import Coverage


class EventKind(IntEnum):
    """What an event does. A realloc that moves is a FREE and an ALLOC."""

    ALLOC = _replay.ALLOC
    FREE = _replay.FREE
    #: Gives bytes of an object back: what is left on either side are objects of their own.
    FREE_PART = _replay.FREE_PART
    #: Changes an object's size where it is.
    RESIZE = _replay.RESIZE


@dataclass(frozen=True, slots=True, eq=False)
class EventLog:
    """Allocations and frees in the order in which they happened. Built by `from_arrays`.

    Attributes
    ----------
    kind : ndarray of uint8, shape (n,)
        `EventKind`.
    address : ndarray of uint64, shape (n,)
        Of the object, or of the part that is freed. Events at 0 (a malloc that failed,
        ``free(NULL)``) are passed over.
    size : ndarray of uint64, shape (n,)
        Bytes; of no meaning for FREE.
    time : ndarray of float64, shape (n,), or None
        In the log's own unit, usually seconds.
    trace : ndarray of int32, shape (n,), or None
        Number of the backtrace or call site; −1: none.
    thread : ndarray of int32, shape (n,), or None
        Which thread did it.
    trace_names : tuple of str
        What the numbers of traces mean; may be shorter.
    path, format : str
        Where it was read.
    coverage : Coverage
        What of the file was not understood.
    """

    kind: NDArray[np.uint8]
    address: NDArray[np.uint64]
    size: NDArray[np.uint64]
    time: NDArray[np.float64] | None = None
    trace: NDArray[np.int32] | None = None
    thread: NDArray[np.int32] | None = None
    trace_names: tuple[str, ...] = ()
    path: str = ""
    format: str = ""
    coverage: Coverage = field(default_factory=Coverage)

    @classmethod
    def from_arrays(
        cls,
        kind: ArrayLike,
        address: ArrayLike,
        size: ArrayLike,
        *,
        time: ArrayLike | None = None,
        trace: ArrayLike | None = None,
        thread: ArrayLike | None = None,
        trace_names: Sequence[str] = (),
        path: str = "",
        format: str = "",
        coverage: Coverage | None = None,
    ) -> EventLog:
        """Build a log from columns; arrays of the right type are not copied.

        Parameters
        ----------
        kind, address, size, time, trace, thread
            ``(n,)`` each, see the attributes.
        trace_names, path, format, coverage
            See the attributes.

        Raises
        ------
        ValueError
            Columns of different lengths or of wrong types, an unknown kind, an object that
            leaves the address space, a time that is no number.
        """
        columns: dict[str, Any] = {
            "kind": _integers(kind, np.uint8, "kind"),
            "address": _integers(address, np.uint64, "address"),
            "size": _integers(size, np.uint64, "size"),
            "time": None if time is None else np.ascontiguousarray(time, dtype=np.float64),
            "trace": None if trace is None else _integers(trace, np.int32, "trace"),
            "thread": None if thread is None else _integers(thread, np.int32, "thread"),
        }
        n = columns["kind"].size
        for name, column in columns.items():
            if column is not None and column.shape != (n,):
                raise ValueError(f"{n} kinds but {name} of shape {column.shape}")
        if n > _replay.MOST_EVENTS:
            raise ValueError(f"a log holds up to {_replay.MOST_EVENTS:,} events, not {n:,}")
        if n and int(columns["kind"].max()) > max(EventKind):
            raise ValueError(f"there is no event of kind {int(columns['kind'].max())}")
        wrong = leaving(columns["kind"], columns["address"], columns["size"])
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(
                f"event {row}: an object at {int(columns['address'][row]):#x} of size"
                f" {int(columns['size'][row])} leaves the address space"
            )
        if columns["time"] is not None and not np.isfinite(columns["time"]).all():
            raise ValueError("a time is no number")
        return cls(
            **columns,
            trace_names=tuple(trace_names),
            path=path,
            format=format,
            coverage=Coverage() if coverage is None else coverage,
        )

    def head(self, count: int) -> EventLog:
        """Return the log's first events, without a copy."""
        return EventLog(
            self.kind[:count],
            self.address[:count],
            self.size[:count],
            None if self.time is None else self.time[:count],
            None if self.trace is None else self.trace[:count],
            None if self.thread is None else self.thread[:count],
            self.trace_names,
            self.path,
            self.format,
            self.coverage,
        )

    def trace_name(self, trace: int) -> str:
        """Return what a trace is called."""
        if 0 <= trace < len(self.trace_names):
            return self.trace_names[trace]
        return f"trace {trace}" if trace >= 0 else ""

    def __len__(self) -> int:
        return int(self.kind.size)

    def __repr__(self) -> str:
        counts = np.bincount(self.kind, minlength=len(EventKind))
        words = ", ".join(
            f"{int(counts[kind]):,} {kind.name.lower()}" for kind in EventKind if counts[kind]
        )
        return f"<EventLog {len(self):,} events{': ' if words else ''}{words}>"


def frames_of(trace: str) -> list[str]:
    """Return the frames that a trace's name tells, innermost first; a call site is one frame."""
    return [frame for part in trace.split(";") if (frame := part.strip())]


def leaving(
    kind: NDArray[np.uint8], address: NDArray[np.uint64], size: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Tell which events make an object that leaves the address space."""
    # As in an object table, one address behind every object is kept free.
    room = np.uint64((1 << 64) - 1) - address
    makes = (kind == EventKind.ALLOC) | (kind == EventKind.RESIZE)
    wrong: NDArray[np.bool_] = makes & (address != 0) & (np.maximum(size, np.uint64(1)) >= room)
    return wrong


def _integers(values: ArrayLike, dtype: Any, name: str) -> NDArray[Any]:
    array = np.asarray(values)
    if array.size == 0:
        return np.empty(array.shape, dtype)
    if array.dtype == dtype:
        return np.ascontiguousarray(array)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{name} holds {array.dtype}, integers are wanted")
    info = np.iinfo(dtype)
    if int(array.min()) < info.min or int(array.max()) > info.max:
        raise ValueError(f"{name} holds a number beyond {np.dtype(dtype)}")
    return np.ascontiguousarray(array, dtype=dtype)
