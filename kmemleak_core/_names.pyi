"""Reference of the loop that turns names in a text into numbers."""

import numpy as np
from numpy.typing import NDArray

def hash_names(text: NDArray[np.uint8], start: NDArray[np.int64], out: NDArray[np.uint32]) -> None:
    """Hash many names.

    Parameters
    ----------
    text
        ``(m,)``: each name with a NUL behind it.
    start
        ``(n,)``: where each begins. A place outside the text has the hash 0.
    out
        ``(n,)``, filled. Of a name of more than 512 bytes the first 512 count.
    """

def hash_name(name: NDArray[np.uint8]) -> int:
    """Hash one name, without a NUL: equal names have equal hashes."""
