"""Turns a KernelRecord into lines as a given Linux prints them in /sys/kernel/debug/kmemleak."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import UsageError
from ..kernel_record import COMM_LENGTH, KernelFrame, KernelRecord
from .escape import printable
from .hexdump import hex_rows

__all__ = ["LAYOUTS", "KernelFrame", "KernelRecord", "Layout", "format_record", "layout_named"]

#: What ``%p`` prints before the kernel can hash an address: stands for one that nobody knows.
_UNKNOWN_ADDRESS = "(____ptrval____)"


@dataclass(frozen=True, slots=True)
class Layout:
    """What the records of some releases of Linux hold.

    Parameters
    ----------
    name
        The first release that prints it.
    prefix
        Stands before each line, in the file too.
    content
        Whether there is a hex dump.
    age
        Whether the age follows the jiffies.
    addresses
        Whether frames show their address.
    checksum
        Whether the backtrace tells the object's checksum.
    spaces
        Whether physical and per-CPU objects are called so.
    processors
        Whether a per-CPU object's hex dump tells the processor; it does where `spaces` does.
    """

    name: str
    prefix: str = ""
    content: bool = True
    age: bool = False
    addresses: bool = True
    checksum: bool = False
    spaces: bool = False
    processors: bool = False


#: Read in ``print_unreferenced()`` of mm/kmemleak.c at these releases. 6.1's long-term series
#: took back the removal of the age (6.8), but not the checksum.
LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout("2.6.31", prefix="kmemleak: ", content=False),
        Layout("2.6.32"),
        Layout("3.2", age=True),
        Layout("6.1"),
        Layout("6.8", addresses=False, checksum=True, spaces=True),
    )
}

_RELEASE = re.compile(r"([0-9]{1,4})\.([0-9]{1,4})(?:\.([0-9]{1,4}))?")


def layout_named(name: str) -> Layout:
    """Return the layout of a release of Linux: ``"4.19"`` prints as 3.2 did.

    ``"6.1"`` is the layout of its long-term series; other releases from 3.2 to 6.7 tell the age.

    Raises
    ------
    UsageError
        It is no release, or one without kmemleak.
    """
    if name in LAYOUTS:
        return LAYOUTS[name]
    release = _parts(name)
    older = [layout for layout in LAYOUTS.values() if _parts(layout.name) <= release]
    # 6.1 stands for its own series only.
    found = [layout for layout in older if layout.name != "6.1" or release[:2] == (6, 1)]
    if not found:
        raise UsageError(
            f"{name!r} is no release of Linux with kmemleak", hint=f"one of: {', '.join(LAYOUTS)}"
        )
    return found[-1]


def format_record(record: KernelRecord, layout: Layout | str = "6.8") -> list[str]:
    """Return the lines of one record, without line ends.

    What the layout does not show is left out. The comm is printed as it is, as the kernel does
    (a line end in it makes one of the lines two); symbols have control characters escaped.

    Parameters
    ----------
    record
        The object.
    layout
        One of `LAYOUTS`, or a release of Linux.
    """
    if isinstance(layout, str):
        layout = layout_named(layout)
    space = f" ({record.space})" if record.space and layout.spaces else ""
    # A longer name could hold a whole record; the kernel has room for so much, too.
    comm = record.comm[:COMM_LENGTH]
    age = f" (age {record.age:.3f}s)" if layout.age and record.age is not None else ""
    lines = [
        f"unreferenced object{space} 0x{record.address:08x} (size {record.size}):",
        f'  comm "{comm}", pid {record.pid}, jiffies {record.jiffies}{age}',
    ]
    if layout.content and record.hex_bytes is not None:
        label = record.hex_label if layout.spaces or layout.processors else "bytes"
        lines.append(f"  hex dump (first {len(record.hex_bytes)} {label}):")
        lines += [f"    {row}" for row in hex_rows(record.hex_bytes)]
    crc = f" (crc {record.crc:x})" if layout.checksum and record.crc is not None else ""
    lines.append(f"  backtrace{crc}:")
    for address, symbol in record.frames:
        shown = f"[<{address or _UNKNOWN_ADDRESS}>] " if layout.addresses else ""
        lines.append(f"    {shown}{printable(symbol)}")
    if record.more:
        lines.append(f"  ... and {record.more} more object(s) with the same backtrace")
    return [layout.prefix + line for line in lines] if layout.prefix else lines


def _parts(name: str) -> tuple[int, int, int]:
    match = _RELEASE.match(name)
    return (int(match[1]), int(match[2]), int(match[3] or 0)) if match else (0, 0, 0)
