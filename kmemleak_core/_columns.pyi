"""Reference of the loops over sorted columns of addresses and sizes."""

import numpy as np
from numpy.typing import NDArray

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
