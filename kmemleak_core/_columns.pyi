"""Reference of the loops over sorted columns of addresses and sizes."""

import numpy as np
from numpy.typing import NDArray

def copy_without(
    source: NDArray[np.uint64], rows: NDArray[np.int64], out: NDArray[np.uint64]
) -> None:
    """Copy a column, leaving rows out.

    Parameters
    ----------
    source
        ``(n,)``.
    rows
        ``(k,)``, sorted, each once.
    out
        ``(n - k,)``, filled.

    Raises
    ------
    ValueError
        Rows that are out of order or beyond the column, or an array of another length.
    """
