"""Reference of the searches for an allocator's structures."""

import numpy as np
from numpy.typing import NDArray

from ._scan import ImageView

#: Why a free list ended: its null; a loop; a node that the image lacks; the array is full.
LIST_END: int
LIST_LOOP: int
LIST_BAD: int
LIST_FULL: int

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
    image: ImageView,
    heads: NDArray[np.uint64],
    link: int,
    mangled: bool,
    out: NDArray[np.uint64],
    ends: NDArray[np.int64],
    stops: NDArray[np.uint8],
) -> None:
    """Follow singly linked free lists, all of them at a time.

    Parameters
    ----------
    image
        The memory.
    heads
        ``(k,)``: the first node of each; 0 for an empty list.
    link
        Offset of the link in a node.
    mangled
        Whether a link at address a is stored xor ``a >> 12`` (glibc ≥ 2.32).
    out
        ``(n,)``, filled with the nodes of all lists.
    ends
        ``(k,)``, filled: list i's nodes are ``out[ends[i - 1]:ends[i]]``.
    stops
        ``(k,)``, filled: one of the ``LIST_`` values.
    """
