"""Turns per-CPU chunks into their allocated pieces, a copy for each processor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...coverage import Coverage
from ...errors import FaultError
from ...linux.kernel import Kernel
from ...linux.structures import Structures
from .caches import sorted_once

#: Chunk lists, chunks of one list, and bytes of one unit beyond which structures are damaged.
_MOST_LISTS = 1 << 8
_MOST_CHUNKS = 1 << 16
_MOST_UNIT = 1 << 32
#: Copies of pieces in all; more are left out.
_MOST_COPIES = 1 << 27


@dataclass(frozen=True, slots=True, eq=False)
class PerCpu:
    """Allocated pieces of dynamic per-CPU memory.

    Parameters
    ----------
    pointer : ndarray of uint64, shape (n,)
        Each piece's per-CPU address: what a processor's offset is added to.
    size : ndarray of uint64, shape (n,)
        Bytes of one copy.
    offsets : ndarray of uint64, shape (cpus,)
        The processors' offsets.
    units : list of tuple
        ``(address, size)`` of the memory that chunks take up, for each processor.
    """

    pointer: NDArray[np.uint64]
    size: NDArray[np.uint64]
    offsets: NDArray[np.uint64]
    units: list[tuple[int, int]]

    def copies(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Return addresses and sizes of all copies, each ``(cpus * n,)`` ``uint64``."""
        address = self.offsets[:, None] + self.pointer[None, :]
        return address.reshape(-1), np.tile(self.size, self.offsets.size)


def find_per_cpu(kernel: Kernel, coverage: Coverage) -> PerCpu:
    """Return the allocated pieces of all chunks.

    The static area is none of them: it lies before the first chunk's dynamic part.
    """
    structures = kernel.structures()
    offsets = np.array(kernel.per_cpu_offsets, np.uint64)
    nothing = PerCpu(np.empty(0, np.uint64), np.empty(0, np.uint64), offsets, [])
    if not structures.has("pcpu_chunk", "alloc_map", "bound_map", "base_addr", "nr_pages"):
        return nothing
    delta = _delta(kernel)
    if delta is None:
        coverage.add("heap.slub.percpu", "the kernel's per-CPU memory was not found")
        return nothing
    chunks = _Chunks(kernel, structures, _chunks(kernel, structures, coverage))
    pointers, sizes = [], []
    units: list[tuple[int, int]] = []
    lost = list(chunks.damaged)
    for i in range(chunks.base.size):
        try:
            starts, lengths = chunks.pieces(i)
        except FaultError:
            lost.append(int(chunks.base[i]))
            continue
        # Sums of per-CPU addresses are modulo 2**64.
        first = (int(chunks.base[i]) - delta) % (1 << 64)
        pointers.append(starts + np.uint64(first))
        sizes.append(lengths)
        unit = int(chunks.length[i])
        units += [((first + offset) % (1 << 64), unit) for offset in kernel.per_cpu_offsets]
    if lost:
        coverage.add(
            "heap.slub.percpu-chunk",
            "per-CPU chunks that cannot be read: their contents are left out",
            count=len(lost),
            address=lost[0],
        )
    if not pointers:
        return nothing
    pointer, size = np.concatenate(pointers), np.concatenate(sizes)
    if pointer.size * max(1, offsets.size) > _MOST_COPIES:
        coverage.add("heap.slub.percpu", "too much per-CPU memory: its contents are left out")
        return PerCpu(nothing.pointer, nothing.size, offsets, units)
    return PerCpu(pointer, size, offsets, units)


def _delta(kernel: Kernel) -> int | None:
    """Return what is between a chunk's address and per-CPU addresses in it.

    ``per_cpu_offset[cpu]`` is the unit's offset plus where the first chunk is, less where the
    static area was linked to.
    """
    base = kernel.symbols.address("pcpu_base_addr")
    linked = kernel.symbols.address("__per_cpu_start")
    if base is None or linked is None:
        return None
    try:
        return kernel.image.word(base) - linked
    except FaultError:
        return None


def _chunks(kernel: Kernel, structures: Structures, coverage: Coverage) -> NDArray[np.uint64]:
    """Return where all chunks are described, each once."""
    lists = kernel.symbols.address("pcpu_chunk_lists") or kernel.symbols.address("pcpu_slot")
    count = kernel.symbols.address("pcpu_nr_slots")
    link = structures.types.member("pcpu_chunk", "list.next")
    found: list[NDArray[np.uint64]] = []
    problems = []
    try:
        if lists is not None and count is not None and link is not None:
            base = kernel.image.word(lists)
            for i in range(min(structures.number(count, 4), _MOST_LISTS)):
                head = base + 16 * i
                links, problem = structures.follow(
                    kernel.image.word(head), 0, end=head, most=_MOST_CHUNKS
                )
                found.append(links - np.uint64(link.offset))
                if problem:
                    problems.append(problem)
        for name in ("pcpu_first_chunk", "pcpu_reserved_chunk"):
            symbol = kernel.symbols.address(name)
            chunk = kernel.image.word(symbol) if symbol is not None else 0
            if chunk:
                found.append(np.array([chunk], np.uint64))
    except FaultError as error:
        problems.append(str(error))
    if problems:
        coverage.add(
            "heap.slub.percpu-list",
            f"lists of per-CPU chunks are cut short: {problems[0]}",
            count=len(problems),
        )
    return sorted_once(*found)


class _Chunks:
    """Columns of chunks that can be what they say; `damaged` has the addresses of the others."""

    def __init__(self, kernel: Kernel, structures: Structures, address: NDArray[np.uint64]) -> None:
        self.kernel = kernel
        base, pages, allocated, bounds = structures.columns(
            address, "pcpu_chunk", "base_addr", "nr_pages", "alloc_map", "bound_map"
        )
        length = pages.astype(np.int64) * kernel.page_size
        if structures.has("pcpu_chunk", "chunk_md.nr_bits"):
            bits = structures.column(address, "pcpu_chunk", "chunk_md.nr_bits").astype(np.int64)
        else:
            bits = length // 4  # PCPU_MIN_ALLOC_SIZE
        before = behind = np.zeros(address.size, np.int64)
        if structures.has("pcpu_chunk", "start_offset", "end_offset"):
            # What lies there belongs to others: the static area, the next chunk.
            before, behind = structures.columns(address, "pcpu_chunk", "start_offset", "end_offset")
        good = (length > 0) & (length <= _MOST_UNIT) & (bits > 0) & (base != 0)
        good &= length % np.maximum(bits, 1) == 0
        self.damaged = address[~good].tolist()
        self.base, self.length, self.bits = base[good], length[good], bits[good]
        self._allocated, self._bounds = allocated[good], bounds[good]
        self._before, self._behind = before[good], behind[good]

    def pieces(self, i: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Return offsets and sizes of a chunk's allocated pieces."""
        bits = int(self.bits[i])
        grain = int(self.length[i]) // bits
        allocated = _bitmap(self.kernel, int(self._allocated[i]), bits)
        bounds = np.flatnonzero(_bitmap(self.kernel, int(self._bounds[i]), bits))
        ends = np.append(bounds[1:], bits)
        first, last = int(self._before[i]) // grain, bits - int(self._behind[i]) // grain
        chosen = allocated[bounds] & (bounds >= first) & (ends <= last)
        start, stop = bounds[chosen], ends[chosen]
        return (
            start.astype(np.uint64) * np.uint64(grain),
            (stop - start).astype(np.uint64) * np.uint64(grain),
        )


def _bitmap(kernel: Kernel, address: int, bits: int) -> NDArray[np.bool_]:
    """Read a bitmap of unsigned longs."""
    words = kernel.image.words(address, -(-bits // 64)).astype("<u8")
    return np.unpackbits(words.view(np.uint8), bitorder="little")[:bits].astype(bool)
