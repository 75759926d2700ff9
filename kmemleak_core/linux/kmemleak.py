"""Turns a kernel's own kmemleak records into a heap: what it tracked, and how its scans stand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..errors import FaultError
from ..heaps import Heap
from ..objects import ObjectTable, inside
from ..provenance import Provenance
from .kernel import Kernel
from .kmemleak_list import KernelFlags, KmemleakRecords, read_records

#: min_count of what vmalloc returns: the vm_struct's reference is no other's.
_VMALLOC = 2

#: Bytes from which on an object's size is looked at; starts of others inside it that are too many.
_LARGE = 4096
_SEVERAL = 2


@dataclass(frozen=True, slots=True)
class KmemleakState:
    """How a kernel's detector stands.

    Parameters
    ----------
    now
        ``jiffies`` when the machine stopped.
    last_scan
        When the last scan began; 0 if there was none.
    min_age
        Ticks that an object must be older than the scan to be reported.
    enabled
        Whether allocations were still tracked.
    stack_scan
        Whether scans look at the tasks' stacks.
    lowmem
        Page frames ``[first, end)`` outside which physical objects are black.
    scanned
        Whether there was a scan.
    """

    now: int
    last_scan: int
    min_age: int
    enabled: bool = True
    stack_scan: bool = True
    lowmem: tuple[int, int] = (0, 1 << 52)

    @property
    def scanned(self) -> bool:
        """Whether there was a scan."""
        return self.last_scan != 0


@dataclass(slots=True, eq=False)
class KernelHeap:
    """What a kernel's kmemleak tracked.

    Parameters
    ----------
    heap
        The objects that words can point to: those with a virtual address, and per-CPU ones by
        the address that processors' offsets are added to. Its provenance tells all else.
    records
        All objects, in the order of the kernel's list: that of its report.
    row : ndarray of int64, shape (n,)
        The record of each of the heap's n objects.
    state
        How the detector stands.
    """

    heap: Heap
    records: KmemleakRecords
    row: NDArray[np.int64]
    state: KmemleakState

    @property
    def objects(self) -> ObjectTable:
        """The heap's objects."""
        return self.heap.objects


def find_kmemleak(kernel: Kernel) -> KernelHeap | None:
    """Read what a kernel's kmemleak tracked.

    Returns
    -------
    KernelHeap or None
        None where the kernel was built without kmemleak, or kmemleak was off, or its list has
        no name: `kernel.coverage` tells the latter two (``kmemleak.off``, ``kmemleak.names``).

    Raises
    ------
    DumpError
        The kernel has kmemleak, but the layout of its records is not known.
    """
    head = kernel.symbols.address("object_list")
    if head is None or kernel.symbols.address("kmemleak_enabled") is None:
        if kernel.symbols.address("kmemleak_alloc") is not None:
            kernel.coverage.add(
                "kmemleak.names",
                "kmemleak is built into this kernel, but the kernel keeps no names of data "
                "(CONFIG_KALLSYMS_ALL): its list of objects was not found",
            )
        return None
    state = read_state(kernel)
    if not state.enabled:
        # What was freed since is still in the list then, if there is one.
        kernel.coverage.add(
            "kmemleak.off", "kmemleak is built into this kernel, but it was switched off"
        )
        return None
    coverage = Coverage()
    records = read_records(kernel, head, coverage)
    if not len(records):
        kernel.coverage.add("kmemleak.off", "kmemleak's list of objects is empty")
        return None
    return _kernel_heap(kernel, records, state, coverage)


def read_state(kernel: Kernel) -> KmemleakState:
    """Read the detector's variables; what the dump lacks is as it is after booting."""
    structures = kernel.structures()
    word = kernel.image.word_size

    def variable(name: str, size: int, default: int) -> int:
        address = kernel.symbols.address(name)
        try:
            return default if address is None else structures.number(address, size)
        except FaultError:
            return default

    now = variable("jiffies", word, 0) or variable("jiffies_64", 8, 0)
    return KmemleakState(
        now,
        variable("jiffies_last_scan", word, 0),
        variable("jiffies_min_age", word, 0),
        variable("kmemleak_enabled", 4, 1) != 0,
        variable("kmemleak_stack_scan", 4, 1) != 0,
        (variable("min_low_pfn", word, 0), variable("max_low_pfn", word, 1 << 52)),
    )


def _kernel_heap(
    kernel: Kernel, records: KmemleakRecords, state: KmemleakState, coverage: Coverage
) -> KernelHeap:
    tracked = records.flagged(KernelFlags.ALLOCATED) & ~records.flagged(KernelFlags.PHYS)
    sane = inside(records.address, records.size) & (records.size <= kernel.image.nbytes)
    rows = np.flatnonzero(tracked & sane)
    sane[rows[_swallowing(records.address[rows], records.size[rows])]] = False
    rows = np.flatnonzero(tracked & sane)
    wild = np.flatnonzero(tracked & ~sane)
    if wild.size:
        coverage.add(
            "kmemleak.size",
            "objects in kmemleak's list that are larger than the machine's memory, or that hold "
            "several others, were left out",
            count=int(wild.size),
            address=int(records.address[wild[0]]),
        )
    objects = ObjectTable.from_arrays(
        records.address[rows],
        records.size[rows],
        records.min_count[rows],
        (records.flags[rows] & (KernelFlags.NO_SCAN | KernelFlags.FULL_SCAN)).astype(np.uint8),
        excess_ref=records.excess_ref[rows],
        trace=rows,
        on_overlap="drop",
    )
    assert objects.trace is not None
    row = objects.trace
    coverage.extend(objects.anomalies)
    _set_areas(kernel, objects, records, row, coverage)
    objects.trace = records.trace[row]
    allocated = records.flagged(KernelFlags.ALLOCATED)
    counters = {
        "records": len(records),
        "physical": int(np.count_nonzero(allocated & records.flagged(KernelFlags.PHYS))),
        "per_cpu": int(np.count_nonzero(allocated & records.flagged(KernelFlags.PERCPU))),
        "scan_areas": int(records.area_row.size),
        "not_allocated": int(np.count_nonzero(~allocated)),
    }
    heap = Heap(
        "kmemleak",
        objects,
        counters=counters,
        coverage=coverage,
        provenance=_provenance(kernel, records, row),
    )
    return KernelHeap(heap, records, row, state)


def _swallowing(address: NDArray[np.uint64], size: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which objects hold the starts of several others: their sizes are damaged."""
    swallows = np.zeros(address.size, bool)
    large = np.flatnonzero(size > _LARGE)
    if large.size:
        starts = np.sort(address)
        first = np.searchsorted(starts, address[large], side="right")
        swallows[large] = np.searchsorted(starts, address[large] + size[large]) - first >= _SEVERAL
    return swallows


def _provenance(kernel: Kernel, records: KmemleakRecords, row: NDArray[np.int64]) -> Provenance:
    kind = np.full(row.size, -1, np.int32)
    kind[records.min_count[row] == _VMALLOC] = 0
    kind[records.flagged(KernelFlags.PERCPU)[row]] = 1
    return Provenance(
        kind=kind,
        kinds=("vmalloc", "percpu"),
        trace=records.trace[row],
        traces=records.traces,
        birth=records.jiffies[row],
        pid=records.pid[row],
        comm=records.comm[row],
        comms=records.comms,
        symbol=kernel.symbols.text,
    )


def _set_areas(
    kernel: Kernel,
    objects: ObjectTable,
    records: KmemleakRecords,
    row: NDArray[np.int64],
    coverage: Coverage,
) -> None:
    """Restrict what is scanned of objects: to their scan areas, or to processors' copies.

    A per-CPU object's own address is no memory: its areas are where its copies lie, whatever
    FULL_SCAN and scan areas say (as the kernel does).
    """
    place = np.full(len(records), -1, np.int64)
    place[row] = np.arange(row.size)
    owner = place[records.area_row]
    per_cpu = np.flatnonzero(records.flagged(KernelFlags.PERCPU)[row])
    mine = (owner >= 0) & ~np.isin(owner, per_cpu)
    owner, start, size = owner[mine], records.area_address[mine], records.area_size[mine]
    offset = start - objects.address[owner]
    fits = (start >= objects.address[owner]) & (offset <= objects.size[owner])
    fits &= size <= objects.size[owner] - offset
    if not fits.all():
        coverage.add(
            "objects.scan-area",
            "scan areas that leave their objects were left out",
            count=int(np.count_nonzero(~fits)),
            address=int(start[~fits][0]),
        )
        owner, start, size = owner[fits], start[fits], size[fits]
    if per_cpu.size:
        offsets = np.array(kernel.per_cpu_offsets, np.uint64)
        copies = objects.address[per_cpu][:, None] + offsets[None, :]
        owner = np.concatenate((owner, np.repeat(per_cpu, offsets.size)))
        start = np.concatenate((start, copies.reshape(-1)))
        size = np.concatenate((size, np.repeat(objects.size[per_cpu], offsets.size)))
        objects.flags[per_cpu] &= np.uint8(KernelFlags.NO_SCAN)
    if not owner.size:
        return
    order = np.argsort(owner, kind="stable")
    objects.area_offsets = np.searchsorted(owner[order], np.arange(row.size + 1)).astype(np.int64)
    objects.area_address, objects.area_size = start[order], size[order]
