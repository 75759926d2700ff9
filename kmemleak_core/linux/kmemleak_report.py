"""Turns leaks among a kernel's objects into the records of its own report."""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import FaultError, UsageError
from ..kernel_record import KernelFrame, KernelRecord
from ..report.kernel_layouts import LAYOUTS, Layout, layout_named
from .hashed_pointers import HashedPointers
from .kernel import Kernel
from .kmemleak import KernelHeap
from .kmemleak_list import SPACES, KernelFlags

#: Bytes of an object that the kernel shows.
_SHOWN = 32
#: Bytes of a kernel's read-only data, at most.
_READ_ONLY = 1 << 28
#: Seconds of kmemleak's minimum age (``MSECS_MIN_AGE``): with its ticks it tells their rate.
_MIN_AGE = 5


def report_layout(kernel: Kernel) -> Layout:
    """Return how this kernel prints its report, as its own format strings tell.

    Long-term series have taken changes from later ones: the release alone does not tell.
    """
    start = kernel.symbols.address("__start_rodata")
    end = kernel.symbols.address("__end_rodata")
    text = b""
    if start is not None and end is not None and start < end <= start + _READ_ONLY:
        pieces = []
        for segment in kernel.image.segments:
            low, high = max(start, segment.address), min(end, segment.end)
            if low < high:
                offset = low - segment.address
                pieces.append(segment.data[offset : offset + high - low].tobytes())
        text = b"".join(pieces)
    if b"unreferenced object" not in text:
        try:
            return layout_named(kernel.release)
        except UsageError:
            return LAYOUTS["6.8"]
    checksum = b"  backtrace (crc %x):\n" in text
    return Layout(
        kernel.release,
        content=b"hex dump (first " in text,
        age=b", jiffies %lu (age " in text,
        addresses=b"    [<%p" in text and not checksum,
        checksum=checksum,
        spaces=b"unreferenced object%s 0x" in text,
        processors=b" bytes on cpu %d):\n" in text,
    )


def kernel_records(
    kernel: Kernel, found: KernelHeap, rows: Iterable[int], *, processor: int = 0
) -> list[KernelRecord]:
    """Return what the kernel would print of objects.

    Parameters
    ----------
    kernel, found
        The kernel, and its records.
    rows
        Rows of the heap's objects, in the order that is wanted: `Verdict.rows`.
    processor
        Whose copy of a per-CPU object is shown: the kernel's is the one that prints.

    Returns
    -------
    list of KernelRecord
        Symbols are those of the dump's moment. Addresses of frames are the hashes that
        the kernel prints; None where it had no key for them. Content that is not in the dump is
        None.
    """
    records, state = found.records, found.state
    printed = HashedPointers(kernel)
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
            names[trace] = tuple(
                KernelFrame(printed.text(a), kernel.symbols.text(a)) for a in frames
            )
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
                hex_bytes=_content(kernel, address, size, processor if per_cpu else None),
                hex_label=f"bytes on cpu {processor}" if per_cpu else "bytes",
                crc=int(records.checksum[i]),
                frames=names[trace],
            )
        )
    return made


def _content(kernel: Kernel, address: int, size: int, processor: int | None) -> bytes | None:
    if processor is not None:
        if processor >= len(kernel.per_cpu_offsets):
            return None
        address = (address + kernel.per_cpu_offsets[processor]) % (1 << 64)
    try:
        return kernel.image.read(address, min(size, _SHOWN))
    except FaultError:
        return None
