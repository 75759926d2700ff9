"""Turns a scan and one of its objects into what alone leads to it, and what would go with it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .._dominators import add_up, dominators
from ..scan import Colour, ScanResult
from ..shared_property import shared_property
from ..symbols import Symbol
from .retained import Retained, retained, root_groups
from .root_parts import variables_as_roots

#: What everything on the way to an object leads through; ``"module"``: all roots of one name.
KeeperKind = Literal["object", "root", "module"]

#: Keepers beyond these are counted, not listed: a list can be as long as memory is large.
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Keeper:
    """Something that every way to an object leads through.

    Parameters
    ----------
    kind
        ``"object"``, ``"root"`` (a range or register) or ``"module"``.
    name
        As of `retained.Holder`.
    address
        Where it begins; None for a register or a module.
    what
        What the object is; empty for others.
    size
        Its own bytes.
    nbytes, count
        What it retains: bytes in objects and their number, an object itself with them.
    """

    kind: KeeperKind
    name: str
    address: int | None
    what: str
    size: int
    nbytes: int
    count: int


@dataclass(frozen=True, slots=True)
class Keeping:
    """What alone keeps an object, and what the object alone keeps.

    Parameters
    ----------
    nbytes, count
        What it retains, itself with it: of an object that is held, what would be freed with it;
        of a leak, the leaks that nothing else leads to.
    keepers
        What every way to it leads through, the nearest first: from roots, or among leaks from
        heads of clusters. Empty where several ways have nothing in common, or for a head.
    left_out
        Keepers that are not listed.
    """

    nbytes: int
    count: int
    keepers: tuple[Keeper, ...] = ()
    left_out: int = 0


class Keepings:
    """Tells of each object of a scan what keeps it; the trees are made once, when first wanted.

    Parameters
    ----------
    result
        A scan that kept its references.
    what
        Writes what the object of a row is.
    variable_at
        Returns the variable that an address lies in, None for none.
    """

    def __init__(
        self,
        result: ScanResult,
        what: Callable[[int], str] = lambda row: "",
        variable_at: Callable[[int], Symbol | None] = lambda address: None,
    ) -> None:
        self.result = result
        self._what = what
        self._variable_at = variable_at

    def of(self, row: int) -> Keeping | None:
        """Return what keeps an object; None where nothing does: it is not looked at.

        Raises
        ------
        UsageError
            The scan was done with little memory.
        """
        colour = int(self.result.colour[row])
        if colour == Colour.BLACK:
            return None
        if colour == Colour.WHITE:
            address = self.result.leaks.array["address"]
            leak = int(np.searchsorted(address, self.result.objects.address[row]))
            return _bounded(self._leaks.chain(leak))
        return _bounded(self._held(row))

    @shared_property
    def _retained(self) -> Retained:
        groups = root_groups(self.result.roots)
        return retained(*variables_as_roots(self.result, self._variable_at, groups))

    @shared_property
    def _leaks(self) -> _AmongLeaks:
        return _AmongLeaks(self.result, self._what)

    def _held(self, row: int) -> Iterator[Keeper]:
        for holder in self._retained.dominators(int(self.result.objects.address[row])):
            kind = holder.kind
            if kind in ("object", "root", "module"):
                yield Keeper(
                    kind,
                    holder.name,
                    holder.address,
                    self._what(holder.node) if holder.kind == "object" else "",
                    holder.size,
                    holder.nbytes,
                    holder.count,
                )


class _AmongLeaks:
    """The dominator tree of the leaks, from the heads of clusters on."""

    def __init__(self, result: ScanResult, what: Callable[[int], str]) -> None:
        leaks = result.leaks
        heads = np.flatnonzero(leaks["direct"]).astype(np.uint32)
        graph = leaks.graph
        assert graph is not None, "a scan's table is full"
        self._result = result
        self._what = what
        self._leaks = leaks
        self._idom, order = dominators(
            graph.offsets,
            graph.targets,
            np.array([0, heads.size], np.int64),
            heads,
            np.zeros(1, np.uint32),
        )
        self._nbytes, self._count = add_up(self._idom, order, np.ascontiguousarray(leaks["size"]))

    def chain(self, leak: int) -> Iterator[Keeper]:
        """Yield a leak, then the leaks that every way from a head to it leads through."""
        objects = self._result.objects
        while leak < len(self._leaks):
            address, size = (int(self._leaks[name][leak]) for name in ("address", "size"))
            yield Keeper(
                "object",
                f"object {address:#x}",
                address,
                self._what(int(np.searchsorted(objects.address, np.uint64(address)))),
                size,
                int(self._nbytes[leak]),
                int(self._count[leak]),
            )
            leak = int(self._idom[leak])


def _bounded(chain: Iterator[Keeper]) -> Keeping:
    """Take an object and its keepers, as many as are listed."""
    itself = next(chain)
    keepers = tuple(itertools.islice(chain, _MOST))
    return Keeping(itself.nbytes, itself.count, keepers, sum(1 for _ in chain))
