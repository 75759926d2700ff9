"""Turns a live object into the kernel's texts: a record of the report, an answer to ``dump=``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .kernel_record import KernelFrame, KernelRecord
from .lifecycle import ObjectView
from .live import LiveMemory

#: Bytes of content in a record.
HEX_BYTES = 32
#: The kernel's flag of an object that is there.
_ALLOCATED = 1
#: The kernel's flags: what this package adds stays its own.
_KERNEL_FLAGS = 0x7F


def live_record(
    leak: ObjectView, memory: LiveMemory, copies: Sequence[int], frames: Sequence[str]
) -> KernelRecord:
    """Return the record of a leak, with as much of its content as can be read.

    Parameters
    ----------
    leak
        The object.
    memory
        Where it lies.
    copies
        Of a per-CPU object: what is added to its address for each CPU.
    frames
        Its backtrace as text.
    """
    address, label = leak.address, "bytes"
    if leak.space == "percpu":
        address += copies[0] if copies else 0
        label = "bytes on cpu 0"
    size = min(HEX_BYTES, leak.size)
    image = memory.window(np.array([address], dtype=np.uint64), np.array([size], dtype=np.uint64))
    segment = image.find(address)
    content = b"" if segment is None else image.read(address, min(size, segment.end - address))
    return KernelRecord(
        address=leak.address,
        size=leak.size,
        space=leak.space,
        comm=leak.comm,
        pid=leak.pid,
        jiffies=leak.jiffies,
        age=leak.age,
        hex_bytes=content,
        hex_label=label,
        crc=leak.checksum,
        frames=tuple(KernelFrame(None, text) for text in frames),
    )


def describe_object(found: ObjectView, frames: Sequence[str]) -> str:
    """Return what ``dump=`` prints of an object."""
    lines = [
        f"Object 0x{found.address:08x} (size {found.size}):",
        f'  comm "{found.comm}", pid {found.pid}, jiffies {found.jiffies}',
        f"  min_count = {found.min_count}",
        f"  count = {found.count}",
        f"  flags = 0x{found.flags & _KERNEL_FLAGS | _ALLOCATED:x}",
        f"  checksum = {found.checksum}",
        "  backtrace:",
    ]
    return "".join(f"{line}\n" for line in [*lines, *(f"    {text}" for text in frames)])
