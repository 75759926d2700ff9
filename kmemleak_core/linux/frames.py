"""Turns virtual ranges into the page frames behind them, as far as the dump holds them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .kernel import Kernel


def frames_behind(kernel: Kernel, address: int, size: int) -> NDArray[np.uint64]:
    """Return the page frames that a virtual range is mapped to.

    Segments of a kernel's image are views of its physical memory: where a view begins in that
    memory is where its pages are.

    Returns
    -------
    ndarray of uint64, shape (n,)
        Frame numbers in the order of the range; none for what the dump lacks.
    """
    image, physical, page = kernel.image, kernel.physical, kernel.page_size
    if not physical.ranges:
        return np.empty(0, np.uint64)
    places = np.array([r.data.ctypes.data for r in physical.ranges], np.uint64)
    by_place = np.argsort(places)
    places = places[by_place]
    end = address + size
    first = max(0, int(np.searchsorted(image.starts, np.uint64(address), side="right")) - 1)
    last = int(np.searchsorted(image.starts, np.uint64(min(end, (1 << 64) - 1))))
    parts = []
    for segment in image.segments[first:last]:
        begin, stop = max(address, segment.address), min(end, segment.end)
        if begin >= stop:
            continue
        place = segment.data.ctypes.data + (begin - segment.address)
        i = int(np.searchsorted(places, np.uint64(place), side="right")) - 1
        if i < 0:
            continue
        held = physical.ranges[int(by_place[i])]
        offset = place - int(places[i])
        if offset + (stop - begin) > held.data.size:
            continue
        low = (held.address + offset) // page
        high = -(-(held.address + offset + stop - begin) // page)
        parts.append(np.arange(low, high, dtype=np.uint64))
    return np.concatenate(parts) if parts else np.empty(0, np.uint64)
