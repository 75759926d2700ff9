"""Turns a scan into who holds each object, by names that last from run to run.

A name is the variable, where there are symbols; else the place in its file (``.bss of prog+0x40``);
else the stack, the mapping, the registers. Addresses that every run moves are no part of one.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .._graph import flood, subgraph
from .._index import NO_TARGET, ROWS, AddressIndex
from .._scan import scan_words
from ..errors import UsageError
from ..image import MemoryImage
from ..pipeline import Found
from ..roots import RootRange
from ..scan import Colour, ScanResult, scan_plan
from ..symbols.process import ProcessSymbols
from ..who.holders import Names
from ..who.retained import Retained
from .census import Holding

#: Classes of roots, those first whose words are rather an owner's than a passer-by's; the others,
#: stacks and what could not be written to, come last.
_TURNS = (
    frozenset({"data", "modules", "percpu", "tls"}),
    frozenset({"anonymous", "memory", "reserved", "contents", "pages", "phys"}),
)
#: Those whose words are named by symbols.
_NAMED = frozenset({"data", "modules", "percpu", "readonly", "tls"})
#: Bytes of roots that are looked through at a time.
_PIECE = 1 << 26
#: Symbols that are looked up of one range; places without a symbol that have names of their own.
_MOST_SYMBOLS, _MOST_PLACES = 4096, 256

#: Not a place: nothing refers to it from a root.
_NO_PLACE = np.int64(-1)

SEVERAL = "more than one of these together"
REGISTERS = "registers"
THEMSELVES = "objects that are roots themselves"


def name_holders(found: Found, sysroot: Path | None = None) -> tuple[Holding, NDArray[np.int32]]:
    """Tell who holds each object of a scan.

    That is the nearest root by number of references: a variable, if one leads to the object at
    all; else other memory; else a stack or a register, which most likely only pass by.

    Parameters
    ----------
    found
        A scan that kept its references.
    sysroot
        Folder with the process's files, for symbols; None for ``/``.

    Returns
    -------
    holding : Holding
        What is reachable, each object counted once.
    holder : ndarray of int32, shape (n,)
        Index of each object's holder; −1 for what is out of reach or ignored.
    """
    result, objects = found.result, found.result.objects
    gray = result.colour == Colour.GRAY
    # An object that is a root itself, such as a kernel's .data, holds by its words as roots do.
    alone = np.flatnonzero(gray & (objects.min_count == 0))
    ranges, own = _ranges(found, alone)
    place, of_range = _places(found, gray, ranges, own)
    namer = _Namer(found, sysroot)
    number = np.full(len(objects), -1, np.int32)
    turn = np.full(len(objects), len(_TURNS), np.int8)
    for rows, name, part in namer.named(place, of_range, ranges):
        number[rows] = namer.number(name)
        turn[rows] = _turn(part.kind)
    by_itself = alone[number[alone] < 0]
    for row in by_itself[:_MOST_SYMBOLS].tolist():
        number[row] = namer.number(namer.itself(int(objects.address[row])))
    by_itself = by_itself[_MOST_SYMBOLS:]
    if by_itself.size:
        number[by_itself] = namer.number(THEMSELVES)
    targets = result.word_targets[result.word_targets != NO_TARGET] & np.uint32(ROWS)
    by_register = np.unique(targets[gray[targets] & (number[targets] < 0)])
    if by_register.size:
        number[by_register] = namer.number(REGISTERS)
    holder = _spread(result, number, turn)
    if bool((gray & (holder < 0)).any()):
        # What something else than references has made gray: surplus references, known changes.
        holder[gray & (holder < 0)] = namer.number(THEMSELVES)
    holder[~gray] = -1
    return Holding.of(tuple(namer.names), holder, objects.size), holder


def _spread(
    result: ScanResult, number: NDArray[np.int32], turn: NDArray[np.int8]
) -> NDArray[np.int32]:
    """Give what hangs on the objects that roots refer to their numbers, those of one turn first."""
    references = result.references
    if references is None:
        raise UsageError("a scan with little memory keeps no references: holders are not to be had")
    holder = np.full(number.size, -1, np.int32)
    rows: NDArray[np.int64] | None = None
    offsets, targets = references.offsets, references.targets
    for at in range(len(_TURNS) + 1):
        if at:
            rows = np.flatnonzero(holder < 0)
            offsets, targets = subgraph(references.offsets, references.targets, rows)
        own, when = (number, turn) if rows is None else (number[rows], turn[rows])
        starts = np.flatnonzero((own >= 0) & (when == at))
        if not starts.size:
            continue
        nearest = flood(offsets, targets, starts)
        reached = np.flatnonzero(nearest >= 0)
        holder[reached if rows is None else rows[reached]] = own[nearest[reached]]
    return holder


def _turn(kind: str) -> int:
    """Return when a class of roots has its turn."""
    return next((at for at, kinds in enumerate(_TURNS) if kind in kinds), len(_TURNS))


def name_modules(held: Retained, process: str = "") -> Holding:
    """Return what each module retains, by names that last; what several hold together, too.

    Parameters
    ----------
    held
        A scan's dominators.
    process
        The process's id, whose thread is the main one.
    """
    total: dict[str, list[int]] = {}
    for node in held.nodes("module").tolist():
        holder = held.holder(node)
        entry = total.setdefault(lasting(holder.name, process), [0, 0])
        entry[0] += holder.count
        entry[1] += holder.nbytes
    nbytes, count = held.shared
    if count:
        total[SEVERAL] = [count, nbytes]
    return Holding(
        tuple(total),
        np.array([entry[0] for entry in total.values()], np.int64),
        np.array([entry[1] for entry in total.values()], np.uint64),
    )


def lasting(name: str, process: str = "") -> str:
    """Return a root's name without what every run changes: thread ids, addresses, task ids."""
    match = re.fullmatch(r"(unused stack|stack|TLS) of thread (\d+)", name)
    if match:
        return f"{match[1]} of {'the main thread' if match[2] == process else 'other threads'}"
    name = re.sub(r"( at|) 0x[0-9a-f]+$", "", name)
    return re.sub(r"^static per-CPU area \d+$", "static per-CPU areas", name)


def _ranges(found: Found, alone: NDArray[np.int64]) -> tuple[list[RootRange], NDArray[np.int64]]:
    """Return what is scanned unconditionally, owners' memory first; objects' rows, −1 for roots."""
    # A loader maps a file's .bss, as far as it is no part of the data's last page, right behind it.
    ends = {part.end for part in found.roots.ranges if part.kind == "data"}
    kept = [
        (replace(part, kind="data") if part.kind == "anonymous" and part.address in ends else part)
        for part in found.roots.ranges
    ]
    owned = [(part, -1) for part in kept]
    if alone.size:
        start, size, owner, _ = scan_plan(found.result.objects)
        of_alone = alone if owner is None else np.flatnonzero(np.isin(owner, alone))
        owned += [
            (RootRange(int(start[i]), int(size[i]), "data", THEMSELVES), row)
            for i, row in zip(
                of_alone.tolist(),
                (of_alone if owner is None else owner[of_alone]).tolist(),
                strict=True,
            )
        ]
    owned.sort(key=lambda one: _turn(one[0].kind))
    return [part for part, _ in owned], np.array([row for _, row in owned], np.int64)


def _places(
    found: Found, wanted: NDArray[np.bool_], ranges: Sequence[RootRange], own: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Find the first word that refers to each wanted object: its address, and its range; −1."""
    result, options = found.result, found.result.options
    objects, n = result.objects, len(result.objects)
    place, of_range = np.zeros(n, np.uint64), np.full(n, _NO_PLACE, np.int64)
    index = AddressIndex(
        objects.address,
        objects.size,
        objects.flags,
        inclusive_end=options.end_pointers,
        interior=options.interior,
    )
    for start, size, number in _pieces(result.image, ranges):
        places, _, targets, pieces = scan_words(
            result.image.engine,
            index,
            start,
            size,
            own[number],
            step=options.alignment or result.image.word_size,
            mask=options.pointer_mask,
        )
        rows = targets & np.uint32(ROWS)
        new = np.flatnonzero(wanted[rows] & (of_range[rows] == _NO_PLACE))[::-1]
        # Of several words the first is written last.
        place[rows[new]] = places[new]
        of_range[rows[new]] = number[pieces[new]]
    return place, of_range


def _pieces(
    image: MemoryImage, ranges: Sequence[RootRange]
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]]:
    """Cut what the image has of ranges into lists of pieces that are no larger than a bound.

    Then what refers to objects from one list fits into memory, and takes no longer than memory
    that there is.
    """
    segments = image.segments
    starts = [segment.address for segment in segments]
    batch: list[tuple[int, int, int]] = []
    room = _PIECE
    for number, part in enumerate(ranges):
        first = max(0, bisect_right(starts, part.address) - 1)
        for segment in islice(segments, first, bisect_left(starts, part.end)):
            at = max(part.address, segment.address)
            while at < min(part.end, segment.end):
                end = min(part.end, segment.end, (at // _PIECE + 1) * _PIECE)
                if batch and end - at > room:
                    yield _columns(batch)
                    batch, room = [], _PIECE
                batch.append((at, end - at, number))
                room -= end - at
                at = end
    if batch:
        yield _columns(batch)


def _columns(
    batch: list[tuple[int, int, int]],
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.int64]]:
    start, size, number = zip(*batch, strict=True)
    return np.array(start, np.uint64), np.array(size, np.uint64), np.array(number, np.int64)


class _Namer:
    """Gives names to places, and numbers to names."""

    def __init__(self, found: Found, sysroot: Path | None) -> None:
        symbols = ProcessSymbols(found.dump, sysroot) if found.symbols is None else None
        self._names = Names(found, symbols)
        self._process = str(found.dump.process.get("pid", ""))
        self._threads = {f"TLS of thread {t.tid}": t for t in found.dump.threads}
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """Return the number of a name, a new one for a new name."""
        number = self._numbers.setdefault(name, len(self.names))
        if number == len(self.names):
            self.names.append(name)
        return number

    def named(
        self,
        place: NDArray[np.uint64],
        of_range: NDArray[np.int64],
        ranges: Sequence[RootRange],
    ) -> Iterator[tuple[NDArray[np.int64], str, RootRange]]:
        """Yield rows of objects that words of roots refer to, with the name of their place."""
        rows = np.flatnonzero(of_range != _NO_PLACE)
        rows = rows[np.lexsort((place[rows], of_range[rows]))]
        starts = np.flatnonzero(np.diff(of_range[rows], prepend=-1))
        for begin, end in pairwise([*starts.tolist(), rows.size]):
            some = rows[begin:end]
            part = ranges[int(of_range[some[0]])]
            if part.kind in _NAMED:
                for few, name in self._by_symbol(some, place[some], part):
                    yield few, name, part
            else:
                yield some, lasting(part.name or part.kind, self._process), part

    def _by_symbol(
        self, rows: NDArray[np.int64], place: NDArray[np.uint64], part: RootRange
    ) -> Iterator[tuple[NDArray[np.int64], str]]:
        at = looked = 0
        nameless: list[tuple[NDArray[np.int64], int | None]] = []
        while at < rows.size and looked < _MOST_SYMBOLS:
            looked += 1
            name, end = self._symbol(int(place[at]), part)
            until = max(at + 1, int(np.searchsorted(place, np.uint64(min(end, (1 << 64) - 1)))))
            if name:
                yield rows[at:until], name
            else:
                nameless.append((rows[at:until], int(place[at])))
            at = until
        if at < rows.size:
            nameless.append((rows[at:], None))
        apart = len(nameless) <= _MOST_PLACES
        for some, word in nameless:
            yield some, self._place(word if apart else None, part)

    def _symbol(self, address: int, part: RootRange) -> tuple[str, int]:
        """Return the name of the variable at an address, and where it ends."""
        process = self._names.process
        if part.kind == "tls":
            return self._thread_local(address, part), address + 1
        symbol = self._names.symbol(address)
        place = None if process is None else process.place(address)
        where = "" if place is None else f"{place.section or 'data'} of {place.module}"
        if symbol is None:
            return "", address + 1
        # One that has no length ends with the word.
        end = max(symbol.address + symbol.size, address + 1)
        name = f"{symbol.name} [{symbol.module}]" if symbol.module and not where else symbol.name
        return f"{name} in {where}" if where else name, end

    def _thread_local(self, address: int, part: RootRange) -> str:
        """Name the thread-local variable at an address."""
        process, thread = self._names.process, self._threads.get(part.name)
        if thread is None or process is None:
            return ""
        # The variable, whichever of its members the word is.
        name = re.split(r"[+.[]", process.thread_local(thread, address), maxsplit=1)[0]
        return f"{name} in thread-local storage" if name else ""

    def _place(self, address: int | None, part: RootRange) -> str:
        """Name a place that has no symbol; None: all of those in a range."""
        process = self._names.process
        inside = part.address if address is None else address
        place = None if process is None or part.kind == "tls" else process.place(inside)
        if place is None:
            return lasting(part.name or part.kind, self._process)
        if address is None:
            return f"{place.section or 'data'} of {place.module}"
        return place.text

    def itself(self, address: int) -> str:
        """Name an object that is a root itself."""
        symbol = self._names.symbol(address)
        return THEMSELVES if symbol is None or symbol.address != address else symbol.name
