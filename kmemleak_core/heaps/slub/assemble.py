"""Turns what a kernel's allocators gave out into one table of objects with their kinds."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

from ...coverage import Coverage
from ...objects import BLACK, ObjectFlags, ObjectTable
from ...provenance import Provenance
from .. import Check, Heap
from .caches import Caches, node_totals
from .scan_areas import set_areas
from .tracks import add_origins

if TYPE_CHECKING:
    from . import KernelMemory


class Kinds(Sequence[str]):
    """What objects can be, by number; a cache's structure is looked up when it is asked for.

    Parameters
    ----------
    caches
        They come first, then the same again for what kfence gave out in their stead.
    others
        The rest.
    """

    def __init__(self, caches: Caches, others: Sequence[str]) -> None:
        self._caches = caches
        self._others = tuple(others)

    def __len__(self) -> int:
        return 2 * len(self._caches) + len(self._others)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        n = len(self._caches)
        if i >= 2 * n:
            return self._others[i - 2 * n]
        kind = self._caches.kind(i % n)
        return kind if i < n else f"{kind} (kfence)"


class _Rows:
    """Columns of objects that are put together from several sources: few beside those in slabs."""

    def __init__(self) -> None:
        self.parts: list[tuple[NDArray[Any], ...]] = []

    def add(
        self,
        address: NDArray[np.uint64],
        size: NDArray[np.uint64],
        kind: NDArray[Any] | int,
        min_count: NDArray[Any] | int = 1,
        flags: NDArray[Any] | int = 0,
    ) -> None:
        n = address.size
        self.parts.append(
            (
                address,
                size,
                np.broadcast_to(np.asarray(kind, np.int32), n),
                np.broadcast_to(np.asarray(min_count, np.int32), n),
                np.broadcast_to(np.asarray(flags, np.uint8), n),
            )
        )

    def merged(self, into: tuple[NDArray[Any], ...]) -> list[NDArray[Any]]:
        """Return columns by address: those given, which are so already, with all others."""
        others = [np.concatenate(columns) for columns in zip(*self.parts, strict=True)]
        order = np.argsort(others[0], kind="stable")
        place = np.searchsorted(into[0], others[0][order])
        first = np.flatnonzero(np.diff(place, prepend=-1))
        cuts = place[first]
        bounds = np.concatenate(([0], cuts, [into[0].size])).tolist()
        given = [slice(a, b) for a, b in itertools.pairwise(bounds)]
        added = [order[a:b] for a, b in itertools.pairwise([*first.tolist(), order.size])]
        columns = []
        for mine, theirs in zip(into, others, strict=True):
            pieces = [mine[given[0]]]
            for rows, part in zip(added, given[1:], strict=True):
                pieces += (theirs[rows], mine[part])
            columns.append(np.concatenate(pieces))
        return columns


def assemble(memory: KernelMemory) -> Heap:
    """Return the objects of all allocators.

    Their ``min_count`` is the kernel's own detector's: 1 for what was asked from a slab, 2 for
    vmalloc blocks, whose ``vm_struct`` is one reference and passes surplus ones on, 1 for
    per-CPU pieces, whose address is the one that processors' offsets are added to (as kmemleak
    has them since Linux 6.12), 0 for modules. Caches that ask not to be traced
    (SLAB_NOLEAKTRACE) are black.
    """
    kernel, caches, slabs, areas = memory.kernel, memory.caches, memory.slabs, memory.areas
    black = np.where(caches.flagged("NOLEAKTRACE"), BLACK, 1).astype(np.int32)
    kinds = Kinds(
        caches,
        ["large kmalloc", "per-CPU", "vmalloc", *(f"module {m.name}" for m in kernel.modules)],
    )
    large, per_cpu, vmalloc = (2 * len(caches) + i for i in range(3))
    rows = _Rows()
    fence = memory.kfence
    known = fence.cache >= 0
    rows.add(
        fence.address[known],
        fence.size[known],
        fence.cache[known] + len(caches),
        black[fence.cache[known]],
    )
    use = memory.use
    rows.add(memory.pages.memory[use.large], use.order_bytes, large)
    mine = np.flatnonzero(areas.allocated)
    module = _module_of(memory, mine)
    rows.add(
        areas.address[mine],
        areas.size[mine],
        vmalloc + module + 1,
        np.where(module >= 0, 0, 2),
        # Only modules' data are scanned: they are roots by themselves.
        np.where(module >= 0, int(ObjectFlags.NO_SCAN), 0),
    )
    rows.add(memory.per_cpu.pointer, memory.per_cpu.size, per_cpu)

    in_slabs, count = memory.walked.slabs.allocated()
    of_slab = slabs.cache
    columns = rows.merged(
        (
            in_slabs,
            np.repeat(caches.object_size[of_slab].astype(np.uint64), count),
            np.repeat(of_slab.astype(np.int32), count),
            np.repeat(black[of_slab], count),
            np.zeros(in_slabs.size, np.uint8),
        )
    )
    address, size, kind, min_count, flags = _disjoint(columns, memory.coverage)
    objects = ObjectTable.from_arrays(address, size, min_count, flags, allocation_order=False)
    blocks = mine[module < 0]
    _pass_on(objects, areas.struct[blocks], areas.address[blocks])
    set_areas(memory, objects, in_slabs, count, kind == per_cpu)
    provenance = Provenance(kind=kind, kinds=kinds)
    add_origins(memory, provenance, objects.address)
    return Heap(
        allocator="slub",
        objects=objects,
        checks=_checks(memory),
        counters={
            "caches": len(caches),
            "slabs": len(slabs),
            "slots": memory.walked.slabs.slots,
            "slab_objects": int(in_slabs.size),
            "free_objects": memory.walked.slabs.slots - int(in_slabs.size),
            "objects_in_sheaves": memory.sheaved,
            "kfence_objects": int(fence.address.size),
            "large_kmalloc": int(use.large.size),
            "vmalloc_blocks": int(blocks.size),
            "percpu_pieces": int(memory.per_cpu.pointer.size),
        },
        coverage=memory.coverage,
        provenance=provenance,
    )


def _disjoint(columns: list[NDArray[Any]], coverage: Coverage) -> list[NDArray[Any]]:
    """Leave out rows, which are by address, that reach into others or out of the address space."""
    start, size = columns[:2]
    inside = size < np.uint64((1 << 64) - 2) - start
    end = start + np.maximum(size, np.uint64(1))
    if inside.all() and (start[1:] >= end[:-1]).all():
        return columns
    kept = [column[inside] for column in columns]
    apart = np.ones(kept[0].size, bool)
    apart[1:] = kept[0][1:] >= np.maximum.accumulate(end[inside])[:-1]
    coverage.add(
        "heap.slub.overlap",
        "objects that overlap others, or leave the address space: left out",
        count=start.size - int(np.count_nonzero(apart)),
    )
    return [column[apart] for column in kept]


def _module_of(memory: KernelMemory, areas: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which module each area is part of; −1 for none."""
    start = memory.areas.address[areas]
    module = np.full(start.size, -1, np.int64)
    for i, one in enumerate(memory.kernel.modules):
        for part in one.memory:
            row = int(np.searchsorted(start, np.uint64(part.start), side="right")) - 1
            if row >= 0 and part.start - int(start[row]) < int(memory.areas.size[areas[row]]):
                module[row] = i
    return module


def _pass_on(objects: ObjectTable, struct: NDArray[np.uint64], block: NDArray[np.uint64]) -> None:
    """Let surplus references to a ``vm_struct`` count for its block."""
    excess = np.zeros(len(objects), np.uint64)
    if len(objects):
        row = np.searchsorted(objects.address, struct).clip(0, len(objects) - 1)
        known = objects.address[row] == struct
        excess[row[known]] = block[known]
    objects.excess_ref = excess


def _checks(memory: KernelMemory) -> list[Check]:
    """Compare what was found with the kernel's own sums, cache by cache."""
    caches, slabs = memory.caches, memory.slabs
    n = len(caches)

    def per_cache(values: NDArray[np.int64] | None = None) -> list[int]:
        weights = None if values is None else values.astype(np.float64)
        sums: list[int] = np.bincount(slabs.cache, weights, n).astype(np.int64).tolist()
        return sums

    checks = []
    counted, slots = per_cache(), per_cache(slabs.objects)
    free, found = per_cache(slabs.objects - slabs.inuse), per_cache(memory.walked.own)
    totals = node_totals(memory.kernel, caches)
    for row, name in enumerate(caches.names):
        if totals is not None:
            checks.append(Check(f"slabs of {name}", int(totals[0][row]), counted[row]))
            checks.append(Check(f"slots of {name}", int(totals[1][row]), slots[row]))
        checks.append(Check(f"free objects on slabs of {name}", free[row], found[row]))
    return checks
