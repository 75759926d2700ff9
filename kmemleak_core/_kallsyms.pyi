"""Reference of the loop over a kernel's compressed table of symbols.

A name is a length (one byte; two, low seven bits first, from 128 on) and so many bytes, each of
which stands for a token: a string of the token table. A name's first character is its kind.
"""

import numpy as np
from numpy.typing import NDArray

def measure(
    names: NDArray[np.uint8], count: int, tokens: NDArray[np.uint8], index: NDArray[np.uint16]
) -> tuple[int, int]:
    """Check the table, and tell how much room its names take.

    Parameters
    ----------
    names
        ``(m,)``: ``kallsyms_names``, and what follows it.
    count
        How many symbols there are.
    tokens
        ``(k,)``: ``kallsyms_token_table``, and what follows it.
    index
        ``(256,)``: ``kallsyms_token_index``.

    Returns
    -------
    tuple
        How many names could be read (fewer than `count` where one is damaged), and the bytes of
        `decode`'s `text` for those.

    Raises
    ------
    ValueError
        A token lies outside the table.
    """

def decode(
    names: NDArray[np.uint8],
    tokens: NDArray[np.uint8],
    index: NDArray[np.uint16],
    text: NDArray[np.uint8],
    start: NDArray[np.uint32],
    kind: NDArray[np.uint8],
) -> int:
    """Decode the names.

    Parameters
    ----------
    names, tokens, index
        As for `measure`.
    text
        Filled: a NUL, then each name with a NUL behind it.
    start
        ``(n,)``, filled: where in `text` each name begins; `n` is how many are decoded.
    kind
        ``(n,)``, filled: the letter of each.

    Returns
    -------
    int
        Bytes of `text` that are filled.

    Raises
    ------
    ValueError
        A name is damaged, `text` is too small, or the arrays differ in length.
    """
