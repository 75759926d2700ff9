"""What is known of objects beside their place: what each is, who allocated it, and when."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one object comes from; empty, or None, where nothing tells.

    Parameters
    ----------
    kind
        What it is.
    frames
        The backtrace of its allocation, innermost first.
    comm, pid
        The task that allocated it.
    birth
        When, in ticks of the source's clock.
    """

    kind: str = ""
    frames: tuple[str, ...] = ()
    comm: str = ""
    pid: int | None = None
    birth: int | None = None


#: Nothing tells.
UNKNOWN = Origin()


@dataclass(slots=True, eq=False)
class Provenance:
    """Columns beside an `ObjectTable`, row by row the same objects.

    Parameters
    ----------
    kind : ndarray of int32, shape (n,), or None
        Index into `kinds`; −1 where nothing is known.
    kinds
        What an object can be: ``"kmalloc-64"``, ``"struct dentry"``, ``"vmalloc"``, ….
    trace : ndarray of int64, shape (n,), or None
        Index into `traces`; −1 where there is no backtrace.
    traces
        Return addresses, innermost first.
    birth : ndarray of int64, shape (n,), or None
        When it was allocated, in ticks of the source's clock.
    pid : ndarray of int32, shape (n,), or None
        The task that allocated it.
    comm : ndarray of int32, shape (n,), or None
        Index of that task's name in `comms`; −1 where nothing is known.
    comms
        Names of tasks.
    symbol
        Names a return address; None: only as a number.
    typed
        Whether `kinds` are types: objects of one are alike, whatever they hold.
    images
        Which `kinds` are memory that is there as long as a program or module is: its variables.
    """

    kind: NDArray[np.int32] | None = None
    kinds: Sequence[str] = ()
    trace: NDArray[np.int64] | None = None
    traces: Sequence[tuple[int, ...]] = ()
    birth: NDArray[np.int64] | None = None
    pid: NDArray[np.int32] | None = None
    comm: NDArray[np.int32] | None = None
    comms: Sequence[str] = ()
    symbol: Callable[[int], str] | None = None
    typed: bool = False
    images: tuple[int, ...] = ()

    def take(self, rows: NDArray[Any]) -> Provenance:
        """Return the columns of some rows, in their order."""
        taken = copy.copy(self)
        for name in ("kind", "trace", "birth", "pid", "comm"):
            column = getattr(self, name)
            if column is not None:
                setattr(taken, name, column[rows])
        return taken

    def origin(self, row: int) -> Origin:
        """Return what is known of one object."""
        comm = -1 if self.comm is None else int(self.comm[row])
        pid = None if self.pid is None else int(self.pid[row])
        birth = None if self.birth is None else int(self.birth[row])
        kind, frames = self.kind_of(row), self.frames_of(row)
        if not kind and not frames and comm < 0 and pid is None and birth is None:
            return UNKNOWN  # one for all: there can be thousands
        return Origin(kind, frames, self.comms[comm] if comm >= 0 else "", pid, birth)

    def kind_of(self, row: int) -> str:
        """Return what an object is; empty where nothing tells."""
        kind = -1 if self.kind is None else int(self.kind[row])
        return self.kinds[kind] if kind >= 0 else ""

    def frames_of(self, row: int) -> tuple[str, ...]:
        """Return the backtrace of an object's allocation, innermost first; empty without one."""
        trace = -1 if self.trace is None else int(self.trace[row])
        if trace < 0:
            return ()
        name = self.symbol or hex
        return tuple(name(address) for address in self.traces[trace])
