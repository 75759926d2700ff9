"""Turns a report into records as /sys/kernel/debug/kmemleak prints them (Linux 6.1)."""

from __future__ import annotations

from contextlib import suppress
from typing import TextIO

from ..errors import UsageError
from ..kernel_record import KernelFrame, KernelRecord
from .escape import printable
from .kernel_layouts import LAYOUTS, format_record, layout_named
from .model import RenderOptions, Report
from .select import chosen_rows


class KernelRenderer:
    """The kernel's layout, so that tools that parse its report can parse ours.

    A kernel's dump is told as that kernel would tell it. Of others, what the dump cannot tell is
    written as 0 (pid, jiffies) or left empty (comm, backtrace); unlike the kernel's, the name of
    the process has its control characters escaped.
    """

    name = "kmemleak"

    def render(self, report: Report, out: TextIO, options: RenderOptions) -> None:
        """Write one record a leak; see `Renderer`."""
        rows, _ = chosen_rows(report, options)
        layout = LAYOUTS["6.1"]
        if report.kernel is not None:
            with suppress(UsageError):  # a release that is no number
                layout = layout_named(report.kernel.release)
        for row in rows.tolist():
            record = _record(report, options, row)
            out.writelines(line + "\n" for line in format_record(record, layout))


def _record(report: Report, options: RenderOptions, row: int) -> KernelRecord:
    leaks = report.leaks.array
    address, size = int(leaks["address"][row]), int(leaks["size"][row])
    content = None
    if not options.redact:
        content = report.content(address, min(size, max(0, options.hex_bytes)))
    if report.provenance is None:
        process = report.source.process
        pid = process.get("pid", "")
        return KernelRecord(
            address,
            size,
            comm=printable(process.get("name", "")),
            pid=int(pid) if pid.isascii() and pid.isdigit() else 0,
            hex_bytes=content,
        )
    origin = report.provenance.origin(row)
    return KernelRecord(
        address,
        size,
        comm=origin.comm,
        pid=origin.pid or 0,
        jiffies=origin.birth or 0,
        hex_bytes=content,
        frames=tuple(KernelFrame(None, frame) for frame in origin.frames),
    )
