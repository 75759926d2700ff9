"""Turns objects into checksums of their content, as kmemleak takes them."""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from ..errors import FaultError
from .kernel import Kernel
from .kmemleak import KernelHeap
from .kmemleak_list import KernelFlags

_ONES = 0xFFFF_FFFF

#: Checksums of objects that were never seen white: 0, and all ones since July 2026.
NEVER_WHITE = (0, _ONES)


def crc32(data: NDArray[np.uint8], seed: int = 0) -> int:
    """Return the kernel's ``crc32(seed, data)``: zlib's without its inversions."""
    return zlib.crc32(data.data, seed ^ _ONES) ^ _ONES


def changed(kernel: Kernel, found: KernelHeap, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which objects are not what they were when they were last seen white.

    Parameters
    ----------
    kernel, found
        The kernel, and its records.
    rows
        ``(m,)``: rows of the heap's objects.

    Returns
    -------
    ndarray of bool, shape (m,)
        False for those of which the dump lacks a part; `found.heap.coverage` gets a
        ``kmemleak.checksum`` then.
    """
    objects, records = found.objects, found.records
    record = found.row[rows]
    per_cpu = records.flagged(KernelFlags.PERCPU)[record].tolist()
    result = np.zeros(rows.size, bool)
    missing = 0
    for i, (address, size, stored, several) in enumerate(
        zip(
            objects.address[rows].tolist(),
            objects.size[rows].tolist(),
            records.checksum[record].tolist(),
            per_cpu,
            strict=True,
        )
    ):
        sums = _checksums(kernel, address, size, several)
        if sums is None:
            missing += 1
        else:
            result[i] = stored not in sums
    if missing:
        found.heap.coverage.add(
            "kmemleak.checksum",
            f"the content of {missing:,} unreferenced objects is not in the dump: nothing tells "
            "whether it changed",
            count=missing,
        )
    return result


def _checksums(kernel: Kernel, address: int, size: int, per_cpu: bool) -> tuple[int, ...] | None:
    """Return what the checksum of an object may be; None where its content is missing.

    Of a per-CPU object it is over all processors' copies: those of the copies combined by
    exclusive or at first, later one that goes on where the other ended. Nothing in a dump tells
    which kernel does what.
    """
    try:
        if not per_cpu:
            return (crc32(kernel.image.view(address, size)),)
        return _per_cpu_checksums(kernel, address, size)
    except FaultError:
        return None


def _per_cpu_checksums(kernel: Kernel, address: int, size: int) -> tuple[int, int]:
    together = chained = 0
    for offset in kernel.per_cpu_offsets:
        data = kernel.image.view((address + offset) % (1 << 64), size)
        together ^= crc32(data)
        chained = crc32(data, chained)
    return together, chained
