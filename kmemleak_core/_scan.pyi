"""Reference of the word scan: which words of an image point into objects.

What a *target* is, `_index` tells.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ._index import AddressIndex

#: Instruction sets that this processor can use, best first; "scalar" is always the last.
simd_levels: tuple[str, ...]
#: Instruction set in use, chosen at import or by the environment variable KMEMLEAK_SIMD.
simd_level: str

def _choose_level(wanted: str) -> str:
    """Switch to a level by name ("" is the best one there is); return its name. For tests."""

def _choose_part(nbytes: int) -> int:
    """Set how many bytes are worth a part of their own; return how many were. For tests."""

class ImageView:
    """An image as the engine sees it: raw pointers to sorted extents, kept alive by the view.

    Parameters
    ----------
    segments
        ``(address, uint8 array)`` pairs, sorted, not empty, not overlapping.
    word_size
        4 or 8.
    big_endian
        Byte order of the image's words.

    Raises
    ------
    ValueError
        A segment is empty, out of order, overlaps another or leaves the address space.
    """

    extent_count: int
    word_size: int
    swapped: bool
    def __new__(
        cls, segments: Sequence[tuple[int, NDArray[np.uint8]]], word_size: int, big_endian: bool
    ) -> ImageView: ...

def extract_references(
    view: ImageView,
    index: AddressIndex,
    start: NDArray[np.uint64],
    size: NDArray[np.uint64],
    owner: NDArray[np.int64] | None = None,
    *,
    step: int,
    mask: int = ...,
    threads: int = 1,
) -> tuple[NDArray[np.int64], NDArray[np.uint32], dict[str, int]]:
    """Find the objects that ranges of memory point into, in one sequential pass.

    Parameters
    ----------
    view, index
        The memory and the objects.
    start, size
        ``(r,)`` ``uint64``: the ranges, bytes. A word must lie wholly inside its range.
    owner
        ``(r,)`` ``int64``: the row of the object that a range is part of, −1 for none;
        references of an object to itself are left out. Without it range i is object i.
    step
        Words start at multiples of so many bytes: 1, 2, 4 or 8.
    mask
        Applied to each word before it is looked up.
    threads
        How many may scan at once; the result is the same for any number.

    Returns
    -------
    offsets : ndarray of int64, shape (r + 1,)
        Range i's targets are entries ``offsets[i]:offsets[i + 1]``.
    targets : ndarray of uint32
        In the order of the words; every word counts.
    counters : dict
        ``words`` read, ``candidates`` within the objects' bounds, ``hits``,
        ``self_references``, ``missing_bytes`` of the ranges that the image lacks.

    Raises
    ------
    ValueError
        Columns of different lengths, 2**32 - 1 ranges or more, or a step that is none.
    MemoryError
        The references outgrow the memory there is.
    """

def scan_words(
    view: ImageView,
    index: AddressIndex,
    start: NDArray[np.uint64],
    size: NDArray[np.uint64],
    owner: NDArray[np.int64] | None = None,
    *,
    step: int,
    mask: int = ...,
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint32]]:
    """Find the words that point into objects: their addresses, values, targets and ranges.

    The parameters are those of `extract_references`; the four columns have one row for each word
    that hits.
    """
