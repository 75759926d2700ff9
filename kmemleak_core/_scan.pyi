"""Reference of the engine: address index, scan of words, marking.

A *target* is a ``uint32``: the object's row in its low 30 bits (`ROWS`), the kind of pointer in
the two above: 0 to the object's start, 1 to its interior, 2 one past its end. `NO_TARGET` is none.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ROWS: int
NO_TARGET: int
#: Instruction sets that this processor can use, best first; "scalar" is always the last.
simd_levels: tuple[str, ...]
#: Instruction set in use, chosen at import or by the environment variable KMEMLEAK_SIMD.
simd_level: str

def _choose_level(wanted: str) -> str:
    """Switch to a level by name ("" is the best one there is); return its name. For tests."""

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

class AddressIndex:
    """Finds the object that holds an address.

    Parameters
    ----------
    address, size
        ``(n,)`` ``uint64``, sorted by address, without overlaps; kept, not copied. An object of
        size 0 occupies its start address alone.
    flags
        ``(n,)`` ``uint8``, `ObjectFlags`; only EXACT_END matters here.
    inclusive_end
        Whether the address one past an object's end is the object's, where no other object
        starts there and the object's end is not exact.
    interior
        Whether addresses behind the start count at all.

    Raises
    ------
    ValueError
        Columns of different lengths, 2**30 objects or more, objects out of order, overlapping
        or at the very end of the address space.
    """

    low: int
    span: int
    inclusive_end: bool
    interior: bool
    def __new__(
        cls,
        address: NDArray[np.uint64],
        size: NDArray[np.uint64],
        flags: NDArray[np.uint8] | None = None,
        *,
        inclusive_end: bool = False,
        interior: bool = True,
    ) -> AddressIndex: ...
    @property
    def form(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    def lookup(self, values: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """Return the target of each value, `NO_TARGET` for none; ``(n,)`` ``uint32``."""

    def __len__(self) -> int: ...

def extract_references(
    view: ImageView,
    index: AddressIndex,
    start: NDArray[np.uint64],
    size: NDArray[np.uint64],
    owner: NDArray[np.int64] | None = None,
    *,
    step: int,
    mask: int = ...,
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

    Returns
    -------
    offsets : ndarray of int64, shape (r + 1,)
        Range i's targets are entries ``offsets[i]:offsets[i + 1]``.
    targets : ndarray of uint32
        In the order of the words; every word counts.
    counters : dict
        ``words`` read, ``candidates`` within the objects' bounds, ``hits``,
        ``self_references``, ``missing_bytes`` of the ranges that the image lacks.
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

def mark(
    offsets: NDArray[np.int64],
    targets: NDArray[np.uint32],
    min_count: NDArray[np.int32],
    roots: NDArray[np.uint32],
    *,
    excess: NDArray[np.int32] | None = None,
    order: NDArray[np.uint32] | None = None,
    modified: NDArray[np.uint8] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Count the references that lead from the roots to each object, as kmemleak does.

    Parameters
    ----------
    offsets, targets
        What each of the n objects refers to, as `extract_references` gives it.
    min_count
        ``(n,)``: references that make an object gray; 0 gray from the start, −1 black.
    roots
        Targets of the root words and ranges, in the order of the scan.
    excess
        ``(n,)``: row of the object for which surplus references count, −1 for none.
    order
        ``(n,)``: rows in allocation order, in which the first gray objects are followed;
        without it rows are in that order already.
    modified
        ``(n,)``: objects that, still white after the first round, are taken as gray and
        followed once more.

    Returns
    -------
    count : ndarray of int32, shape (n,)
        References found; counting stops at min_count.
    held : ndarray of uint8, shape (n,)
        Which kinds of pointer a root or gray object holds: 1 start, 2 interior, 4 past the end.

    Raises
    ------
    ValueError
        Columns of different lengths, or a target beyond the table.
    """
