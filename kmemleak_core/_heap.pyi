"""Reference of the walk over the adjoining chunks of a heap's region."""

import numpy as np
from numpy.typing import NDArray

from ._scan import ImageView

#: Why a walk stopped: the arrays are full; the top chunk; a region's closing fences; the
#: region's end; memory that the image lacks; a header that cannot be one; the place up to which
#: it was asked to go.
STOP_FULL: int
STOP_TOP: int
STOP_FENCE: int
STOP_LIMIT: int
STOP_MISSING: int
STOP_BAD: int
STOP_UNTIL: int

class ChunkWalk:
    """A walk over the adjoining chunks of one region of glibc's heap.

    A chunk is ``{prev_size, size | flags}`` and the program's part; the next one begins
    ``size`` bytes on. A chunk is in use if the *next* one's PREV_INUSE bit says so: the walk
    always holds one chunk back (`pending`).

    Parameters
    ----------
    image
        The memory.
    start, limit
        The region: the first chunk, and the end (exclusive) that no chunk may cross.
    top
        The arena's top chunk if the region ends with it, else 0.
    align
        malloc's alignment: 8 or 16.
    """

    #: Next header to read (after a stop: the place where it stopped).
    position: int
    limit: int
    top: int
    #: The chunk before `position` whose state is not known yet (0: none), and its size.
    pending: int
    pending_size: int
    #: One of the ``STOP_`` values.
    stop: int
    #: Chunks met, those that are free, their bytes, and free ones with a wrong footer.
    chunks: int
    free_chunks: int
    free_bytes: int
    inconsistent: int

    def __new__(
        cls, image: ImageView, start: int, limit: int, top: int, align: int
    ) -> ChunkWalk: ...
    def run(
        self,
        address: NDArray[np.uint64],
        usable: NDArray[np.uint64],
        count: int,
        until: int = ...,
    ) -> int:
        """Walk on; append what is in use; return the new count.

        Parameters
        ----------
        address, usable
            ``(n,)`` ``uint64``: the program's address and usable bytes of each chunk in use.
            Entries before `count` are left alone. The walk stops when they are full.
        count
            Entries already taken.
        until
            Stop at the first chunk at or behind this place, nothing pending.
        """

    def join(self, ahead: ChunkWalk, skipped: ChunkWalk) -> None:
        """Go on where another walk over the same region stopped.

        Parameters
        ----------
        ahead
            A walk that was begun at a place ahead of this one, and met the chunk at which this
            one stands: from there on it found what this one would find.
        skipped
            A walk begun at the same place, stopped at that chunk: what `ahead` met before it,
            which does not count.

        Raises
        ------
        ValueError
            The walks do not meet.
        """

    def settle(self, position: int) -> None:
        """Go on at another place, forgetting the pending chunk."""

    def resync(self, low: int) -> int:
        """Return the first place at or after `low` where a consistent chain of chunks begins.

        That is one which reaches the top, the region's end or its fences, or goes on for 32
        chunks. The region's end if there is none.
        """

    def guess(self, low: int, high: int) -> int:
        """Return the first place in ``[low, high)`` where such a chain begins, `high` if none.

        It may be the program's own data that looks like one: a place to walk from on trial.
        """

    def resume(self, low: int) -> int:
        """Return the first place at or after `low` whose chain reaches fences or the top.

        Stricter than `resync`: for memory of somebody else's, whose end is not damaged. Time is
        linear in the region. The region's end if there is none.
        """

    def chains(self, chunk: int) -> bool:
        """Whether such a chain begins at this very address."""
