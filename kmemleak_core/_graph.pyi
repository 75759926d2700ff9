"""Reference of the graph walks: parts, strong components and floods of a reference graph.

A graph of n rows is ``offsets``, ``(n + 1,)`` ``int64``, and ``targets``, ``uint32``: row i refers
to ``targets[offsets[i]:offsets[i + 1]]``, whose low 30 bits are rows. References to the row itself
and the same one many times do no harm. Each function reads it once, checks that nothing leads out
of it first, and takes time in proportion to rows and references, whatever the graph looks like.

Raises ``ValueError`` where offsets do not rise, or a row is not in the graph.
"""

import numpy as np
from numpy.typing import NDArray

def subgraph(
    offsets: NDArray[np.int64],
    targets: NDArray[np.uint32],
    rows: NDArray[np.int64],
    starts_only: bool = False,
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Cut some rows and their references to each other out of a graph.

    Parameters
    ----------
    offsets, targets
        The graph.
    rows
        ``(m,)``, rising: ``rows[i]`` becomes row i.
    starts_only
        Leave out references of any kind but 0.

    Returns
    -------
    offsets : ndarray of int64, shape (m + 1,)
        The part's.
    targets : ndarray of uint32
        Rows of the part, without kinds.
    """

def holders(
    offsets: NDArray[np.int64],
    targets: NDArray[np.uint32],
    wanted: NDArray[np.int64],
    kind: int,
) -> NDArray[np.int64]:
    """Find the rows that refer to one that is wanted.

    Parameters
    ----------
    offsets, targets
        The graph; its rows need not be what its references lead to.
    wanted
        ``(k,)``, rising: the rows that are.
    kind
        Which references are looked at: the top two bits of their targets.

    Returns
    -------
    ndarray of int64
        Rising.
    """

def reverse(
    offsets: NDArray[np.int64], targets: NDArray[np.uint32]
) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Turn references around.

    Returns
    -------
    offsets : ndarray of int64, shape (n + 1,)
        References to row i are entries ``offsets[i]:offsets[i + 1]``.
    sources : ndarray of uint32
        The rows that they come from, rising, each with the kind of its target.
    """

def strong_components(
    offsets: NDArray[np.int64], targets: NDArray[np.uint32]
) -> tuple[NDArray[np.uint32], int]:
    """Find the strong components: rows that lead to each other.

    Besides the result it needs 12 bytes a row, most of them touched on long paths only.

    Returns
    -------
    label : ndarray of uint32, shape (n,)
        The component of each row. A component's number is greater than those of all other
        components that it leads to.
    count : int
        How many components there are.
    """

def flood(
    offsets: NDArray[np.int64], targets: NDArray[np.uint32], starts: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Search breadth-first from many rows at once.

    Parameters
    ----------
    offsets, targets
        The graph.
    starts
        ``(s,)`` rows; among equally near ones the first wins.

    Returns
    -------
    ndarray of int32, shape (n,)
        The start that each row is reached from by the fewest references; −1 for none.
    """

def unfold(
    offsets: NDArray[np.int64],
    targets: NDArray[np.uint32],
    starts: NDArray[np.int64],
    group: NDArray[np.int64],
    counted: NDArray[np.uint8],
    groups: int,
    capacity: int,
    deepest: int,
) -> tuple[NDArray[np.int32], NDArray[np.uint8], NDArray[np.int32], NDArray[np.int32]]:
    """Fold what starts lead to into trees, one below each group of starts.

    A node stands for all rows of one group on which the rows of the node above it lead by the
    fewest references. A row that a row of its own group leads to, be it over others, belongs to
    that one's node: a list of any length is one node.

    Parameters
    ----------
    offsets, targets
        The graph.
    starts
        ``(s,)`` rows; among equally near ones the first wins.
    group
        ``(n,)``: the group of each row.
    counted
        ``(n,)``: 0 for rows that, with all that these lead to, belong to no tree.
    groups
        How many groups there are.
    capacity, deepest
        How many nodes there may be, and how many below each other.

    Returns
    -------
    node : ndarray of int32, shape (n,)
        The node of each row; −1 for none.
    rest : ndarray of uint8, shape (n,)
        1 for rows for which there was no node: they lie somewhere below theirs.
    parent, of : ndarray of int32, shape (k,)
        The node above each and its group. The first nodes are the groups of starts; what is above
        a node comes before it.
    """

def search(
    offsets: NDArray[np.int64],
    targets: NDArray[np.uint32],
    start: int,
    barred: NDArray[np.uint8],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Search breadth-first from one row, and keep the tree of shortest ways.

    Parameters
    ----------
    offsets, targets
        The graph.
    start
        The row.
    barred
        ``(n,)``: rows that are not 0 here are not entered.

    Returns
    -------
    before : ndarray of int32, shape (n,)
        The row before each on a shortest way to it; −1 for the start, and for what is not reached.
    depth : ndarray of int32, shape (n,)
        How many references away each is; −1 where it is not reached.
    """
