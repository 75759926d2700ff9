"""Reference of the engine."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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
    """

    extent_count: int
    word_size: int
    swapped: bool
    def __init__(
        self, segments: Sequence[tuple[int, NDArray[np.uint8]]], word_size: int, big_endian: bool
    ) -> None: ...
