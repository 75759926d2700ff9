"""Turns one record of a kernel's kmemleak report into a value that formatter and parser share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

#: Characters of a comm that the kernel keeps (``TASK_COMM_LEN`` less the end of the string).
COMM_LENGTH = 15


class KernelFrame(NamedTuple):
    """One line of a backtrace.

    Parameters
    ----------
    address
        What stands between ``[<`` and ``>]``: hexadecimal digits, a hash of the address, or
        ``(____ptrval____)``; None in layouts that show none (since 6.8).
    symbol
        ``"name+0x1/0x20 [module]"``, or a bare ``"0x…"`` where the kernel found no name.
    """

    address: str | None
    symbol: str


@dataclass(frozen=True, slots=True)
class KernelRecord:
    """One unreferenced object, as the kernel tells it.

    Parameters
    ----------
    address, size
        The object: its start, and bytes.
    space
        What the address is: ``""`` a virtual one, ``"phys"``, ``"percpu"``.
    comm
        Name of the task that allocated it, as printed: any characters but NUL, at most
        `COMM_LENGTH` of them.
    pid
        Its process id; 0 in interrupts.
    jiffies
        When it was allocated, in ticks.
    age
        Seconds since then, where the layout tells (3.2 to 6.6).
    hex_bytes
        Its first bytes; None where there is no hex dump.
    hex_label
        What the dump is of, after the number: ``"bytes"``, ``"bytes on cpu 1"``.
    crc
        Checksum of its content, where the layout tells (since 6.8).
    frames
        The backtrace, innermost first.
    more
        Objects with the same backtrace that a log leaves out after this one.
    line
        Number of the record's first line in its file, from 1; 0 if it comes from no file. Not
        compared.
    """

    address: int
    size: int
    space: str = ""
    comm: str = ""
    pid: int = 0
    jiffies: int = 0
    age: float | None = None
    hex_bytes: bytes | None = None
    hex_label: str = "bytes"
    crc: int | None = None
    frames: tuple[KernelFrame, ...] = ()
    more: int = 0
    line: int = field(default=0, compare=False)
