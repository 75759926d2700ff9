"""Turns a report into records as /sys/kernel/debug/kmemleak prints them (Linux 6.1)."""

from __future__ import annotations

from typing import TextIO

from ..kernel_record import KernelRecord
from .escape import printable
from .kernel_layouts import LAYOUTS, format_record
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
        comm = printable(process.get("name", ""))
        pid = process.get("pid", "")
        number = int(pid) if pid.isascii() and pid.isdigit() else 0
        leaks = report.leaks.array
        layout = LAYOUTS["6.1"]
        for row in rows.tolist():
            address, size = int(leaks["address"][row]), int(leaks["size"][row])
            content = None
            if not options.redact:
                content = report.content(address, min(size, max(0, options.hex_bytes)))
            record = KernelRecord(address, size, comm=comm, pid=number, hex_bytes=content)
            out.writelines(line + "\n" for line in format_record(record, layout))
