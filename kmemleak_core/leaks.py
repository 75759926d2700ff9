"""Turns a scan's white objects into a LeakTable and groups: who is a head, who is held by whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from .clusters import (
    LeakGraph,
    References,
    cluster_heads,
    leak_graph,
    nearest_heads,
    sole_owner,
)
from .errors import KmemleakError
from .image import MemoryImage
from .objects import ObjectTable
from .provenance import UNKNOWN, Origin, Provenance
from .shapes import classify, coarse, common, merge_varied, pack, shape_text

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
    ]
)

#: Groups beyond this many, the smallest ones, are folded into one: a group is a Python object.
MAX_GROUPS = 4096


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
    def references(self) -> References | None: ...  # noqa: D102


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

    def __repr__(self) -> str:
        kind = "direct" if self.direct else "indirect"
        return f"<Leak {self.address:#x} size {self.size} {kind}>"


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
            ``"allocation"``, ``"address"`` or ``"size"`` (largest first, then by address).
        """
        address = self.array["address"]
        if order == "allocation":
            rows = np.lexsort((address, self.array["order"]))
        elif order == "address":
            rows = np.argsort(address, kind="stable")
        elif order == "size":
            rows = np.lexsort((address, ~self.array["size"]))
        else:
            raise ValueError(f"order is 'allocation', 'address' or 'size', not {order!r}")
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
        try:
            import pandas as pd
        except ImportError:
            raise KmemleakError(
                "to_pandas() needs pandas, which is not installed",
                hint="pip install 'kmemleak-core[pandas]'",
            ) from None
        return pd.DataFrame({name: self.array[name] for name in LEAK_DTYPE.names or ()})

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
                "direct" if leak.direct else "indirect",
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
    objects = result.objects
    array = np.zeros(rows.size, LEAK_DTYPE)
    array["address"] = objects.address[rows]
    array["size"] = objects.size[rows]
    array["count"] = np.asarray(result.count)[rows]
    array["min_count"] = objects.min_count[rows]
    array["group"] = -1
    array["order"] = rows
    if objects.order is not None:
        position = np.empty(len(objects), np.int64)
        position[objects.order] = np.arange(len(objects))
        array["order"] = position[rows]
    if graph is None:
        graph = leak_graph(result.references, rows)
    array["head"] = np.arange(rows.size)
    array["direct"] = True
    if graph.targets.size:
        array["direct"] = cluster_heads(graph, array["order"])
        array["head"] = nearest_heads(graph, np.flatnonzero(array["direct"]), array["order"])
    return LeakTable(array, graph)


def group_leaks(
    leaks: LeakTable,
    image: MemoryImage,
    objects: ObjectTable,
    provenance: Provenance | None = None,
    by: GroupBy = "origin",
) -> tuple[LeakGroup, ...]:
    """Group leaks by origin, size and what their first words hold; fill the ``group`` column.

    Those with the backtrace of an allocation are grouped by it and by what they are, whatever
    their sizes.

    Groups come with the most bytes first: what their direct members and all that only those
    lead to amount to, then what they hold in all.

    Parameters
    ----------
    leaks
        The full table of `build_leaks`.
    image
        Where the contents are.
    objects
        All objects: a word that points into one is told from other pointers.
    provenance
        Where the leaks come from, row by row of the table.
    by
        What the members of a group share: ``"origin"`` is backtrace and kind; leaks of which
        nothing tells of that are grouped by size and shape.
    """
    table = leaks.array
    if not table.size:
        return ()
    codes = classify(image, objects, table["address"], table["size"])
    alike = coarse(codes) if by == "shape" else merge_varied(coarse(codes), table["size"])
    members, starts = _partition(_keys(table, alike, provenance, by), table["order"])
    sizes = table["size"]
    total = np.add.reduceat(sizes[members], starts)
    folded = -1
    if starts.size > MAX_GROUPS:
        # The largest keep their own group; all others become one.
        folded = MAX_GROUPS - 1
        run = np.empty(starts.size, np.int64)
        run[np.argsort(~total, kind="stable")] = np.arange(starts.size)
        key = np.minimum(np.repeat(run, np.diff(np.append(starts, members.size))), folded)
        sorting = np.lexsort((table["order"][members], key))
        members, key = members[sorting], key[sorting]
        starts = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
    n = starts.size
    lengths = np.diff(np.append(starts, members.size))
    group = np.empty(table.size, np.int64)
    group[members] = np.repeat(np.arange(n), lengths)

    direct = table["direct"]
    total = np.add.reduceat(sizes[members], starts)
    direct_count = np.add.reduceat(direct[members].astype(np.int64), starts)
    direct_bytes = np.add.reduceat(np.where(direct, sizes, np.uint64(0))[members], starts)
    graph = leaks.graph or LeakGraph.empty(table.size)
    owner = sole_owner(graph, table["head"], direct, group)
    owned = owner >= 0
    retained_count = np.bincount(owner[owned], minlength=n)
    retained_bytes = np.zeros(n, np.uint64)
    np.add.at(retained_bytes, owner[owned], sizes[owned])

    first = table["address"][members[starts]]
    freed = direct_bytes + retained_bytes
    ranking = np.lexsort((first, ~total, ~freed))
    rank = np.empty(n, np.int64)
    rank[ranking] = np.arange(n)
    table["group"] = rank[group]

    # The first direct member stands for a group, or the first of all.
    position = np.arange(members.size)
    chosen = np.minimum.reduceat(np.where(direct[members], position, members.size), starts)
    example = members[np.where(chosen < members.size, chosen, starts)]
    uniform = np.minimum.reduceat(sizes[members], starts) == np.maximum.reduceat(
        sizes[members], starts
    )
    shapes = common(codes, members, starts)
    origin_of = _origins(provenance, members, starts, by)
    groups = []
    # Numbers of Python's, a column at a time: there can be thousands of groups.
    numbers = np.stack(
        (
            sizes[example],
            lengths,
            total,
            direct_count,
            direct_bytes,
            retained_count,
            retained_bytes,
            table["address"][example],
            starts,
            uniform,
            example,
        ),
        axis=1,
        dtype=np.uint64,
        casting="unsafe",
    )[ranking].tolist()
    for g, words, row in zip(ranking.tolist(), map(bytes, shapes[ranking]), numbers, strict=True):
        size, count, nbytes, direct_n, direct_sum, retained_n, retained_sum, address = row[:8]
        begin, one_size, chosen_row = row[8:]
        groups.append(
            LeakGroup(
                size if one_size and g != folded else None,
                "others" if g == folded else shape_text(words, size, image.word_size),
                count,
                nbytes,
                direct_n,
                direct_sum,
                retained_n,
                retained_sum,
                address,
                members[begin : begin + count],
                UNKNOWN if g == folded else origin_of(g, chosen_row),
            )
        )
    return tuple(groups)


def _keys(
    table: NDArray[Any], codes: NDArray[np.uint8], provenance: Provenance | None, by: GroupBy
) -> list[NDArray[np.uint64]]:
    """Return the columns whose values the members of a group share."""
    size, shape = table["size"], pack(codes)
    if by == "size":
        return [size]
    if by == "shape":
        return [shape]
    keys = [shape, size]
    trace = None if provenance is None or by == "kind" else provenance.trace
    kind = None if provenance is None else provenance.kind
    if trace is not None:
        keys = [np.where(trace >= 0, np.uint64(0), key) for key in keys]
        keys.append(trace.astype(np.uint64))
    if kind is not None:
        if by == "kind":
            keys = [np.where(kind >= 0, np.uint64(0), key) for key in keys]
        elif by == "trace" and trace is not None:
            kind = np.where(trace >= 0, -1, kind)
        elif provenance is not None and provenance.typed:
            keys[0] = np.where(kind >= 0, np.uint64(0), keys[0])
        keys.append(kind.astype(np.uint64))
    return keys


def _partition(
    keys: list[NDArray[np.uint64]], order: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort rows by what makes a group, inside by allocation; return them and each one's start."""
    members = np.lexsort((order, *keys)).astype(np.int64, copy=False)
    new = np.zeros(max(0, members.size - 1), bool)
    for key in keys:
        new |= key[members][1:] != key[members][:-1]
    return members, np.concatenate(([0], np.flatnonzero(new) + 1)).astype(np.int64)


def _origins(
    provenance: Provenance | None,
    members: NDArray[np.int64],
    starts: NDArray[np.int64],
    by: GroupBy,
) -> Callable[[int, int], Origin]:
    """Return what tells the origin of a group by its number and its example's row.

    Kind and backtrace are those of all members, or left out.
    """
    if provenance is None:
        return lambda group, row: UNKNOWN
    if by == "origin":  # which is the same for all members
        return lambda group, row: provenance.origin(row)

    def uniform(column: NDArray[Any] | None) -> list[bool]:
        if column is None:
            return [True] * starts.size
        lowest = np.minimum.reduceat(column[members], starts)
        return list((lowest == np.maximum.reduceat(column[members], starts)).tolist())

    kinds, traces = uniform(provenance.kind), uniform(provenance.trace)

    def origin(group: int, row: int) -> Origin:
        found = provenance.origin(row)
        if kinds[group] and traces[group]:
            return found
        return replace(
            found,
            kind=found.kind if kinds[group] else "",
            frames=found.frames if traces[group] else (),
        )

    return origin
