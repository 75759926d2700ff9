"""Reference of the loop over any allocation log."""

import numpy as np
from numpy.typing import NDArray

from ._replay import Outcome

def replay_places(
    kind: NDArray[np.uint8],
    address: NDArray[np.uint64],
    size: NDArray[np.uint64],
    places: NDArray[np.uint64],
    place: NDArray[np.uint32],
    right: NDArray[np.uint32],
    samples: int,
    most: int,
) -> Outcome:
    """Replay any log, on the sorted addresses that occur in it.

    Parameters
    ----------
    kind, address, size, samples, most
        As in `_replay.replay_granules`.
    places
        ``(m,)``: sorted, each once: every address, and where each FREE_PART ends.
    place
        ``(n,)``: the place of each event's address.
    right
        ``(k,)``: the place of each FREE_PART's end.
    """
