"""Reference of the loops that unpack pages of compressed kernel dumps."""

import numpy as np
from numpy.typing import NDArray

def unpack_pages(
    data: NDArray[np.uint8],
    offset: NDArray[np.uint64],
    size: NDArray[np.uint32],
    method: int,
    out: NDArray[np.uint8],
    good: NDArray[np.uint8],
) -> None:
    """Unpack many pages, without the interpreter's lock.

    Parameters
    ----------
    data
        The file.
    offset, size
        ``(n,)``: where each page's data are in it. A packed page is never longer than a page.
    method
        How they are packed: 0 not at all, 2 LZO1X, 4 Snappy (the flags of the format).
    out
        ``(n, page size)``, C-contiguous; receives the pages. Of damaged ones, what is written
        is undefined.
    good
        ``(n,)``; receives 1 for each page that came out whole, else 0.

    Raises
    ------
    ValueError
        Columns of different lengths, or no such method.
    """
