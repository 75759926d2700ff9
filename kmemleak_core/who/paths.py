"""Turns a scan's references into the shortest ways from roots, or from a leak's head, to an object.

A way is found backwards, over the reverse lists: one search from the object gives the nearest of
all roots at once. Leaks are no part of a way from a root, nor others of a way among leaks.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .._graph import search
from .._index import NO_TARGET, ROWS, AddressIndex
from .._scan import scan_words
from ..errors import FaultError, UsageError
from ..graph import POINTERS, Referrer
from ..scan import Colour, ScanResult, scan_plan

#: What a path begins at: a root; an object that is never a leak; the head of a leaked cluster.
Origin = Literal["root", "unconditional", "leak"]

#: Which root is told where several are as near: what a program means to keep comes first.
_RANK = {"tls": 1, "stacks": 3, "registers": 4, "pages": 4, "old-stacks": 5, "readonly": 6}
_USUAL_RANK, _LAST = {"data": 0, "modules": 0, "percpu": 0}, 7


@dataclass(frozen=True, slots=True)
class Step:
    """One reference of a path.

    Parameters
    ----------
    word
        The referring word, in a root or in the object before.
    target
        Address of the object that it leads to.
    """

    word: Referrer
    target: int


@dataclass(frozen=True, slots=True)
class Path:
    """A way to an object, as short as any.

    Parameters
    ----------
    origin
        What it begins at.
    start
        Address of the first object on it.
    steps
        From the root (or from the first object, where no root leads to it) to the object.
    """

    origin: Origin
    start: int
    steps: tuple[Step, ...]


def find_paths(result: ScanResult, address: int, limit: int = 1) -> list[Path]:
    """Find the shortest ways to an object: of one that is held, from roots; of a leak, from heads.

    Parameters
    ----------
    result
        A scan that kept its references.
    address
        Anywhere in the object.
    limit
        How many ways at most, each beginning at another object; 0 for all.

    Returns
    -------
    list of Path
        The shortest first. Empty for a leak that nothing leads to.

    Raises
    ------
    FaultError
        No tracked object holds the address.
    UsageError
        The scan kept no references.
    """
    row = result.objects.find(address)
    if row is None:
        raise FaultError(address, f"no tracked object holds {address:#x}")
    if result.references is None:
        raise UsageError("a scan with little memory keeps no references: there are no paths")
    leaked = int(result.colour[row]) == Colour.WHITE
    reverse = result.references.reverse()
    barred = (result.white != leaked).astype(np.uint8)
    before, depth = search(reverse.offsets, reverse.targets, row, barred)
    if leaked:
        heads = result.leaks.array["address"][result.leaks.array["direct"]]
        starts = np.searchsorted(result.objects.address, heads).astype(np.int64)
        starts = starts[(depth[starts] > 0) & (starts != row)]
        rank = np.zeros(starts.size, np.int64)
    else:
        ranks = _ranks(result)
        starts = np.flatnonzero((depth >= 0) & (ranks <= _LAST))
        rank = ranks[starts]
    starts = starts[np.lexsort((starts, rank, depth[starts]))]
    index = _index(result)
    paths = []
    for start in starts[: limit or None].tolist():
        rows = [start]
        while rows[-1] != row:
            rows.append(int(before[rows[-1]]))
        paths.append(_path(result, index, rows, leaked))
    return paths


def _ranks(result: ScanResult) -> NDArray[np.int64]:
    """Return how good a root holds each object, ``(n,)``; more than `_LAST` where none does."""
    ranks = np.full(len(result.objects), _LAST + 1, np.int64)
    ranks[result.objects.min_count == 0] = _LAST
    roots = result.roots
    of_range = np.array([_rank(r.kind) for r in roots.ranges], np.int64)
    of_word = np.array([_rank(w.kind) for w in roots.words], np.int64)
    held = result.word_targets != NO_TARGET
    np.minimum.at(ranks, result.word_targets[held] & np.uint32(ROWS), of_word[held])
    per_range = np.diff(result.root_references.offsets)
    targets = result.root_references.targets & np.uint32(ROWS)
    np.minimum.at(ranks, targets, np.repeat(of_range, per_range))
    return ranks


def _rank(kind: str) -> int:
    return _RANK.get(kind, _USUAL_RANK.get(kind, 2))


def _index(result: ScanResult) -> AddressIndex:
    objects, options = result.objects, result.options
    return AddressIndex(
        objects.address,
        objects.size,
        objects.flags,
        inclusive_end=options.end_pointers,
        interior=options.interior,
    )


def _path(result: ScanResult, index: AddressIndex, rows: list[int], leaked: bool) -> Path:
    address = result.objects.address
    root = None if leaked else _root_word(result, index, rows[0])
    steps = [] if root is None else [Step(root, int(address[rows[0]]))]
    words = _words_between(result, index, rows, live=not leaked)
    steps += [Step(words[pair], int(address[pair[1]])) for pair in itertools.pairwise(rows)]
    origin: Origin = "leak" if leaked else "unconditional" if root is None else "root"
    return Path(origin, int(address[rows[0]]), tuple(steps))


def _root_word(result: ScanResult, index: AddressIndex, row: int) -> Referrer | None:
    """Return the word of the best root that holds an object; None where only its colour does."""
    roots, mask = result.roots, result.options.pointer_mask
    words = np.flatnonzero(
        (result.word_targets != NO_TARGET) & (result.word_targets & np.uint32(ROWS) == row)
    ).tolist()
    hits = np.flatnonzero(result.root_references.targets & np.uint32(ROWS) == row)
    ranges = np.unique(np.searchsorted(result.root_references.offsets, hits, side="right") - 1)
    best = min(
        [(_rank(roots.ranges[i].kind), 0, i) for i in ranges.tolist()]
        + [(_rank(roots.words[i].kind), 1, i) for i in words],
        default=None,
    )
    if best is None:
        return None
    _, is_word, i = best
    if is_word:
        word = roots.words[i]
        pointer = POINTERS[int(result.word_targets[i]) >> 30]
        return Referrer(None, word.value & mask, pointer, word.kind, word.name, True)
    root = roots.ranges[i]
    places, values, targets, _ = _scan(
        result, index, np.array([root.address], np.uint64), np.array([root.size], np.uint64)
    )
    # On a stack the outermost function that has it: what it called has copies.
    hits = np.flatnonzero(targets & np.uint32(ROWS) == row)
    k = int(hits[-1 if root.kind == "stacks" else 0])
    place, pointer = int(places[k]), POINTERS[int(targets[k]) >> 30]
    name = f"{root.name or root.kind}+{place - root.address:#x}"
    return Referrer(place, int(values[k]), pointer, root.kind, name, True)


def _words_between(
    result: ScanResult, index: AddressIndex, rows: list[int], *, live: bool
) -> dict[tuple[int, int], Referrer]:
    """Return the first word of each object on a path that leads to the next."""
    start, size, owner, first_range = scan_plan(result.objects)
    sources = np.array(rows[:-1], np.int64)
    ranges = sources
    if first_range is not None:
        many = first_range[sources + 1] - first_range[sources]
        ranges = np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)
        ranges += np.repeat(first_range[sources], many)
    columns = _scan(result, index, start[ranges], size[ranges])
    following = dict(itertools.pairwise(rows))
    found: dict[tuple[int, int], Referrer] = {}
    for place, value, target, i in zip(*(c.tolist() for c in columns), strict=True):
        r = int(ranges[i])
        source = r if owner is None else int(owner[r])
        pair = source, target & ROWS
        if following[source] == pair[1] and pair not in found:
            base = int(result.objects.address[source])
            name = f"object {base:#x}+{place - base:#x}"
            found[pair] = Referrer(place, value, POINTERS[target >> 30], "object", name, live, base)
    return found


def _scan(
    result: ScanResult, index: AddressIndex, start: NDArray[np.uint64], size: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint32], NDArray[np.uint32]]:
    step = result.options.alignment or result.image.word_size
    nobody = np.full(start.size, -1, np.int64)
    mask = result.options.pointer_mask
    return scan_words(result.image.engine, index, start, size, nobody, step=step, mask=mask)
