"""Turns sizes of blocks, and of what was asked for, into whether these go together."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: From how many bytes on an allocator may give whole pages.
_LARGE = 1 << 16
_PAGE = 4096


def fits(wanted: NDArray[np.uint64], size: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return whether blocks of so many bytes are what one gets who asks for so many, ``(n,)``.

    An allocator rounds up to 16 bytes (the smallest block has 24), and adds a rest that is too
    small for a block of its own; large ones it may round to pages.
    """
    spare = size - wanted
    most = np.where(size >= _LARGE, np.uint64(_PAGE + 32), np.uint64(48))
    result: NDArray[np.bool_] = (wanted > 0) & (wanted <= size) & (spare < most)
    return result


def coded(
    names: list[str], which: NDArray[np.int64], code: NDArray[np.int32], at: NDArray[np.int64]
) -> list[str]:
    """Fill a column with numbers of names.

    Parameters
    ----------
    names
        The same name may occur several times; an empty one is none.
    which
        ``(m,)``: index into `names`.
    code
        The column; its entries `at` are written.

    Returns
    -------
    list of str
        The names that are in the column by their numbers.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(filter(None, names)))}
    code[at] = np.array([numbers.get(name, -1) for name in names] or [-1], np.int32)[which]
    return list(numbers)
