"""Reference of the loop over the records of BTF."""

import numpy as np
from numpy.typing import NDArray

def index(
    words: NDArray[np.uint32],
    extra: NDArray[np.uint32],
    each: NDArray[np.uint32],
    out: NDArray[np.uint32],
) -> tuple[int, int]:
    """Find where each record begins.

    Parameters
    ----------
    words
        ``(m,)``: the types' section.
    extra, each
        ``(128,)``: words behind the three of a record's head, by its kind: once, and for each of
        its elements. ``0xffffffff`` as the first: there is no such kind.
    out
        ``(k,)``, filled: the word at which each record begins.

    Returns
    -------
    tuple
        How many records there are, and the word at which the last of them ends: less than `m`
        where one is damaged or of an unknown kind, or `out` is full.
    """
