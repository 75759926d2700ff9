"""Turns the white objects of a scan into a LeakTable: who is a head, who is held by whom."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from .clusters import (
    LeakGraph,
    References,
    cluster_heads,
    leak_graph,
    nearest_heads,
)
from .objects import ObjectTable
from .provenance import UNKNOWN, Origin

#: One row of a leak table; every column is described in `LeakTable`.
LEAK_DTYPE = np.dtype(
    [
        ("address", np.uint64),
        ("size", np.uint64),
        ("count", np.int32),
        ("min_count", np.int32),
        ("direct", np.bool_),
        ("head", np.int64),
        ("group", np.int32),
        ("order", np.int64),
        ("loss", np.uint8),
        ("held", np.uint8),
    ]
)
#: Bits of the ``held`` column.
START, INTERIOR, END = 1, 2, 4


class Loss(IntEnum):
    """Memcheck's kinds of an object: how surely it is lost."""

    #: Nothing reachable refers to it, and no other lost object does: a head.
    DEFINITE = 0
    #: Only lost objects refer to it.
    INDIRECT = 1
    #: Every chain of references to it has a pointer into the middle of an object, or past its end.
    POSSIBLE = 2
    REACHABLE = 3


#: What the members of a group share.
GroupBy = Literal["origin", "trace", "kind", "size", "shape"]


class Scanned(Protocol):
    """What this module wants to know of a scan's result."""

    @property
    def objects(self) -> ObjectTable: ...  # noqa: D102
    @property
    def white(self) -> NDArray[np.bool_]: ...  # noqa: D102
    @property
    def count(self) -> NDArray[Any]: ...  # noqa: D102
    @property
    def held(self) -> NDArray[np.uint8]: ...  # noqa: D102
    @property
    def references(self) -> References | None: ...  # noqa: D102
    @property
    def possible_rows(self) -> NDArray[np.int64] | None: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Leak:
    """One row of a `LeakTable`; the fields are its columns."""

    address: int
    size: int
    count: int
    min_count: int
    direct: bool
    head: int
    group: int
    order: int
    loss: int
    held: int

    @property
    def word(self) -> str:
        """What it is called in tables: ``"direct"``, ``"indirect"`` or ``"possible"``."""
        if self.loss == Loss.POSSIBLE:
            return "possible"
        return "direct" if self.direct else "indirect"

    def __repr__(self) -> str:
        return f"<Leak {self.address:#x} size {self.size} {self.word}>"


class LeakTable:
    """Leaked objects as one structured array.

    The rows stand in address order where `build_leaks` made the table. ``table["address"]`` is
    a column; a slice, an index array or a boolean mask gives a smaller table; iteration gives
    `Leak` values.

    Columns
    -------
    address, size : uint64
        Where the object starts, its length in bytes.
    count, min_count : int32
        References found and wanted.
    direct : bool
        Whether it heads a leaked cluster; otherwise only other leaks hold it.
    head : int64
        Row, in the full table, of the cluster head that holds it (its own row for a head).
    group : int32
        Index of its `LeakGroup`; −1 before `group_leaks`.
    order : int64
        Position in the order of allocation.
    loss : uint8
        `Loss`: how surely it is lost. In the table of possibly lost objects it is one value, and
        ``direct`` and ``head`` tell who holds whom among these.
    held : uint8
        Kinds of pointer in reachable memory that lead to it: 1 to its start, 2 into its middle,
        4 one past its end.

    Attributes
    ----------
    array : ndarray
        The structured array, of `LEAK_DTYPE`.
    graph : LeakGraph or None
        References between the leaks; only the full table has it.
    """

    __slots__ = ("array", "graph")

    def __init__(self, array: NDArray[Any], graph: LeakGraph | None = None) -> None:
        if array.dtype != LEAK_DTYPE or array.ndim != 1:
            raise ValueError(f"a leak table has one dimension of LEAK_DTYPE, not {array.dtype}")
        self.array = array
        self.graph = graph

    @classmethod
    def empty(cls) -> LeakTable:
        """Return a table without rows."""
        return cls(np.empty(0, LEAK_DTYPE))

    @overload
    def __getitem__(self, key: str) -> NDArray[Any]: ...
    @overload
    def __getitem__(self, key: int | np.integer[Any]) -> Leak: ...
    @overload
    def __getitem__(self, key: slice | NDArray[Any]) -> LeakTable: ...
    def __getitem__(
        self, key: str | int | np.integer[Any] | slice | NDArray[Any]
    ) -> NDArray[Any] | Leak | LeakTable:
        if isinstance(key, str):
            try:
                return self.array[key]
            except ValueError:
                names = ", ".join(LEAK_DTYPE.names or ())
                raise KeyError(f"no column {key!r}; the columns are {names}") from None
        if isinstance(key, int | np.integer):
            return Leak(*self.array[key].item())
        return LeakTable(self.array[key])

    def __iter__(self) -> Iterator[Leak]:
        for start in range(0, len(self), 4096):
            for row in self.array[start : start + 4096].tolist():
                yield Leak(*row)

    def __len__(self) -> int:
        return int(self.array.size)

    @property
    def nbytes(self) -> int:
        """Bytes in all leaked objects together."""
        return int(self.array["size"].sum(dtype=np.uint64))

    def rows_by(self, order: str) -> NDArray[np.int64]:
        """Return row numbers in a stable order.

        Parameters
        ----------
        order
            ``"allocation"``, ``"address"``, ``"size"`` (largest first, then by address) or, of a
            full table, ``"cluster"``: each head, then what it leads to, in the order of allocation.
        """
        address = self.array["address"]
        if order == "allocation":
            rows = np.lexsort((address, self.array["order"]))
        elif order == "address":
            rows = np.argsort(address, kind="stable")
        elif order == "size":
            rows = np.lexsort((address, ~self.array["size"]))
        elif order == "cluster":
            allocated = self.array["order"]
            heads = allocated[self.array["head"]]
            rows = np.lexsort((allocated, ~self.array["direct"], heads))
        else:
            names = "'allocation', 'address', 'size' or 'cluster'"
            raise ValueError(f"order is {names}, not {order!r}")
        return rows.astype(np.int64, copy=False)

    def to_numpy(self) -> NDArray[Any]:
        """Return the structured array itself, not a copy."""
        return self.array

    def to_pandas(self) -> Any:
        """Return a ``pandas.DataFrame`` with one row a leak.

        Raises
        ------
        KmemleakError
            pandas is not installed.
        """
        from .notebook import data_frame

        return data_frame({name: self.array[name] for name in LEAK_DTYPE.names or ()})

    def to_arrow(self) -> Any:
        """Return a ``pyarrow.Table`` with one row a leak.

        Raises
        ------
        KmemleakError
            pyarrow is not installed.
        """
        from .report.arrow import from_numpy

        return from_numpy({name: self.array[name] for name in LEAK_DTYPE.names or ()})

    def __repr__(self) -> str:
        direct = int(np.count_nonzero(self.array["direct"]))
        return f"<LeakTable {len(self):,} objects, {self.nbytes:,} bytes, {direct:,} direct>"

    def _repr_html_(self) -> str:
        from .notebook import SHOWN, html_table

        rows = [
            (
                f"{leak.address:#x}",
                f"{leak.size:,}",
                leak.word,
                f"{leak.count}/{leak.min_count}",
                str(leak.group),
            )
            for leak in self[:SHOWN]
        ]
        more = f"{len(self) - SHOWN:,} more" if len(self) > SHOWN else ""
        return html_table(self, ("address", "size", "kind", "references", "group"), rows, more)


@dataclass(frozen=True, slots=True, eq=False)
class LeakGroup:
    """Leaks of one origin; without one, of one size and with contents that look alike.

    Parameters
    ----------
    size
        Bytes of each object; None where they differ, as in the one group that folds the smallest
        groups together.
    shape
        What the first words hold, as `shapes.shape_text` writes it.
    count, nbytes
        Objects and bytes in the group.
    direct_count, direct_bytes
        Those of them that head a leaked cluster.
    retained_count, retained_bytes
        Indirectly leaked objects that nothing but direct leaks of this group leads to.
    example
        Address of one member: the first allocated, a direct one if there is any.
    rows
        Rows of the leak table, ``(count,)`` ``int64``, in the order of allocation.
    origin
        Where the example comes from: kind and backtrace are those of the whole group.
    """

    size: int | None
    shape: str
    count: int
    nbytes: int
    direct_count: int
    direct_bytes: int
    retained_count: int
    retained_bytes: int
    example: int
    rows: NDArray[np.int64] = field(repr=False)
    origin: Origin = UNKNOWN

    @property
    def indirect_count(self) -> int:
        """Members that only other leaks hold."""
        return self.count - self.direct_count

    @property
    def indirect_bytes(self) -> int:
        """Bytes of the members that only other leaks hold."""
        return self.nbytes - self.direct_bytes


def build_leaks(result: Scanned, graph: LeakGraph | None = None) -> LeakTable:
    """Turn the white objects of a scan into a table, and find the heads among them.

    Strongly connected components of the graph of leaks: each component that no other leak
    refers to has one head, the member that most references enter (the first allocated among
    equals); everything else is indirect. ``head`` is the nearest one by number of references.

    Parameters
    ----------
    result
        A scan's result.
    graph
        References between the leaks; None: they are cut out of the result's. Where it has none
        either, every leak is direct.
    """
    rows = np.flatnonzero(result.white)
    leaks = _table(result, rows, graph or leak_graph(result.references, rows))
    leaks.array["loss"] = np.where(leaks.array["direct"], Loss.DEFINITE, Loss.INDIRECT)
    return leaks


def build_possible(result: Scanned, graph: LeakGraph | None = None) -> LeakTable:
    """Turn the possibly lost objects of a scan into a table; as `build_leaks`.

    A head of these is what no other possibly lost object refers to; of a cycle, a member that a
    pointer into its middle, or past its end, leads to.
    """
    rows = np.empty(0, np.int64) if result.possible_rows is None else result.possible_rows
    entered = result.held[rows] & np.uint8(INTERIOR | END) != 0
    leaks = _table(result, rows, graph or leak_graph(result.references, rows), entered)
    leaks.array["loss"] = Loss.POSSIBLE
    return leaks


def _table(
    result: Scanned,
    rows: NDArray[np.int64],
    graph: LeakGraph,
    rank: NDArray[np.bool_] | None = None,
) -> LeakTable:
    """Make the table of some rows; `rank` as `cluster_heads` takes it."""
    objects = result.objects
    array = np.zeros(rows.size, LEAK_DTYPE)
    array["address"] = objects.address[rows]
    array["size"] = objects.size[rows]
    array["count"] = np.asarray(result.count)[rows]
    array["min_count"] = objects.min_count[rows]
    array["held"] = result.held[rows]
    array["group"] = -1
    array["order"] = rows
    if objects.order is not None:
        position = np.empty(len(objects), np.int64)
        position[objects.order] = np.arange(len(objects))
        array["order"] = position[rows]
    array["head"] = np.arange(rows.size)
    array["direct"] = True
    if graph.targets.size:
        array["direct"] = cluster_heads(graph, array["order"], rank)
        array["head"] = nearest_heads(graph, np.flatnonzero(array["direct"]), array["order"])
    return LeakTable(array, graph)
