"""Turns a scanned dump and an address into an Explanation: what is there, who still holds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from .._index import ROWS, AddressIndex
from .._scan import scan_words
from ..coverage import Coverage
from ..errors import FaultError, UsageError
from ..graph import POINTERS, Referrer, referrers
from ..pipeline import Found
from ..provenance import UNKNOWN, Origin
from ..scan import Colour, scan_plan
from ..symbols.process import ProcessSymbols
from .holders import Holder, Names
from .keeping import Keeping, Keepings
from .leftovers import leftovers
from .paths import Path as Way
from .paths import find_paths
from .root_parts import images_as_roots

#: What a scan says of an object; ``"ignored"``: it is not looked at.
Verdict = Literal["reachable", "unconditional", "direct", "indirect", "ignored"]


#: Referring words beyond these are counted, not described.
_MOST_WORDS = 10_000


@dataclass(frozen=True, slots=True)
class Reference:
    """One word of an object that refers to another.

    Parameters
    ----------
    offset
        Of the word in the object.
    target
        Address of the other.
    into
        How far behind the other's start it points.
    pointer
        ``"start"``, ``"interior"`` or ``"end"``.
    what
        What the other is.
    """

    offset: int
    target: int
    into: int
    pointer: str
    what: str


@dataclass(frozen=True, slots=True)
class PathStep:
    """One reference of a path: who refers, and to the object at which address."""

    holder: Holder
    target: int


@dataclass(frozen=True, slots=True)
class Route:
    """A path, its words described; fields as of `paths.Path`."""

    origin: str
    start: int
    steps: tuple[PathStep, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """What there is to say of one object.

    Parameters
    ----------
    asked
        The address that was asked for, in the object.
    address, size
        The object.
    what
        Its kind where something tells, else its shape.
    origin
        Who allocated it, where something tells.
    verdict
        What the scan says.
    head
        Address of the head of its cluster, for an indirect leak.
    count, min_count
        References that were counted, and that are wanted.
    content
        Its first bytes.
    holders
        All words that refer to it: registers, roots, objects, and then those that do not count.
    path
        The shortest from a root, or from a leak's head; None where there is none.
    references
        What it refers to.
    symbols
        Its words that are addresses of symbols: offset and name.
    keeping
        What alone keeps it, and what it alone keeps; None if that was not asked for, or nothing
        does.
    possible
        Whether it is possibly lost: held, but only by pointers into the middle of objects, or past
        their end.
    coverage
        What was missing or did not fit.
    """

    asked: int
    address: int
    size: int
    what: str
    origin: Origin
    verdict: Verdict
    head: int | None
    count: int
    min_count: int
    content: bytes
    holders: tuple[Holder, ...]
    path: Route | None
    references: tuple[Reference, ...]
    symbols: tuple[tuple[int, str], ...]
    keeping: Keeping | None = None
    possible: bool = False
    coverage: Coverage = field(default_factory=Coverage)

    @property
    def leaked(self) -> bool:
        """Whether nobody can reach it."""
        return self.verdict in ("direct", "indirect")


class Explainer:
    """Answers questions on the objects of one dump.

    Parameters
    ----------
    found
        The dump, scanned with its references kept.
    sysroot
        Folder with the process's files, for symbols; None for ``/``.
    redact
        Whether to say nothing of what memory holds.
    """

    def __init__(self, found: Found, sysroot: Path | None = None, *, redact: bool = False) -> None:
        self.found = found
        is_process = found.symbols is None
        self._process = ProcessSymbols(found.dump, sysroot) if is_process else None
        self.names = Names(found, self._process, redact=redact)
        self._redact = redact
        #: The scan with variables as roots that a kernel's books have as objects.
        self._result = images_as_roots(found.result, found.heap.provenance)
        self._keepings = Keepings(self._result, self.names.what, self.names.symbol)

    def row(self, address: int) -> int:
        """Return the row of the object that holds an address.

        Raises
        ------
        UsageError
            None does; the hint names the nearest.
        """
        objects = self.found.result.objects
        row = objects.find(address)
        if row is not None:
            return row
        hint = ""
        if len(objects):
            after = int(np.searchsorted(objects.address, np.uint64(address), side="right"))
            near = [r for r in (after - 1, after) if 0 <= r < len(objects)]
            spans = [(int(objects.address[r]), int(objects.size[r])) for r in near]
            start, size = min(spans, key=lambda s: _distance(s, address))
            where = (
                f"{start - address:#x} bytes on"
                if start > address
                else f"ends {address - start - size:#x} bytes before it"
            )
            hint = f"{start:#x}: the nearest object, of {size:,} bytes, {where}"
        raise UsageError(f"no allocated object holds {address:#x}", hint=hint)

    def holders(self, address: int) -> tuple[Holder, ...]:
        """Return all words that refer to an object; those that do not count come last."""
        return tuple(self.names.holder(word) for word in self._words(address))

    def _words(self, address: int) -> list[Referrer]:
        row = self.row(address)
        words = referrers(self.found.result, address)
        if self._process is not None:
            words += leftovers(self.found.dump, self.found.heap, self.found.result, row)
        return words

    def paths(self, address: int, limit: int = 1) -> list[Route]:
        """Return the shortest ways to an object; see `paths.find_paths`."""
        self.row(address)
        return [self._route(path) for path in find_paths(self._result, address, limit)]

    def _route(self, path: Way) -> Route:
        steps = tuple(PathStep(self.names.holder(s.word), s.target) for s in path.steps)
        return Route(path.origin, path.start, steps)

    def explain(
        self, address: int, most_content: int = 64, *, retained: bool = True
    ) -> Explanation:
        """Tell what there is to say of the object that holds an address.

        Parameters
        ----------
        address
            Anywhere in it.
        most_content
            Bytes of its content to tell.
        retained
            Whether to find what alone keeps it: that takes all references of the dump into
            account, some microseconds an object.
        """
        row = self.row(address)
        result, heap = self.found.result, self.found.heap
        objects = result.objects
        start, size = int(objects.address[row]), int(objects.size[row])
        verdict, head = self._verdict(row)
        words = self._words(address)
        holders = tuple(self.names.holder(word) for word in words[:_MOST_WORDS])
        routes = self.paths(address)
        content, symbols = (b"", ()) if self._redact else self._content(row, most_content)
        coverage = Coverage()
        coverage.extend(self.found.dump.coverage)
        if self._process is not None:
            coverage.extend(self._process.coverage)
        if len(words) > _MOST_WORDS:
            coverage.add(
                "explain.referrers",
                f"{len(words) - _MOST_WORDS:,} more words refer to it: kmemleak referrers has all",
            )
        return Explanation(
            asked=address,
            address=start,
            size=size,
            what=self.names.what(row),
            origin=UNKNOWN if heap.provenance is None else heap.provenance.origin(row),
            verdict=verdict,
            head=head,
            count=int(result.count[row]),
            min_count=int(objects.min_count[row]),
            content=content,
            holders=holders,
            path=routes[0] if routes else None,
            references=tuple(self._references(row)),
            symbols=symbols,
            keeping=self._keepings.of(row) if retained else None,
            possible=result.possible_rows is not None and row in result.possible_rows,
            coverage=coverage,
        )

    def _content(self, row: int, most: int) -> tuple[bytes, tuple[tuple[int, str], ...]]:
        objects, image = self.found.result.objects, self.found.result.image
        try:
            content = image.upto(int(objects.address[row]), min(int(objects.size[row]), most))
            return content.tobytes(), tuple(self.names.contents(row))
        except FaultError:
            return b"", ()

    def _verdict(self, row: int) -> tuple[Verdict, int | None]:
        result = self.found.result
        colour, wanted = int(result.colour[row]), int(result.objects.min_count[row])
        if colour == Colour.BLACK:
            return "ignored", None
        if colour == Colour.GRAY:
            return ("unconditional" if wanted == 0 else "reachable"), None
        table = result.leaks.array
        at = int(np.searchsorted(table["address"], result.objects.address[row]))
        if table["direct"][at]:
            return "direct", None
        return "indirect", int(table["address"][table["head"][at]])

    def _references(self, row: int, most: int = 10_000) -> list[Reference]:
        result = self.found.result
        objects, options = result.objects, result.options
        start, size, _, first_range = scan_plan(objects)
        low, high = row, row + 1
        if first_range is not None:
            low, high = int(first_range[row]), int(first_range[row + 1])
        index = AddressIndex(
            objects.address,
            objects.size,
            objects.flags,
            inclusive_end=options.end_pointers,
            interior=options.interior,
        )
        places, values, targets, _ = scan_words(
            result.image.engine,
            index,
            start[low:high],
            size[low:high],
            np.full(high - low, -1, np.int64),
            step=options.alignment or result.image.word_size,
            mask=options.pointer_mask,
        )
        base = int(objects.address[row])
        told = []
        for place, value, target in zip(
            places.tolist()[:most], values.tolist(), targets.tolist(), strict=False
        ):
            other = target & ROWS
            if other != row:
                at = int(objects.address[other])
                kind = POINTERS[target >> 30]
                what = self.names.what(other)
                told.append(Reference(place - base, at, value - at, kind, what))
        return told


def _distance(span: tuple[int, int], address: int) -> int:
    start, size = span
    return start - address if start > address else address - start - size
