"""Turns a machine's physical memory and its page tables into the kernel's image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...coverage import Coverage
from ...image import Hole, MemoryImage, Segment
from ...physical import PhysicalMemory
from .page_tables import U64, Mapping


def kernel_image(
    physical: PhysicalMemory, mapping: Mapping, page_size: int, coverage: Coverage
) -> MemoryImage:
    """Lay the present pages out where the kernel has them.

    Parameters
    ----------
    physical
        The memory that the dump holds.
    mapping
        The kernel's half of the page tables.
    page_size
        Bytes.
    coverage
        Receives ``vmcore.missing`` (mapped, not in the dump: pages that were filtered out, and
        devices' registers, which no dump holds) and ``vmcore.tables`` (tables not in the dump).
    """
    row, begin, end, index = _pieces(physical, mapping)
    address: U64 = mapping.virtual[row] + (begin - mapping.physical[row])
    offset = begin - physical.starts[index] if index.size else begin
    data = [r.data for r in physical.ranges]
    segments = [
        Segment(at, data[i][first : first + size])
        for at, i, first, size in zip(
            address.tolist(), index.tolist(), offset.tolist(), (end - begin).tolist(), strict=True
        )
    ]
    holes = _holes(mapping, row, begin, end)
    if holes:
        nbytes = sum(h.size for h in holes)
        coverage.add(
            "vmcore.missing",
            f"{nbytes // page_size:,} pages that the kernel has mapped are not in the dump: "
            "filtered out, another kernel's, or devices' registers",
            count=len(holes),
            nbytes=nbytes,
            address=holes[0].address,
        )
    lost = [Hole(at, size, "no-page-table") for at, size in mapping.lost.tolist()]
    if lost:
        coverage.add(
            "vmcore.tables",
            f"{len(lost)} page tables are not in the dump: what the kernel had mapped through "
            f"them is unknown, the first at {lost[0].address:#x}",
            count=len(lost),
            address=lost[0].address,
        )
    return MemoryImage(segments, holes=holes + lost)


def _pieces(physical: PhysicalMemory, mapping: Mapping) -> tuple[NDArray[np.int64], U64, U64, U64]:
    """Cut each row of a mapping where physical ranges begin and end.

    Returns the row of each piece, its physical begin and end, and which range it lies in.
    """
    limit = mapping.physical + mapping.size
    first = np.searchsorted(physical.ends, mapping.physical, side="right")
    count = np.searchsorted(physical.starts, limit, side="left") - first
    count = np.maximum(count, 0)
    row = np.repeat(np.arange(len(mapping)), count)
    within = np.arange(row.size) - np.repeat(np.cumsum(count) - count, count)
    index = first[row] + within
    begin = np.maximum(mapping.physical[row], physical.starts[index])
    end = np.minimum(limit[row], physical.ends[index])
    return row, begin, end, index


def _holes(mapping: Mapping, row: NDArray[np.int64], begin: U64, end: U64) -> list[Hole]:
    """What is mapped and lies in no piece."""
    # In units of bytes since the row's start, over all rows one after another: then the pieces
    # are ranges of one line, and the holes are what is between them.
    base = np.concatenate((np.zeros(1, np.uint64), np.cumsum(mapping.size)))
    low = base[:-1][row] + (begin - mapping.physical[row])
    high = base[:-1][row] + (end - mapping.physical[row])
    points = np.sort(np.concatenate([base, low, high]))
    starts, ends = points[:-1], points[1:]
    starts, ends = starts[ends > starts], ends[ends > starts]
    inside = np.searchsorted(low, starts, side="right") - 1
    covered = (inside >= 0) & (starts < high[np.maximum(inside, 0)]) if low.size else None
    chosen = np.ones(starts.size, bool) if covered is None else ~covered
    starts, ends = starts[chosen], ends[chosen]
    of = np.searchsorted(base, starts, side="right") - 1
    address = mapping.virtual[of] + (starts - base[of])
    return [
        Hole(at, size, "not-dumped", "rw-")
        for at, size in zip(address.tolist(), (ends - starts).tolist(), strict=True)
    ]
