"""Reference of marking: from references to counts."""

import numpy as np
from numpy.typing import NDArray

from ._index import AddressIndex
from ._scan import ImageView

def mark(
    offsets: NDArray[np.int64],
    targets: NDArray[np.uint32],
    min_count: NDArray[np.int32],
    roots: NDArray[np.uint32],
    *,
    excess: NDArray[np.int32] | None = None,
    order: NDArray[np.uint32] | None = None,
    modified: NDArray[np.uint8] | None = None,
    apart: bool = False,
) -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.uint32] | None]:
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
    apart
        Whether to tell apart what is gray only because pointers into the middle or past the end
        count, too. Where no object wants two references and none is surplus for another, the
        walk takes pointers to starts first, at no cost; else it is done twice. Not with
        `modified`.

    Returns
    -------
    count : ndarray of int32, shape (n,)
        References found; counting stops at min_count.
    held : ndarray of uint8, shape (n,)
        Which kinds of pointer a root or gray object holds: 1 start, 2 interior, 4 past the end.
    possible : ndarray of uint32 or None
        Rows, rising, of objects that pointers to starts alone do not make gray; None unless they
        are told apart.

    Raises
    ------
    ValueError
        Columns of different lengths, or a target beyond the table.
    """

def mark_by_scanning(
    view: ImageView,
    index: AddressIndex,
    start: NDArray[np.uint64],
    size: NDArray[np.uint64],
    owner: NDArray[np.int64] | None,
    first_range: NDArray[np.int64] | None,
    min_count: NDArray[np.int32],
    roots: NDArray[np.uint32],
    *,
    step: int,
    mask: int = ...,
    excess: NDArray[np.int32] | None = None,
    order: NDArray[np.uint32] | None = None,
    modified: NDArray[np.uint8] | None = None,
    apart: bool = False,
) -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.uint32] | None, dict[str, int]]:
    """Count references as `mark` does, but scan each object as it becomes gray: no lists.

    Parameters
    ----------
    view, index, start, size, owner, step, mask
        As for `extract_references`; the index holds the objects that are marked.
    first_range
        ``(n + 1,)``: row i's ranges are ``first_range[i]:first_range[i + 1]``; None where range i
        is object i.
    min_count, roots, excess, order, modified, apart
        As for `mark`.

    Returns
    -------
    count, held, possible
        As of `mark`.
    counters : dict
        As of `extract_references`, of the objects that were scanned.

    Raises
    ------
    ValueError
        Columns of different lengths, ranges that do not fit the objects, a target beyond the
        table.
    """
