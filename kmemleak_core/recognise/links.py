"""Turns links between many nodes into where each of them ends."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def ends_of(step: NDArray[np.int64], n: int, ends: int) -> NDArray[np.int64]:
    """Follow links to their ends, all at once, twice as far each time.

    Parameters
    ----------
    step
        ``(n,)``: where each of n nodes leads: to a node, or to an end, n or more.

    Returns
    -------
    ndarray of int64, shape (n,)
        The end, or in a ring without one its least node.
    """
    far = np.concatenate((step, np.arange(n, n + ends)))
    least = np.minimum(np.arange(n + ends), far)
    for _ in range(max(1, int(n).bit_length())):
        least = np.minimum(least, least[far])
        far = far[far]
        if (far[:n] >= n).all():
            break
    return np.where(far[:n] >= n, far[:n], least[:n])
