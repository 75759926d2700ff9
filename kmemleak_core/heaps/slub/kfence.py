"""Turns kfence's pool into its allocated objects: one in every other page."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...coverage import Coverage
from ...errors import FaultError
from ...linux.kernel import Kernel
from ...linux.pages import Pages
from .caches import Caches

#: ``enum kfence_object_state`` where the types do not tell it.
_ALLOCATED = 1
#: CONFIG_KFENCE_NUM_OBJECTS is 65,535 at most.
_MOST_OBJECTS = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Kfence:
    """Allocated objects of kfence.

    Parameters
    ----------
    pool : ndarray of bool, shape (pages,)
        Which pages are its own: they look like slabs of any cache.
    address, size : ndarray of uint64, shape (n,)
        The objects; sizes are what was asked for.
    cache : ndarray of int64, shape (n,)
        Row of the cache that each was asked from, −1 if unknown.
    trace : ndarray of int64, shape (n,)
        Index into `traces`, −1 where there is none.
    traces
        Return addresses of those who asked.
    pid : ndarray of int32, shape (n,)
        Who asked.
    """

    pool: NDArray[np.bool_]
    address: NDArray[np.uint64]
    size: NDArray[np.uint64]
    cache: NDArray[np.int64]
    trace: NDArray[np.int64]
    traces: tuple[tuple[int, ...], ...]
    pid: NDArray[np.int32]


def find_kfence(kernel: Kernel, pages: Pages, caches: Caches, coverage: Coverage) -> Kfence:
    """Return kfence's objects; none in a kernel without it."""
    pool = np.zeros(len(pages), bool)
    none = np.empty(0, np.int64)
    nothing = Kfence(
        pool, none.astype(np.uint64), none.astype(np.uint64), none, none, (), none.astype(np.int32)
    )
    structures = kernel.structures()
    start = kernel.symbols.address("__kfence_pool")
    table = kernel.symbols.address("kfence_metadata")
    if start is None or table is None or not structures.has("kfence_metadata", "addr", "state"):
        return nothing
    try:
        first = kernel.image.word(start)
        if not first:
            return nothing
        entry = structures.struct("kfence_metadata").size
        # An array up to Linux 6.4, then a pointer to one: only a pointer is as large as one.
        symbol = kernel.symbols.find(table)
        if symbol is not None and 0 < symbol.size < entry:
            table = kernel.image.word(table)
    except FaultError:
        return nothing
    page = np.uint64(kernel.page_size)
    at = np.uint64(table) + np.arange(_MOST_OBJECTS, dtype=np.uint64) * np.uint64(entry)
    address = structures.column(at, "kfence_metadata", "addr")
    # Object i lies in page 2 i + 2: entries go on as long as that is so.
    wanted = np.uint64(first) // page + np.arange(1, _MOST_OBJECTS + 1, dtype=np.uint64) * 2
    count = int(np.argmin(np.append(address // page == wanted, False)))
    if not count:
        coverage.add("heap.slub.kfence", "kfence's pool has no objects that could be read")
        return nothing
    rows = pages.rows_of_memory(np.uint64(first) + np.arange(2 * count + 2, dtype=np.uint64) * page)
    pool[rows[rows >= 0]] = True
    allocated = structures.types.enumerator("KFENCE_OBJECT_ALLOCATED")
    state = structures.column(at[:count], "kfence_metadata", "state")
    held = np.flatnonzero(state == np.uint64(_ALLOCATED if allocated is None else allocated))
    at, address = at[held], address[held]
    size = structures.column(at, "kfence_metadata", "size").astype(np.uint64)
    size = np.minimum(size, page - address % page)
    trace, traces = _traces(kernel, at)
    pid = np.full(at.size, -1, np.int32)
    if structures.has("kfence_metadata", "alloc_track.pid"):
        pid = structures.column(at, "kfence_metadata", "alloc_track.pid").astype(np.int32)
    cache = caches.rows(structures.column(at, "kfence_metadata", "cache"))
    return Kfence(pool, address, size, cache, trace, traces, pid)


def _traces(
    kernel: Kernel, at: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], tuple[tuple[int, ...], ...]]:
    structures = kernel.structures()
    entries = structures.types.member("kfence_metadata", "alloc_track.stack_entries")
    if entries is None or not structures.has("kfence_metadata", "alloc_track.num_stack_entries"):
        return np.full(at.size, -1, np.int64), ()
    depth = structures.column(at, "kfence_metadata", "alloc_track.num_stack_entries").tolist()
    raw, _ = structures.bytes(at, entries.offset, entries.size)
    words = raw.reshape(at.size, -1).view(kernel.image.word_dtype)
    most = words.shape[1]
    traces = tuple(
        tuple(row[: min(max(0, int(n)), most)].tolist())
        for row, n in zip(words, depth, strict=True)
    )
    return np.arange(at.size, dtype=np.int64), traces
