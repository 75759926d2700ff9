"""Reference of the loops over an allocator's own structures."""

import numpy as np
from numpy.typing import NDArray

from ._scan import ImageView

#: Why a walk stopped: the arrays are full; the top chunk; a region's closing fences; the
#: region's end; memory that the image lacks; a header that cannot be one.
STOP_FULL: int
STOP_TOP: int
STOP_FENCE: int
STOP_LIMIT: int
STOP_MISSING: int
STOP_BAD: int

#: Why a free list ended: its null; a loop; a node that the image lacks; the array is full.
LIST_END: int
LIST_LOOP: int
LIST_BAD: int
LIST_FULL: int

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
    def run(self, address: NDArray[np.uint64], usable: NDArray[np.uint64], count: int) -> int:
        """Walk on; append what is in use; return the new count.

        Parameters
        ----------
        address, usable
            ``(n,)`` ``uint64``: the program's address and usable bytes of each chunk in use.
            Entries before `count` are left alone. The walk stops when they are full.
        count
            Entries already taken.
        """

    def settle(self, position: int) -> None:
        """Go on at another place, forgetting the pending chunk."""

    def resync(self, low: int) -> int:
        """Return the first place at or after `low` where a consistent chain of chunks begins.

        That is one which reaches the top, the region's end or its fences, or goes on for 32
        chunks. The region's end if there is none.
        """

    def resume(self, low: int) -> int:
        """Return the first place at or after `low` whose chain reaches fences or the top.

        Stricter than `resync`: for memory of somebody else's, whose end is not damaged. Time is
        linear in the region. The region's end if there is none.
        """

    def chains(self, chunk: int) -> bool:
        """Whether such a chain begins at this very address."""

def find_linked(
    image: ImageView,
    start: int,
    end: int,
    step: int,
    first: int,
    first_delta: int,
    second: int,
    second_delta: int,
    limit: int,
) -> list[int]:
    """Find places that point to themselves.

    Parameters
    ----------
    image
        The memory.
    start, end, step
        Addresses to try: multiples of `step` in ``[start, end)``.
    first, first_delta, second, second_delta
        A hit p holds ``p + first_delta`` at ``p + first`` and ``p + second_delta`` at
        ``p + second``; deltas are modulo 2**64.
    limit
        At most so many hits.
    """

def find_mapped(
    image: ImageView,
    start: int,
    end: int,
    page: int,
    trailer: int,
    align: int,
    base: NDArray[np.uint64],
    chunk: NDArray[np.uint64],
    length: NDArray[np.uint64],
) -> int:
    """Find the chunks that have a mapping of their own; return how many.

    Parameters
    ----------
    image
        The memory.
    start, end
        Where to look; a mapping may not reach beyond the end.
    page
        Page size in bytes.
    trailer
        Bytes by which a mapping is longer than its chunk: 0 up to glibc 2.42, then 16.
    align
        malloc's alignment, 8 or 16: where it asks for it (i386), the chunk begins a little
        behind the mapping.
    base, chunk, length
        ``(n,)`` ``uint64``, filled: start of the mapping, of the chunk (later than the base
        where memalign moved it), and bytes in the mapping. The search ends when they are full.
    """

def follow(
    image: ImageView, head: int, link: int, mangled: bool, out: NDArray[np.uint64]
) -> tuple[int, int]:
    """Follow a singly linked free list.

    Parameters
    ----------
    image
        The memory.
    head
        The first node; 0 for an empty list.
    link
        Offset of the link in a node.
    mangled
        Whether a link at address a is stored xor ``a >> 12`` (glibc ≥ 2.32).
    out
        ``(n,)`` ``uint64``, filled with the nodes.

    Returns
    -------
    count, stop
        Nodes met, and one of the ``LIST_`` values.
    """

def merge(
    address: NDArray[np.uint64],
    usable: NDArray[np.uint64],
    count: int,
    more_address: NDArray[np.uint64],
    more_usable: NDArray[np.uint64],
) -> int:
    """Merge sorted rows into the first `count` sorted ones, in place; return the new count."""

def remove(
    address: NDArray[np.uint64], usable: NDArray[np.uint64], count: int, gone: NDArray[np.uint64]
) -> int:
    """Drop the rows whose address is in `gone` (sorted), in place; return the new count."""
