"""Turns leaks among a kernel's objects into the records of its own report."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import FaultError
from ..kernel_record import KernelFrame, KernelRecord
from .kernel import Kernel
from .kmemleak import KernelHeap
from .kmemleak_list import SPACES, KernelFlags

#: Bytes of an object that the kernel shows.
_SHOWN = 32
#: Seconds of kmemleak's minimum age (``MSECS_MIN_AGE``): with its ticks it tells their rate.
_MIN_AGE = 5


def kernel_records(kernel: Kernel, found: KernelHeap, rows: Iterable[int]) -> list[KernelRecord]:
    """Return what the kernel would print of objects.

    Parameters
    ----------
    kernel, found
        The kernel, and its records.
    rows
        Rows of the heap's objects, in the order that is wanted: `Verdict.rows`.

    Returns
    -------
    list of KernelRecord
        Symbols are those of the dump's moment. Addresses of frames are None: the kernel prints
        hashes of them, or nothing. Content that is not in the dump is None; of a per-CPU object
        it is the first processor's.
    """
    records, state = found.records, found.state
    names: dict[int, tuple[KernelFrame, ...]] = {}
    ticks = max(1, state.min_age // _MIN_AGE)
    mask = (1 << (8 * kernel.image.word_size)) - 1
    space = records.space
    made = []
    for row in rows:
        i = int(found.row[row])
        trace = int(records.trace[i])
        if trace not in names:
            frames = records.traces[trace] if trace >= 0 else ()
            names[trace] = tuple(KernelFrame(None, kernel.symbols.text(a)) for a in frames)
        address, size = int(records.address[i]), int(records.size[i])
        per_cpu = bool(records.flags[i] & KernelFlags.PERCPU)
        born = int(records.jiffies[i]) & mask
        made.append(
            KernelRecord(
                address,
                size,
                space=SPACES[space[i]],
                comm=records.comms[int(records.comm[i])],
                pid=int(records.pid[i]),
                jiffies=born,
                age=((state.now - born) & mask) / ticks,
                hex_bytes=_content(kernel, address, size, per_cpu),
                hex_label="bytes on cpu 0" if per_cpu else "bytes",
                crc=int(records.checksum[i]),
                frames=names[trace],
            )
        )
    return made


def _content(kernel: Kernel, address: int, size: int, per_cpu: bool) -> bytes | None:
    if per_cpu:
        if not kernel.per_cpu_offsets:
            return None
        address = (address + kernel.per_cpu_offsets[0]) % (1 << 64)
    try:
        return kernel.image.read(address, min(size, _SHOWN))
    except FaultError:
        return None
