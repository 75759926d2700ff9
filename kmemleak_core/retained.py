"""Turns a scan's result into retained sizes: how much each object, root and module alone holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ._dominators import add_up, dominators
from ._index import NO_TARGET
from .clusters import cluster_heads, leak_graph
from .errors import FaultError, UsageError
from .notebook import SHOWN, html_table
from .scan import Colour, References, ScanResult
from .shared_property import shared_property

#: What can hold memory: an object, a root range or word, all roots of one name, several of these.
HolderKind = Literal["object", "root", "module", "several"]

_NONE = np.uint32(0xFFFFFFFF)
#: Objects that are scanned whether or not anything refers to them.
_THEMSELVES = "objects that are roots themselves"


@dataclass(frozen=True, slots=True)
class Holder:
    """Something that holds memory, and how much of it nothing else holds.

    Parameters
    ----------
    kind
        ``"object"``, ``"root"``, ``"module"`` or ``"several"``: no single module.
    node
        Its entry in the arrays of a `Retained`.
    name
        ``"object 0x55…"``, ``"stack of thread 7"``, ``"/usr/lib/libfoo.so"``.
    address
        Where it begins; None for a register, a module or several.
    size
        Its own bytes.
    nbytes, count
        What would go with it: bytes in objects and their number, an object itself with them.
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
    """

    result: ScanResult
    modules: tuple[str, ...]
    idom: NDArray[np.uint32]
    nbytes: NDArray[np.uint64]
    count: NDArray[np.uint32]

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

    def top(self, n: int = 10, by: HolderKind = "object") -> list[Holder]:
        """Return those that retain most, the most first; 0 for all.

        Parameters
        ----------
        n
            How many.
        by
            ``"object"``: objects that no other object dominates, so that nothing is told twice;
            ``"root"``: root ranges and words; ``"module"``: groups of roots.

        Raises
        ------
        UsageError
            `by` is something else.
        """
        return self._largest(self.nodes(by), n)

    def nodes(self, by: HolderKind = "object") -> NDArray[np.int64]:
        """Return the nodes among which `top` chooses, those that retain nothing left out."""
        objects, modules = self._objects, self._modules
        if by == "object":
            above = self.idom[:objects]
            nodes = np.flatnonzero((above >= objects) & (above != _NONE))
        elif by == "root":
            nodes = np.arange(objects, modules)
        elif by == "module":
            nodes = np.arange(modules, self.idom.size - 1)
        else:
            raise UsageError(f"by 'object', 'root' or 'module', not {by!r}")
        return nodes[self.count[nodes] > 0]

    def held(self, holder: Holder, n: int = 10) -> list[Holder]:
        """Return what a holder dominates immediately, the most bytes first; 0 for all."""
        nodes, above = self._by_dominator
        first, last = np.searchsorted(above, np.array([holder.node, holder.node + 1], np.uint32))
        below = nodes[first:last]
        return self._largest(below[self.count[below] > 0], n)

    def dominator(self, holder: Holder) -> Holder | None:
        """Return what alone holds a holder most closely; None for what nothing stands above."""
        above = self.idom[holder.node]
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


def retained(result: ScanResult) -> Retained:
    """Find how much each object, root and module alone keeps alive.

    Takes some microseconds an object and less than 100 bytes, beside the reference lists.

    Parameters
    ----------
    result
        A scan that kept its references.

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
    idom, order, modules = _dominators(result, references, gray, alone)
    # What something else than references has made gray: surplus references, known changes.
    lost = np.flatnonzero(gray & (idom[: len(objects)] == _NONE))
    if lost.size:
        heads = lost[cluster_heads(leak_graph(references, lost), lost)]
        idom, order, modules = _dominators(result, references, gray, np.union1d(alone, heads))
    nbytes, count = add_up(idom, order, objects.size)
    return Retained(result, modules, idom, nbytes, count)


def _dominators(
    result: ScanResult,
    references: References,
    gray: NDArray[np.bool_],
    alone: NDArray[np.int64],
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], tuple[str, ...]]:
    """Return dominators and order of the nodes, and the names of the modules."""
    roots, words = result.roots, result.word_targets
    # A loader maps a file's .bss, as far as it is no part of the data's last page, right behind it.
    data = {part.end: part.name for part in roots.ranges if part.kind == "data"}
    names = [
        (data.get(part.address) if part.kind == "anonymous" else None)
        or _module(part.kind, part.name)
        for part in roots.ranges
    ]
    names += [word.kind for word in roots.words]
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
