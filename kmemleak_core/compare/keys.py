"""Turns keys of many objects, of which few differ, into numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: So many keys tell most of those that there are.
_SAMPLE = 1 << 16


def numbered(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Number equal keys alike, from 0 on in rising order; return the numbers, and the keys.

    As ``np.unique`` does, but for few different keys among many without sorting them.
    """
    known = np.unique(keys[:_SAMPLE])
    number = np.zeros(keys.size, np.int64)
    while keys.size:
        number = np.minimum(np.searchsorted(known, keys), known.size - 1)
        missing = keys[known[number] != keys]
        if not missing.size:
            break
        known = np.union1d(known, missing if missing.size < keys.size // 4 else keys)
    return number, known
