"""What is known of objects beside their place: what each is, who allocated it, and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


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
