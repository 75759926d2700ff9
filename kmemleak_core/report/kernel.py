"""Turns a report into records as /sys/kernel/debug/kmemleak prints them (Linux 6.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TextIO

from .escape import printable
from .hexdump import hex_rows
from .model import RenderOptions, Report
from .select import chosen_rows


class KernelRenderer:
    """The kernel's layout, so that tools that parse its report can parse ours.

    What a dump cannot tell is written as 0 (pid, jiffies) or left empty (comm, backtrace).
    Unlike the kernel's, the name has its control characters escaped.
    """

    name = "kmemleak"

    def render(self, report: Report, out: TextIO, options: RenderOptions) -> None:
        """Write one record a leak; see `Renderer`."""
        rows, _ = chosen_rows(report, options)
        process = report.source.process
        comm = process.get("name", "")
        pid = process.get("pid", "")
        number = int(pid) if pid.isascii() and pid.isdigit() else 0
        leaks = report.leaks.array
        for row in rows.tolist():
            address, size = int(leaks["address"][row]), int(leaks["size"][row])
            content = None
            if not options.redact:
                content = report.content(address, min(size, max(0, options.hex_bytes)))
            lines = record(address, size, comm=comm, pid=number, content=content)
            out.writelines(text + "\n" for text in lines)


def record(
    address: int,
    size: int,
    *,
    comm: str = "",
    pid: int = 0,
    jiffies: int = 0,
    content: bytes | None = b"",
    backtrace: Iterable[str] = (),
) -> Iterator[str]:
    """Yield the lines of one record.

    Parameters
    ----------
    address, size
        The object.
    comm, pid, jiffies
        Who allocated it, and when.
    content
        Its first bytes; None to leave the hex dump out.
    backtrace
        Frames, as they are to be shown: ``"[<address>] symbol+0x1/0x2"``.
    """
    yield f"unreferenced object 0x{address:08x} (size {size}):"
    yield f'  comm "{printable(comm)}", pid {pid}, jiffies {jiffies}'
    if content is not None:
        yield f"  hex dump (first {len(content)} bytes):"
        for row in hex_rows(content):
            yield f"    {row}"
    yield "  backtrace:"
    for frame in backtrace:
        yield f"    {printable(frame)}"
