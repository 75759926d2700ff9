"""Turns a scan's result into one with finer roots: variables, one by one, for who holds what."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .._index import ROWS, AddressIndex
from .._scan import scan_words
from ..provenance import Provenance
from ..roots import RootRange, Roots
from ..scan import References, ScanResult
from ..symbols import Symbol

#: Classes of roots that have no variables with names.
_NAMELESS = frozenset(
    ("stacks", "old-stacks", "pages", "contents", "reserved", "phys", "registers")
)
#: Bytes that are passed over where a word is in no variable, and how often in one range.
_GAP, _MOST_GAPS = 4096, 4096


def images_as_roots(result: ScanResult, origins: Provenance | None) -> ScanResult:
    """Return a result in which objects that are the memory of variables are roots.

    What refers to such memory does not keep it, and it is none that would be freed. The objects
    stay in the table, black.

    Parameters
    ----------
    result
        A scan that kept its references.
    origins
        What the objects are, row by row; its `images` are meant.
    """
    references, roots, objects = result.references, result.root_references, result.objects
    if references is None or origins is None or origins.kind is None or not origins.images:
        return result
    rows = np.flatnonzero(np.isin(origins.kind, origins.images) & (objects.size > 0))
    begin, end = references.offsets[rows], references.offsets[rows + 1]
    targets = [references.targets[b:e] for b, e in zip(begin.tolist(), end.tolist(), strict=True)]
    ranges = [
        RootRange(int(objects.address[row]), int(objects.size[row]), "data", origins.kind_of(row))
        for row in rows.tolist()
    ]
    objects = copy.copy(objects)
    objects.min_count = objects.min_count.copy()
    objects.min_count[rows] = -1
    return replace(
        result,
        objects=objects,
        roots=Roots((*result.roots.ranges, *ranges), result.roots.words),
        root_references=References(
            np.concatenate((roots.offsets, roots.offsets[-1] + np.cumsum(end - begin))),
            np.concatenate((roots.targets, *targets)),
        ),
    )


def variables_as_roots(
    result: ScanResult, find: Callable[[int], Symbol | None], groups: Sequence[str]
) -> tuple[ScanResult, list[str]]:
    """Return a result with a root range for each variable that refers to an object.

    Parameters
    ----------
    result
        A scan.
    find
        Returns the variable that an address lies in; None for none.
    groups
        The group of each root range and word.

    Returns
    -------
    ScanResult
        What no variable holds of a range stays with the range.
    list of str
        The groups of its ranges and words.
    """
    old, options = result.root_references, result.options
    ranges = result.roots.ranges
    index = AddressIndex(
        result.objects.address,
        result.objects.size,
        result.objects.flags,
        inclusive_end=options.end_pointers,
        interior=options.interior,
    )
    start, size = result.roots.range_arrays()
    places, _, targets, of_range = scan_words(
        result.image.engine,
        index,
        start,
        size,
        np.full(start.size, -1, np.int64),
        step=options.alignment or result.image.word_size,
        mask=options.pointer_mask,
    )
    bounds = np.searchsorted(of_range, np.arange(start.size + 1)).tolist()
    made: list[RootRange] = []
    of_made: list[str] = []
    lists: list[NDArray[np.uint32]] = []
    for i, whole in enumerate(ranges):
        own = old.targets[old.offsets[i] : old.offsets[i + 1]]
        at, to = places[bounds[i] : bounds[i + 1]], targets[bounds[i] : bounds[i + 1]]
        row = result.objects.find(whole.address)
        if row is not None:
            # It was an object itself, whose references to itself do not count.
            other = to & np.uint32(ROWS) != row
            at, to = at[other], to[other]
        rest = np.ones(own.size, bool)
        # Of one with scan areas not all words count: it stays whole.
        if whole.kind not in _NAMELESS and np.array_equal(to, own):
            for symbol, first, last in _variables(at, find):
                made.append(_part(whole, symbol))
                of_made.append(groups[i])
                lists.append(own[first:last])
                rest[first:last] = False
        made.append(whole)
        of_made.append(groups[i])
        lists.append(own[rest])
    offsets = np.concatenate(([0], np.cumsum([len(part) for part in lists], dtype=np.int64)))
    return (
        replace(
            result,
            roots=Roots(made, result.roots.words),
            root_references=References(
                offsets, np.concatenate(lists) if lists else np.empty(0, np.uint32)
            ),
        ),
        [*of_made, *groups[len(ranges) :]],
    )


def _part(whole: RootRange, symbol: Symbol) -> RootRange:
    """Return the part of a range that is a variable's."""
    begin = max(symbol.address, whole.address)
    end = min(max(symbol.address + symbol.size, begin + 1), whole.end)
    module = f" of {symbol.module}" if symbol.module else ""
    return RootRange(begin, end - begin, whole.kind, f"{symbol.name}{module}")


def _variables(
    places: NDArray[np.uint64], find: Callable[[int], Symbol | None]
) -> Iterator[tuple[Symbol, int, int]]:
    """Yield each variable among rising places, and which of the places are in it."""
    at, gaps = 0, 0
    while at < places.size and gaps < _MOST_GAPS:
        place = int(places[at])
        symbol = find(place)
        end = place + 1 if symbol is None else symbol.address + symbol.size
        if symbol is None:
            gaps += 1
            end = place - place % _GAP + _GAP
        last = int(np.searchsorted(places, np.uint64(min(max(end, place + 1), (1 << 64) - 1))))
        last = max(last, at + 1)
        if symbol is not None:
            yield symbol, at, last
        at = last
