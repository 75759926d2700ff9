"""Reference of the loop that classifies words; `shapes` tells what the classes mean."""

import numpy as np
from numpy.typing import NDArray

from ._scan import ImageView

def classify_words(
    view: ImageView,
    starts: NDArray[np.uint64],
    sizes: NDArray[np.uint64],
    address: NDArray[np.uint64],
    size: NDArray[np.uint64],
) -> NDArray[np.uint8]:
    """Classify the first 8 words of objects.

    Parameters
    ----------
    view
        The image.
    starts, sizes
        ``(m,)``, sorted, without overlaps: words that lie in one of these point to an object.
    address, size
        ``(n,)``: the objects to classify; any order, fastest sorted.

    Returns
    -------
    ndarray of uint8, shape (n, 8)
        Values of `shapes.WordKind`.

    Raises
    ------
    ValueError
        Columns of different lengths.
    """
