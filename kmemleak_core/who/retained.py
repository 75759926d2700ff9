"""Turns a scan's result into retained sizes: how much each object, root and module alone holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .._dominators import add_up, dominators, spans
from .._index import NO_TARGET
from ..clusters import cluster_heads, leak_graph
from ..errors import FaultError, UsageError
from ..notebook import SHOWN, html_table
from ..provenance import Provenance
from ..roots import Roots
from ..scan import Colour, References, ScanResult
from ..shared_property import shared_property

#: What can hold memory: an object, a root range or word, all roots of one name, several of these,
#: all objects of one type.
HolderKind = Literal["object", "root", "module", "several", "type"]
#: By what holders are listed.
By = Literal["object", "root", "module", "type"]

#: Returns what objects are, if something tells.
Kinds = Callable[[], Provenance | None]

_NONE = np.uint32(0xFFFFFFFF)
#: Objects that are scanned whether or not anything refers to them.
_THEMSELVES = "objects that are roots themselves"


@dataclass(frozen=True, slots=True)
class Holder:
    """Something that holds memory, and how much of it nothing else holds.

    Parameters
    ----------
    kind
        ``"object"``, ``"root"``, ``"module"``, ``"several"``: no single module, or ``"type"``.
    node
        Its entry in the arrays of a `Retained`; of a type, its index in the kinds of objects.
    name
        ``"object 0x55…"``, ``"stack of thread 7"``, ``"/usr/lib/libfoo.so"``.
    address
        Where it begins; None for a register, a module or several.
    size
        Its own bytes; of a type, those of its objects.
    nbytes, count
        What would go with it: bytes in objects and their number, an object itself with them. Of a
        type: with each of its objects that no other of them holds, added up.
    """

    kind: HolderKind
    node: int
    name: str
    address: int | None
    size: int
    nbytes: int
    count: int


@dataclass(frozen=True, eq=False)
class Retained:
    """What each object, root and module of a scan alone keeps alive.

    Something *dominates* an object if every way to it from a root leads through it; it retains
    the bytes of all that it dominates. Only what is reachable counts: leaks, and what the scan
    ignores, are retained by nobody.

    The arrays have an entry for each *node*: first the objects by row, then root ranges, root
    words and, where some objects are roots themselves, one for these; then the modules; the last
    node stands for all roots together.

    Attributes
    ----------
    result : ScanResult
        The scan.
    modules : tuple of str
        Names of groups of roots: root ranges of one file (with the anonymous memory right behind
        its data: its .bss), of one kernel module, registers, ….
    idom : ndarray of uint32
        The node that dominates each node most closely; 2³² − 1 for what is out of reach.
    nbytes : ndarray of uint64
        Bytes in objects that each node retains, its own with them.
    count : ndarray of uint32
        How many objects these are.
    order : ndarray of uint32
        The nodes that are reachable, each after its dominator.
    kinds : callable
        Returns what the objects are, row by row, or None; asked when types are.
    """

    result: ScanResult
    modules: tuple[str, ...]
    idom: NDArray[np.uint32]
    nbytes: NDArray[np.uint64]
    count: NDArray[np.uint32]
    order: NDArray[np.uint32]
    kinds: Kinds = lambda: None

    @property
    def _objects(self) -> int:
        return len(self.result.objects)

    @property
    def _modules(self) -> int:
        """The first module's node."""
        return self.idom.size - 1 - len(self.modules)

    @shared_property
    def _by_dominator(self) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """All nodes in the order of their dominators, and these."""
        nodes = np.argsort(self.idom, kind="stable")
        return nodes, self.idom[nodes]

    @shared_property
    def _outermost(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Objects of a known type that none of the same type holds, by type; and their types."""
        nothing = np.empty(0, np.int64), np.empty(0, np.int32)
        origins = self.kinds()
        if origins is None or origins.kind is None:
            return nothing
        kind = origins.kind
        rows = np.flatnonzero((kind >= 0) & (self.count[: self._objects] > 0))
        if not rows.size:
            return nothing
        first, behind = (column[rows].astype(np.int64) for column in spans(self.idom, self.order))
        order = np.lexsort((first, kind[rows]))
        rows, first, behind = rows[order], first[order], behind[order]
        # Types one behind the other: a span of one begins behind all spans of those before.
        apart = kind[rows].astype(np.int64) * np.int64(self.idom.size + 1)
        reach = np.maximum.accumulate(behind + apart)
        inner = np.append(False, first[1:] + apart[1:] < reach[:-1])
        return rows[~inner], kind[rows[~inner]]

    @shared_property
    def types(self) -> dict[int, Holder]:
        """What the objects of each type retain, by the type's index in what `kinds` returns."""
        rows, kinds = self._outermost
        origins = self.kinds()
        if origins is None or origins.kind is None:
            return {}
        reachable = (origins.kind >= 0) & (self.count[: self._objects] > 0)
        n = len(origins.kinds)

        def sums(kind: NDArray[np.int32], values: NDArray[Any]) -> list[int]:
            total = np.zeros(n, np.uint64)
            np.add.at(total, kind, values.astype(np.uint64))
            return [int(value) for value in total]

        nbytes, count = sums(kinds, self.nbytes[rows]), sums(kinds, self.count[rows])
        size = sums(origins.kind[reachable], self.result.objects.size[reachable])
        return {
            i: Holder("type", i, name, None, size[i], nbytes[i], count[i])
            for i, name in enumerate(origins.kinds)
            if count[i]
        }

    @property
    def everything(self) -> Holder:
        """All that is reachable."""
        return self.holder(self.idom.size - 1)

    @property
    def shared(self) -> tuple[int, int]:
        """Bytes and number of the objects that no single module holds."""
        modules = slice(self._modules, self.idom.size - 1)
        everything = self.everything
        return (
            everything.nbytes - int(self.nbytes[modules].sum(dtype=np.uint64)),
            everything.count - int(self.count[modules].sum(dtype=np.uint64)),
        )

    def holder(self, node: int) -> Holder:
        """Describe a node."""
        roots, root = self.result.roots, node - self._objects
        kind: HolderKind = "root"
        address, size = None, 0
        if root < 0:
            kind = "object"
            address = int(self.result.objects.address[node])
            size = int(self.result.objects.size[node])
            name = f"object {address:#x}"
        elif node == self.idom.size - 1:
            kind, name = "several", "several roots"
        elif node >= self._modules:
            kind, name = "module", self.modules[node - self._modules]
        elif root < len(roots.ranges):
            part = roots.ranges[root]
            address, size, name = part.address, part.size, part.name or part.kind
        elif root < len(roots.ranges) + len(roots.words):
            word = roots.words[root - len(roots.ranges)]
            name = word.name or word.kind
        else:
            name = _THEMSELVES
        retained = int(self.nbytes[node]), int(self.count[node])
        return Holder(kind, node, name, address, size, *retained)

    def top(self, n: int = 10, by: By = "object") -> list[Holder]:
        """Return those that retain most, the most first; 0 for all.

        Parameters
        ----------
        n
            How many.
        by
            ``"object"``: objects that no other object dominates, so that nothing is told twice;
            ``"root"``: root ranges and words; ``"module"``: groups of roots; ``"type"``: types.

        Raises
        ------
        UsageError
            `by` is something else.
        """
        if by == "type":
            largest = sorted(self.types.values(), key=lambda holder: -holder.nbytes)
            return largest[: n or None]
        return self._largest(self.nodes(by), n)

    def totals(self, by: By = "object") -> tuple[int, int, int]:
        """Return how many holders `top` chooses among, and the objects and bytes of all."""
        if by == "type":
            held = self.types.values()
            return len(held), sum(h.count for h in held), sum(h.nbytes for h in held)
        nodes = self.nodes(by)
        count, nbytes = self.count[nodes], self.nbytes[nodes]
        return nodes.size, int(count.sum(dtype=np.uint64)), int(nbytes.sum(dtype=np.uint64))

    def nodes(self, by: By = "object") -> NDArray[np.int64]:
        """Return the nodes of objects, roots or modules, those that retain nothing left out."""
        objects, modules = self._objects, self._modules
        if by == "object":
            above = self.idom[:objects]
            nodes = np.flatnonzero((above >= objects) & (above != _NONE))
        elif by == "root":
            nodes = np.arange(objects, modules)
        elif by == "module":
            nodes = np.arange(modules, self.idom.size - 1)
        else:
            raise UsageError(f"by 'object', 'root', 'module' or 'type', not {by!r}")
        return nodes[self.count[nodes] > 0]

    def held(self, holder: Holder, n: int = 10) -> list[Holder]:
        """Return what a holder dominates immediately, the most bytes first; 0 for all.

        Of a type: its objects that none of the same type holds.
        """
        if holder.kind == "type":
            rows, kinds = self._outermost
            return self._largest(rows[kinds == holder.node], n)
        nodes, above = self._by_dominator
        first, last = np.searchsorted(above, np.array([holder.node, holder.node + 1], np.uint32))
        below = nodes[first:last]
        return self._largest(below[self.count[below] > 0], n)

    def dominator(self, holder: Holder) -> Holder | None:
        """Return what alone holds a holder most closely; None for what nothing stands above."""
        above = _NONE if holder.kind == "type" else self.idom[holder.node]
        return None if above == _NONE else self.holder(int(above))

    def dominators(self, address: int) -> Iterator[Holder]:
        """Yield the object that holds an address, then what dominates it, up to all roots.

        Raises
        ------
        FaultError
            No tracked object holds the address.
        """
        row = self.result.objects.find(address)
        if row is None:
            raise FaultError(address, f"no tracked object holds {address:#x}")
        above: Holder | None = self.holder(row)
        while above is not None:
            yield above
            above = self.dominator(above)

    def _largest(self, nodes: NDArray[np.int64], n: int) -> list[Holder]:
        if 0 < n < nodes.size:
            # Of equally large ones around the last place, all: sorting chooses the first.
            least = np.partition(self.nbytes[nodes], nodes.size - n)[nodes.size - n]
            nodes = nodes[self.nbytes[nodes] >= least]
        kept = nodes[np.argsort(~self.nbytes[nodes], kind="stable")]
        return [self.holder(node) for node in (kept[:n] if n > 0 else kept).tolist()]

    def __repr__(self) -> str:
        everything = self.everything
        return (
            f"<Retained {everything.count:,} objects, {everything.nbytes:,} bytes"
            f" in {len(self.modules):,} modules>"
        )

    def _repr_html_(self) -> str:
        rows = [(h.name, f"{h.size:,}", f"{h.nbytes:,}", f"{h.count:,}") for h in self.top(SHOWN)]
        return html_table(self, ("holder", "bytes", "retained bytes", "objects"), rows)


def retained(
    result: ScanResult,
    groups: Sequence[str] | None = None,
    kinds: Kinds = lambda: None,
) -> Retained:
    """Find how much each object, root and module alone keeps alive.

    Takes some microseconds an object and less than 100 bytes, beside the reference lists.

    Parameters
    ----------
    result
        A scan that kept its references.
    groups
        The module of each root range and word; None: as `root_groups` has them.
    kinds
        Returns what the objects are, row by row, for sums by type; None if nothing tells.

    Raises
    ------
    UsageError
        It was done with little memory.

    Examples
    --------
    >>> report = km.scan("core")  # doctest: +SKIP
    >>> km.retained(report.result).top(3)  # doctest: +SKIP
    """
    references, objects = result.references, result.objects
    if references is None:
        raise UsageError(
            "a scan with little memory keeps no references: who retains what is not to be had"
        )
    gray = result.colour == Colour.GRAY
    alone = np.flatnonzero(gray & (objects.min_count == 0))
    names = root_groups(result.roots) if groups is None else list(groups)
    idom, order, modules = _dominators(result, references, gray, alone, names)
    # What something else than references has made gray: surplus references, known changes.
    lost = np.flatnonzero(gray & (idom[: len(objects)] == _NONE))
    if lost.size:
        heads = lost[cluster_heads(leak_graph(references, lost), lost)]
        idom, order, modules = _dominators(
            result, references, gray, np.union1d(alone, heads), names
        )
    nbytes, count = add_up(idom, order, objects.size)
    return Retained(result, modules, idom, nbytes, count, order, kinds)


def root_groups(roots: Roots) -> list[str]:
    """Return the module of each root range and word: a file, a kernel module, a stack, ….

    Parameters
    ----------
    roots
        The roots.
    """
    # A loader maps a file's .bss, as far as it is no part of the data's last page, right behind it.
    data = {part.end: part.name for part in roots.ranges if part.kind == "data"}
    names = [
        (data.get(part.address) if part.kind == "anonymous" else None)
        or _module(part.kind, part.name)
        for part in roots.ranges
    ]
    return names + [word.kind for word in roots.words]


def _dominators(
    result: ScanResult,
    references: References,
    gray: NDArray[np.bool_],
    alone: NDArray[np.int64],
    groups: list[str],
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], tuple[str, ...]]:
    """Return dominators and order of the nodes, and the names of the modules."""
    words, names = result.word_targets, list(groups)
    held = words != NO_TARGET
    each = [np.diff(result.root_references.offsets), held.astype(np.int64)]
    targets = [result.root_references.targets, words[held]]
    if alone.size:
        names.append(_THEMSELVES)
        each.append(np.array([alone.size]))
        targets.append(alone.astype(np.uint32))
    modules = {name: number for number, name in enumerate(dict.fromkeys(names))}
    idom, order = dominators(
        references.offsets,
        references.targets,
        np.concatenate(([0], np.cumsum(np.concatenate(each)))),
        np.concatenate(targets),
        np.array([modules[name] for name in names], np.uint32),
        among=gray.view(np.uint8),
    )
    return idom, order, tuple(modules)


def _module(kind: str, name: str) -> str:
    """Return whose a root range is: its file's, its kernel module's, or its own."""
    if kind == "modules":
        return name.rpartition(" of ")[2]
    return re.sub(r" at 0x[0-9a-f]+$", "", name) or kind
