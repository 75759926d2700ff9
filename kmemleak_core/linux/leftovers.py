"""Turns a scan into one that takes no pointer for a reference which a sheaf merely held before."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .._index import AddressIndex
from .._scan import extract_references
from ..coverage import Coverage
from ..objects import ObjectFlags, ObjectTable
from ..scan import References, ScanResult
from .kernel import Kernel


def used_rows(
    kernel: Kernel, objects: ObjectTable, coverage: Coverage
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Find the sheaves among objects, and how many bytes of each mean anything.

    Sheaves (Linux 6.18) are arrays in which the slab allocator keeps free objects at hand. Behind
    the pointers that one holds are those that it held: their objects were allocated again, and
    may be lost by now.

    Returns
    -------
    rows : ndarray of int64, shape (m,)
        Of sheaves that are objects of the table, scanned as a whole and not full.
    used : ndarray of uint64, shape (m,)
        Bytes from each one's start.
    """
    from ..heaps.slub.sheaves import used_parts

    sheaf, used = used_parts(kernel, coverage)
    if not sheaf.size or not len(objects):
        return np.empty(0, np.int64), np.empty(0, np.uint64)
    rows = np.minimum(np.searchsorted(objects.address, sheaf), len(objects) - 1)
    mine = (objects.address[rows] == sheaf) & (used < objects.size[rows])
    mine &= objects.flags[rows] & ObjectFlags.NO_SCAN == 0
    if objects.area_offsets is not None:
        mine &= objects.area_offsets[rows] == objects.area_offsets[rows + 1]
    return rows[mine].astype(np.int64), used[mine]


def live_parts(kernel: Kernel, objects: ObjectTable, coverage: Coverage) -> ObjectTable:
    """Return the objects, of sheaves only what they hold to be scanned."""
    rows, used = used_rows(kernel, objects, coverage)
    return _restricted(objects, rows, used) if rows.size else objects


def without_leftovers(kernel: Kernel, base: ScanResult, coverage: Coverage) -> ScanResult:
    """Return a scan without references from what sheaves held before; `base` if there are none.

    Its counts are still those of `base`: it has the references (or, after a scan with little
    memory, the objects) by which they are to be found anew.
    """
    objects = base.objects
    rows, used = used_rows(kernel, objects, coverage)
    if not rows.size:
        return base
    if base.references is None:
        return replace(base, objects=_restricted(objects, rows, used))
    options = base.options
    index = AddressIndex(
        objects.address,
        objects.size,
        objects.flags,
        inclusive_end=options.end_pointers,
        interior=options.interior,
    )
    step = options.alignment or base.image.word_size
    offsets, _, _ = extract_references(
        base.image.engine,
        index,
        objects.address[rows],
        used,
        rows,
        step=step,
        mask=options.pointer_mask,
    )
    # References are in the order of the words: those of the used part come first.
    begin, end = base.references.offsets[rows] + np.diff(offsets), base.references.offsets[rows + 1]
    kept = np.ones(base.references.targets.size, bool)
    for first, last in zip(begin.tolist(), end.tolist(), strict=True):
        kept[first:last] = False
    fewer = np.zeros(len(objects) + 1, np.int64)
    fewer[rows + 1] = end - begin
    left = References(base.references.offsets - np.cumsum(fewer), base.references.targets[kept])
    return replace(base, references=left)


def _restricted(
    objects: ObjectTable, rows: NDArray[np.int64], used: NDArray[np.uint64]
) -> ObjectTable:
    """Return the objects with the used part of some as their scan area."""
    other = copy.copy(objects)
    owner, start, size = rows, objects.address[rows], used
    if objects.area_offsets is not None:
        assert objects.area_address is not None
        assert objects.area_size is not None
        before = np.repeat(np.arange(len(objects)), np.diff(objects.area_offsets))
        owner = np.concatenate((before, rows))
        start = np.concatenate((objects.area_address, start))
        size = np.concatenate((objects.area_size, used))
    order = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[order], np.arange(len(objects) + 1))
    other.area_offsets = bounds.astype(np.int64)
    other.area_address, other.area_size = start[order], size[order]
    return other
