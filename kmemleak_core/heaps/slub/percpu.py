"""Turns per-CPU chunks into their allocated pieces, a copy for each processor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...coverage import Coverage
from ...errors import FaultError
from ...linux.kernel import Kernel
from ...linux.structures import Structures

#: Chunk lists, chunks of one list, and bytes of one unit beyond which structures are damaged.
_MOST_LISTS = 1 << 8
_MOST_CHUNKS = 1 << 20
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
    pointers, sizes = [], []
    units: list[tuple[int, int]] = []
    for chunk in _chunks(kernel, structures, coverage):
        try:
            starts, lengths, unit = _pieces(kernel, structures, chunk)
            base = structures.value(chunk, "pcpu_chunk", "base_addr")
        except (FaultError, ValueError) as error:
            coverage.add(
                "heap.slub.percpu-chunk",
                f"a per-CPU chunk cannot be read: {error}",
                address=chunk,
            )
            continue
        first = (base - delta) % (1 << 64)
        # Sums of per-CPU addresses are modulo 2**64.
        pointers.append(starts + np.uint64(first))
        sizes.append(lengths)
        units += [((first + int(o)) % (1 << 64), unit) for o in kernel.per_cpu_offsets]
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


def _chunks(kernel: Kernel, structures: Structures, coverage: Coverage) -> list[int]:
    lists = kernel.symbols.address("pcpu_chunk_lists") or kernel.symbols.address("pcpu_slot")
    count = kernel.symbols.address("pcpu_nr_slots")
    link = structures.types.member("pcpu_chunk", "list.next")
    found: dict[int, None] = {}
    try:
        if lists is not None and count is not None and link is not None:
            base = kernel.image.word(lists)
            for i in range(min(structures.number(count, 4), _MOST_LISTS)):
                head = base + 16 * i
                links, problem = structures.follow(
                    kernel.image.word(head), 0, end=head, most=_MOST_CHUNKS
                )
                found.update(dict.fromkeys((links - np.uint64(link.offset)).tolist()))
                if problem:
                    coverage.add(
                        "heap.slub.percpu-list",
                        f"a list of per-CPU chunks is cut short: {problem}",
                    )
        for name in ("pcpu_first_chunk", "pcpu_reserved_chunk"):
            symbol = kernel.symbols.address(name)
            chunk = kernel.image.word(symbol) if symbol is not None else 0
            if chunk:
                found[chunk] = None
    except FaultError as error:
        coverage.add("heap.slub.percpu-list", f"per-CPU chunks are missing: {error}")
    return list(found)


def _pieces(
    kernel: Kernel, structures: Structures, chunk: int
) -> tuple[NDArray[np.uint64], NDArray[np.uint64], int]:
    """Return offsets and sizes of a chunk's allocated pieces, and bytes of a unit."""

    def value(path: str) -> int:
        return structures.value(chunk, "pcpu_chunk", path)

    length = value("nr_pages") * kernel.page_size
    if not 0 < length <= _MOST_UNIT:
        raise ValueError(f"{length} bytes in a unit")
    grain = 4
    if structures.has("pcpu_chunk", "chunk_md.nr_bits"):
        bits = value("chunk_md.nr_bits")
        if bits <= 0 or length % bits:
            raise ValueError(f"{bits} bits for {length} bytes")
        grain = length // bits
    bits = length // grain
    allocated = _bitmap(kernel, value("alloc_map"), bits)
    bounds = np.flatnonzero(_bitmap(kernel, value("bound_map"), bits))
    ends = np.append(bounds[1:], bits)
    chosen = allocated[bounds]
    first, last = 0, bits
    if structures.has("pcpu_chunk", "start_offset", "end_offset"):
        # What lies before and behind belongs to others: the static area, the next chunk.
        first, last = value("start_offset") // grain, bits - value("end_offset") // grain
    chosen &= (bounds >= first) & (ends <= last)
    start, stop = bounds[chosen], ends[chosen]
    return (
        start.astype(np.uint64) * np.uint64(grain),
        (stop - start).astype(np.uint64) * np.uint64(grain),
        length,
    )


def _bitmap(kernel: Kernel, address: int, bits: int) -> NDArray[np.bool_]:
    """Read a bitmap of unsigned longs."""
    words = kernel.image.words(address, -(-bits // 64)).astype("<u8")
    return np.unpackbits(words.view(np.uint8), bitorder="little")[:bits].astype(bool)
