"""Reference of the dominator loops: who holds each row alone, and how much hangs on each.

A graph is laid out as for `_graph`. Beside its n rows there are R roots, each of which refers to
rows, G groups of roots and one super-root above them all. Nodes are numbered: row i is i, root r is
``n + r``, group g is ``n + R + g``, the super-root ``n + R + G``.
"""

import numpy as np
from numpy.typing import NDArray

def dominators(
    offsets: NDArray[np.int64],
    targets: NDArray[np.uint32],
    root_offsets: NDArray[np.int64],
    root_targets: NDArray[np.uint32],
    group: NDArray[np.uint32],
    *,
    among: NDArray[np.uint8] | None = None,
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Find the immediate dominator of each node: the nearest that every way to it leads through.

    Semidominators as Lengauer and Tarjan find them, with simple path compression; dominators as
    the nearest ancestors of tree parents. It takes no more than some logarithm of the number of
    rows for each reference, whatever the graph looks like, and never recurs. Besides the result
    it needs 40 bytes a row and 4 bytes for each reference to a row that was visited before.

    Parameters
    ----------
    offsets, targets
        The graph, ``(n + 1,)`` and ``(k,)``.
    root_offsets, root_targets
        Rows that each root refers to, ``(R + 1,)`` and ``(l,)``.
    group
        ``(R,)``: the group of each root, from 0 on without gaps.
    among
        ``(n,)``: rows that take part, where not all do.

    Returns
    -------
    idom : ndarray of uint32, shape (n + R + G + 1,)
        A node for each node; 2³² − 1 for those that no root leads to, and for the super-root.
    order : ndarray of uint32
        The nodes that are reached, each after its dominator; the super-root is the first.

    Raises
    ------
    ValueError
        Offsets do not rise, a reference leads out of the graph, or groups are not those of the
        roots.
    """

def nearest(idom: NDArray[np.uint32], marked: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Find the nearest marked dominator of each node; a marked one is its own.

    Parameters
    ----------
    idom
        ``(m,)``: a node for each node, 2³² − 1 where nothing is above.
    marked
        ``(m,)``: not 0 for those that are looked for.

    Returns
    -------
    ndarray of uint32, shape (m,)
        2³² − 1 where neither a node nor anything above it is marked.

    Raises
    ------
    ValueError
        A node is not in the tree, or is above itself.
    """

def add_up(
    idom: NDArray[np.uint32], order: NDArray[np.uint32], size: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """Add up sizes and counts of rows, each for all nodes above it.

    Parameters
    ----------
    idom, order
        From `dominators`.
    size
        ``(n,)``: bytes of each row.

    Returns
    -------
    nbytes : ndarray of uint64
        For each node the bytes of the rows that it dominates, its own with them.
    objects : ndarray of uint32
        How many rows these are; 0 where no root leads.

    Raises
    ------
    ValueError
        A node is not in the tree.
    """

def spans(
    idom: NDArray[np.uint32], order: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Number the nodes so that whatever is below one has the numbers right behind its own.

    Parameters
    ----------
    idom, order
        From `dominators`.

    Returns
    -------
    first, behind : ndarray of uint32
        For each node its number, and the first one behind those of all that is below it; the same
        where no root leads.

    Raises
    ------
    ValueError
        A node is not in the tree.
    """
