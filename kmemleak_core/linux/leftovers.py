"""Turns a scan into one that takes no leftover for a reference: of sheaves, of stacks."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .._index import AddressIndex
from .._scan import extract_references
from ..coverage import Coverage
from ..objects import ObjectFlags, ObjectTable
from ..roots import Roots
from ..scan import References, ScanResult
from .kernel import Kernel


@dataclass(frozen=True, slots=True, eq=False)
class LiveParts:
    """Objects of which only a part means anything; m of them.

    Parameters
    ----------
    rows : ndarray of int64, shape (m,)
        Of the table; each was to be scanned whole.
    start, size : ndarray of uint64, shape (m,)
        The part.
    """

    rows: NDArray[np.int64]
    start: NDArray[np.uint64]
    size: NDArray[np.uint64]


def find_live_parts(
    kernel: Kernel, objects: ObjectTable, roots: Roots, coverage: Coverage
) -> LiveParts:
    """Find the objects that hold leftovers.

    Sheaves (Linux 6.18) are arrays in which the slab allocator keeps free objects at hand. Behind
    the pointers that one holds are those that it held: their objects were allocated again, and
    may be lost by now. Tasks' stacks mostly are vmalloc's objects: where the roots lack the unused
    parts of stacks (``old-stacks``), these parts are leftovers too.
    """
    from ..heaps.slub.sheaves import used_parts

    start, size = used_parts(kernel, coverage)
    first = start
    if "old-stacks" not in roots.kinds:
        stacks = [r for r in roots.ranges if r.kind == "stacks"]
        used = np.array([r.address for r in stacks], np.uint64)
        first = np.concatenate((first, _holders(objects, used)))
        start = np.concatenate((start, used))
        size = np.concatenate((size, np.array([r.size for r in stacks], np.uint64)))
    if not start.size or not len(objects):
        return LiveParts(np.empty(0, np.int64), start[:0], size[:0])
    rows = np.minimum(np.searchsorted(objects.address, first), len(objects) - 1)
    mine = (objects.address[rows] == first) & (start - first <= objects.size[rows])
    mine &= (size < objects.size[rows]) & (size <= objects.size[rows] - (start - first))
    mine &= objects.flags[rows] & ObjectFlags.NO_SCAN == 0
    if objects.area_offsets is not None:
        mine &= objects.area_offsets[rows] == objects.area_offsets[rows + 1]
    return LiveParts(rows[mine].astype(np.int64), start[mine], size[mine])


def _holders(objects: ObjectTable, address: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the start of the object at or before each address."""
    if not len(objects):
        return address
    rows = np.searchsorted(objects.address, address, side="right") - 1
    return objects.address[np.maximum(rows, 0)]


def live_parts(
    kernel: Kernel, objects: ObjectTable, roots: Roots, coverage: Coverage
) -> ObjectTable:
    """Return the objects, but with leftovers not to be scanned."""
    parts = find_live_parts(kernel, objects, roots, coverage)
    return _restricted(objects, parts) if parts.rows.size else objects


def without_leftovers(kernel: Kernel, base: ScanResult, coverage: Coverage) -> ScanResult:
    """Return a scan without references from leftovers; `base` if there are none.

    Its counts are still those of `base`: it has the references (or, after a scan with little
    memory, the objects) by which they are to be found anew.
    """
    objects = base.objects
    parts = find_live_parts(kernel, objects, base.roots, coverage)
    if not parts.rows.size:
        return base
    if base.references is None:
        return replace(base, objects=_restricted(objects, parts))
    begin = objects.address[parts.rows]
    ahead = _many(base, parts.rows, begin, parts.start - begin)
    # References are in the order of the words: first those ahead of the part, then its own.
    first = base.references.offsets[parts.rows]
    last = base.references.offsets[parts.rows + 1]
    low = first + ahead
    high = low + _many(base, parts.rows, parts.start, parts.size)
    kept = np.ones(base.references.targets.size, bool)
    for a, b, c, d in zip(first.tolist(), low.tolist(), high.tolist(), last.tolist(), strict=True):
        kept[a:b] = False
        kept[c:d] = False
    fewer = np.zeros(len(objects) + 1, np.int64)
    fewer[parts.rows + 1] = (low - first) + (last - high)
    left = References(base.references.offsets - np.cumsum(fewer), base.references.targets[kept])
    return replace(base, references=left)


def _many(
    base: ScanResult,
    rows: NDArray[np.int64],
    start: NDArray[np.uint64],
    size: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """Count the references in one range of each of some objects."""
    objects, options = base.objects, base.options
    index = AddressIndex(
        objects.address,
        objects.size,
        objects.flags,
        inclusive_end=options.end_pointers,
        interior=options.interior,
    )
    offsets, _, _ = extract_references(
        base.image.engine,
        index,
        start,
        size,
        rows,
        step=options.alignment or base.image.word_size,
        mask=options.pointer_mask,
    )
    return np.diff(offsets)


def _restricted(objects: ObjectTable, parts: LiveParts) -> ObjectTable:
    """Return the objects with the live parts as scan areas."""
    other = copy.copy(objects)
    owner, start, size = parts.rows, parts.start, parts.size
    if objects.area_offsets is not None:
        assert objects.area_address is not None
        assert objects.area_size is not None
        before = np.repeat(np.arange(len(objects)), np.diff(objects.area_offsets))
        owner = np.concatenate((before, owner))
        start = np.concatenate((objects.area_address, start))
        size = np.concatenate((objects.area_size, size))
    order = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[order], np.arange(len(objects) + 1))
    other.area_offsets = bounds.astype(np.int64)
    other.area_address, other.area_size = start[order], size[order]
    return other
