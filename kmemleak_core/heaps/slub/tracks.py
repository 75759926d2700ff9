"""Turns what kernels keep of an allocation's origin into backtraces, tasks and times.

``slab_debug=U`` keeps a ``struct track`` behind each object, kfence one beside its objects, and
vmalloc the caller of each block; ``page_owner=on`` keeps one for each page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...linux.page_owner import page_owners
from ...linux.stack_depot import StackDepot, distinct_rows
from ...linux.structures import Structures
from ...provenance import Provenance
from .caches import sorted_once

if TYPE_CHECKING:
    from . import KernelMemory

#: Frames of a track that has them itself (Linux 4.x to 5.15): TRACK_ADDRS_COUNT.
_MOST_FRAMES = 64


def add_origins(
    memory: KernelMemory,
    provenance: Provenance,
    address: NDArray[np.uint64],
) -> None:
    """Fill in who allocated which object, as far as anything tells.

    Parameters
    ----------
    memory
        What was found.
    provenance
        Receives ``trace``, ``traces``, ``birth``, ``pid``.
    address : ndarray of uint64, shape (n,)
        All objects, ascending.
    """
    origins = _Origins(address)
    _tracked(memory, origins)
    fence = memory.kfence
    origins.add(fence.address, fence.trace, fence.traces, pid=fence.pid)
    areas = memory.areas
    called = np.flatnonzero(areas.caller)
    callers = sorted_once(areas.caller[called])
    index = np.searchsorted(callers, areas.caller[called])
    origins.add(areas.address[called], index, [(caller,) for caller in callers.tolist()])
    _of_pages(memory, origins)
    provenance.traces = origins.traces
    provenance.trace = origins.trace if origins.traces else None
    provenance.birth, provenance.pid = origins.birth, origins.pid
    provenance.symbol = memory.kernel.symbols.text


class _Origins:
    """Columns beside all objects that several sources fill in."""

    def __init__(self, address: NDArray[np.uint64]) -> None:
        self.address = address
        self.trace = np.full(address.size, -1, np.int64)
        self.traces: list[tuple[int, ...]] = []
        self.birth: NDArray[np.int64] | None = None
        self.pid: NDArray[np.int32] | None = None

    def add(
        self,
        address: NDArray[np.uint64],
        trace: NDArray[np.int64],
        traces: list[tuple[int, ...]] | tuple[tuple[int, ...], ...],
        *,
        pid: NDArray[np.int32] | None = None,
        birth: NDArray[np.int64] | None = None,
    ) -> None:
        if not self.address.size or not address.size:
            return
        row = np.searchsorted(self.address, address).clip(0, self.address.size - 1)
        known = self.address[row] == address
        row = row[known]
        self.trace[row] = np.where(trace[known] >= 0, trace[known] + len(self.traces), -1)
        self.traces += traces
        if pid is not None:
            if self.pid is None:
                self.pid = np.full(self.address.size, -1, np.int32)
            self.pid[row] = pid[known]
        if birth is not None:
            if self.birth is None:
                self.birth = np.zeros(self.address.size, np.int64)
            self.birth[row] = birth[known]


def _of_pages(memory: KernelMemory, origins: _Origins) -> None:
    """Take what ``page_owner=on`` keeps of the first pages of large blocks and vmalloc's."""
    pages, areas = memory.pages, memory.areas
    mine = np.flatnonzero(areas.allocated)
    first, present = memory.caches.structures.numbers(areas.pages[mine])
    row = np.where(present, pages.rows_of_structs(first), -1)
    row = np.concatenate([memory.use.large, row])
    address = np.concatenate([pages.memory[memory.use.large], areas.address[mine]])
    address, row = address[row >= 0], row[row >= 0]
    owners = page_owners(memory.kernel, pages.frame[row], memory.coverage)
    if owners is not None:
        known = owners.trace >= 0
        origins.add(address[known], owners.trace[known], owners.traces, pid=owners.pid[known])


def _tracked(memory: KernelMemory, origins: _Origins) -> None:
    """Read the tracks behind objects of caches with SLAB_STORE_USER."""
    caches, structures = memory.caches, memory.caches.structures
    tracking = caches.flagged("STORE_USER")
    if not tracking.any() or not structures.has("track", "addr", "pid", "when"):
        return
    address, count = memory.walked.slabs.allocated()
    of = np.repeat(memory.slabs.cache, count)
    held = np.flatnonzero(tracking[of])
    of = of[held]
    # They begin behind all that is the object's, and behind the freelist's pointer if that is
    # there too: get_info_end() of mm/slub.c.
    inuse = caches.inuse.astype(np.uint64)
    behind = inuse + np.where(caches.offset >= caches.inuse, 8, 0).astype(np.uint64)
    at = address[held] + behind[of]
    caller, pid, when = structures.columns(at, "track", "addr", "pid", "when")
    index, traces = _frames(memory, structures, at)
    alone = np.flatnonzero((index < 0) & (caller != 0))
    callers = sorted_once(caller[alone])
    index[alone] = np.searchsorted(callers, caller[alone]) + len(traces)
    traces = [*traces, *((c,) for c in callers.tolist())]
    origins.add(
        address[held],
        index,
        traces,
        pid=np.where(caller != 0, pid, -1).astype(np.int32),
        birth=when.astype(np.int64),
    )


def _frames(
    memory: KernelMemory, structures: Structures, at: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], list[tuple[int, ...]]]:
    """Return the backtraces of tracks: in the stack depot since 5.16, in themselves before."""
    if structures.has("track", "handle"):
        handles = structures.column(at, "track", "handle")
        return StackDepot(memory.kernel, memory.coverage).traces(handles)
    array = structures.types.member("track", "addrs")
    if array is None or not 0 < array.size <= 8 * _MOST_FRAMES:
        return np.full(at.size, -1, np.int64), []
    raw, _ = structures.bytes(at, array.offset, array.size)
    frames = raw.view(memory.kernel.image.word_dtype).astype(np.uint64)
    index, first = distinct_rows(frames)
    traces = [tuple(f for f in row if f) for row in frames[first].tolist()]
    empty = np.array([not trace for trace in traces] or [True])
    return np.where(empty[index], -1, index), traces
