"""Turns a report into records as /sys/kernel/debug/kmemleak prints them (Linux 6.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import TextIO

from ..kernel_record import KernelFrame, KernelRecord
from ..provenance import UNKNOWN
from .escape import printable
from .kernel_layouts import LAYOUTS, format_record
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
        if report.kernel_records is not None:
            layout, records = report.kernel_records(rows)
            records = [_shortened(record, options) for record in records]
        else:
            layout = LAYOUTS["6.1"]
            records = [_record(report, options, row) for row in rows.tolist()]
        for record in records:
            out.writelines(line + "\n" for line in format_record(record, layout))


def _shortened(record: KernelRecord, options: RenderOptions) -> KernelRecord:
    content = record.hex_bytes
    if content is not None:
        content = None if options.redact else content[: max(0, options.hex_bytes)]
    return replace(record, hex_bytes=content)


def _record(report: Report, options: RenderOptions, row: int) -> KernelRecord:
    leaks = report.leaks.array
    address, size = int(leaks["address"][row]), int(leaks["size"][row])
    content = None
    if not options.redact:
        content = report.content(address, min(size, max(0, options.hex_bytes)))
    process = report.source.process
    pid = process.get("pid", "")
    origin = UNKNOWN if report.provenance is None else report.provenance.origin(row)
    return KernelRecord(
        address,
        size,
        comm=origin.comm or printable(process.get("name", "")),
        pid=origin.pid or (int(pid) if pid.isascii() and pid.isdigit() else 0),
        jiffies=origin.birth or 0,
        hex_bytes=content,
        frames=tuple(KernelFrame(None, frame) for frame in origin.frames),
    )
