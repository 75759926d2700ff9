"""Reference of the loops over an allocation log."""

import numpy as np
from numpy.typing import NDArray

#: Kinds of events.
ALLOC: int
FREE: int
FREE_PART: int
RESIZE: int

#: Kinds of anomalies: an object comes over an older one; a free of what was freed before, of the
#: middle of an object, of what was never allocated.
OVERLAP: int
DOUBLE_FREE: int
INTERIOR_FREE: int
UNKNOWN_FREE: int

#: Events of one log.
MOST_EVENTS: int

def live_set(kind: NDArray[np.uint8], address: NDArray[np.uint64]) -> NDArray[np.uint32] | None:
    """Find what is live at a log's end, backwards: allocations that are the last at their address.

    Returns
    -------
    ndarray of uint32, or None
        Events, ascending; None for a log with other kinds of events than ALLOC and FREE, or with
        addresses that are too sparse for a table.
    """

def replay_granules(
    kind: NDArray[np.uint8],
    address: NDArray[np.uint64],
    size: NDArray[np.uint64],
    samples: int,
    most: int,
) -> Outcome | None:
    """Replay a log whose objects do not overlap, on a table of granules (their alignment).

    Parameters
    ----------
    kind, address, size
        ``(n,)``: the log.
    samples
        Points of the timeline.
    most
        Anomalies of each kind to keep.

    Returns
    -------
    Outcome or None
        None where an overlap, a free inside an object or another kind of event is met, and where
        addresses are too sparse or objects too large: `_replay_places` takes any log.

    Raises
    ------
    ValueError
        Columns of different lengths, an unknown kind, an object that leaves the address space.
    """

class Outcome:
    """What a forward replay found.

    Attributes
    ----------
    live : tuple of ndarrays, or None
        Of each live object, in order of birth: the event that allocated it, its address and its
        size. None from `replay_granules`: they are those of `live_set`.
    """

    live: tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint64]] | None

    def __init__(self, events: int, samples: int, most: int) -> None: ...
    @property
    def count(self) -> int:
        """Objects live at the end."""
    @property
    def nbytes(self) -> int:
        """Bytes live at the end."""
    @property
    def nulls(self) -> int:
        """Events at address 0, which were passed over."""
    @property
    def peak_count(self) -> tuple[int, int]:
        """Most objects live at once, and after which event they first were."""
    @property
    def peak_bytes(self) -> tuple[int, int]:
        """Most bytes live at once, and after which event they first were."""
    @property
    def timeline(self) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint64]]:
        """Events, and the objects and bytes that were live after each."""
    @property
    def totals(self) -> tuple[int, int, int, int]:
        """How many anomalies there were of each kind."""
    def anomalies(self, kind: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first anomalies of a kind: events, and the other event of each (−1: none)."""
