"""Turns what a kernel's dump tells beside its leaks into lines of text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from ..kernel_findings import Difference, KernelFindings
from .escape import printable
from .model import Report
from .units import count_text, size_text

_RECORDS = {"kmemleak": "objects from kmemleak's records", "slub": "objects from SLUB's books"}

#: By the verdict that is shown: what the other one is.
_OTHERS = {
    "now": "By the running kernel's rules the verdict is another one on:",
    "kernel": "In the image as it stands the verdict is another one on:",
    "": "By this kernel's kmemleak the verdict is another one on:",
}


def kernel_facts(report: Report) -> list[str]:
    """Return what the title says of a kernel."""
    kernel = report.kernel
    assert kernel is not None
    return [
        f"Linux {kernel.release}" if kernel.release else "",
        count_text(report.source.threads, "processor") if report.source.threads else "",
        _RECORDS.get(kernel.records, f"objects from {kernel.records}"),
        "as the running kernel had it" if kernel.verdict == "kernel" else "",
    ]


def verdict_lines(kernel: KernelFindings, width: int) -> Iterator[str]:
    """Yield where verdicts on a kernel's objects differ, and why."""
    if kernel.differences:
        yield ""
        # What is shown is one of two verdicts; where the other one differs is told.
        yield _OTHERS.get(kernel.verdict, "Otherwise the verdict is another one on:")
        for difference in kernel.differences:
            yield from _difference(difference, width)
    if kernel.kernel_reported is not None:
        yield ""
        told = f"The kernel's own report has {count_text(kernel.kernel_reported, 'leak')}"
        yield from textwrap.wrap(
            f"{told}, as its rules have it."
            if not kernel.surprises
            else f"{told}; its rules, applied to the dump, have it otherwise on:",
            width,
        )
        for difference in kernel.surprises:
            yield from _difference(difference, width)
    if kernel.colours is not None and kernel.colours[1]:
        agreed, others = kernel.colours
        yield from textwrap.wrap(
            f"The kernel's last scan counted differently for {count_text(others, 'object')} of "
            f"{agreed + others:,} that are older than it.",
            width,
        )


def _difference(difference: Difference, width: int) -> Iterator[str]:
    what = "a leak" if difference.leak else "no leak"
    if difference.objects > 1:
        what = "leaks" if difference.leak else "no leaks"
    text = (
        f"{count_text(difference.objects, 'object')} ({size_text(difference.nbytes)}), {what}"
        f" here: {printable(difference.reason)}"
    )
    yield from textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="    ")
    shown = ", ".join(f"{address:#x}" for address in difference.examples[:3])
    more = " …" if difference.objects > 3 else ""
    yield f"    {shown}{more}"
