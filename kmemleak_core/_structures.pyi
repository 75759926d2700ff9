"""Reference of the loops over a kernel's structures."""

import numpy as np
from numpy.typing import NDArray

from ._scan import ImageView

#: How a walk along a list ended: at its end; where it met itself; at an element that the image
#: lacks; at as many elements as were allowed.
LIST_ENDED: int
LIST_LOOPS: int
LIST_LEAVES: int
LIST_TOO_LONG: int

def read_members(
    view: ImageView,
    address: NDArray[np.uint64],
    offset: NDArray[np.uint64],
    size: NDArray[np.uint8],
    values: NDArray[np.uint64],
    present: NDArray[np.uint8],
) -> None:
    """Read several numbers of each of many structures, in the image's byte order.

    Parameters
    ----------
    view
        The memory.
    address
        ``(n,)``: where the structures are.
    offset, size
        ``(m,)``: bytes from there to each number, and its length: 1, 2, 4 or 8.
    values
        ``(m, n)``: written; 0 where the image lacks any of a number's bytes.
    present
        ``(m, n)``: written; whether they were there.

    Raises
    ------
    ValueError
        The shapes disagree, or a size or offset is none of a structure's.
    """

def read_bytes(
    view: ImageView,
    address: NDArray[np.uint64],
    out: NDArray[np.uint8],
    present: NDArray[np.uint8],
) -> None:
    """Copy the bytes at each address into a row of `out`, ``(n, size)``.

    A row of which the image lacks a byte is zero, and its entry of `present`, ``(n,)``, too.
    """

def follow_list(
    view: ImageView, first: int, offset: int, end: int, most: int
) -> tuple[NDArray[np.uint64], int, int]:
    """Follow the links of a list.

    Parameters
    ----------
    view
        The memory.
    first
        Its first element.
    offset
        Bytes from an element to the word that holds the next one's address.
    end
        What the last element's link holds.
    most
        Elements after which to stop.

    Returns
    -------
    elements : ndarray of uint64, shape (n,)
        In the list's order, each once.
    state : int
        One of the ``LIST_`` values.
    at : int
        Where it stopped: the element that the list comes back to, or that is not there.
    """

def follow_lists(
    view: ImageView,
    first: NDArray[np.uint64],
    offset: int,
    end: NDArray[np.uint64],
    most: int,
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint8]]:
    """Follow many lists, one after another.

    Parameters
    ----------
    first, end
        ``(n,)``: as of `follow_list`, for each list.
    most
        Elements, of all lists together, after which to stop.

    Returns
    -------
    elements : ndarray of uint64
        Of all lists, in their order.
    offsets : ndarray of int64, shape (n + 1,)
        Those of list i are ``elements[offsets[i]:offsets[i + 1]]``.
    states : ndarray of uint8, shape (n,)
        One of the ``LIST_`` values each.

    Raises
    ------
    ValueError
        The shapes disagree.
    """
