"""Turns a dump of a whole machine into what its kernel leaks: objects, roots, scan, verdict."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .clock import Clock
from .coverage import Coverage
from .dump import Dump
from .errors import DumpError, HeapError, UsageError
from .heaps import Heap
from .kernel_findings import Difference, KernelFindings
from .kernel_record import KernelRecord
from .linux.kernel import Kernel, open_kernel
from .linux.roots import KINDS, kernel_roots
from .objects import ObjectTable
from .options import KernelOptions, VerdictName
from .provenance import Provenance
from .roots import Roots
from .scan import ScanOptions, ScanResult, scan_image

if TYPE_CHECKING:
    from .heaps.slub import KernelMemory
    from .linux.beside_kmemleak import Beside
    from .linux.comparison import Reason
    from .linux.kmemleak import KernelHeap
    from .linux.pages import Pages
    from .linux.verdict import Rules, Verdict
    from .report.kernel_layouts import Layout
    from .report.model import RecordsOf
    from .symbols import SymbolTable

#: Classes of roots of a kernel, and what a user is told that they are.
ROOT_KINDS = {
    "data": ".data, .bss and what became read-only after booting",
    "modules": "modules' data",
    "percpu": "static per-CPU areas",
    "pages": "the structures of pages in use",
    "reserved": "memory that was given out at boot",
    "contents": "pages that come straight from the page allocator",
    "stacks": "the stacks of all tasks",
    "old-stacks": "the parts of stacks below their pointers: leftovers of calls that returned",
    "phys": "what kmemleak tracks by physical address",
    "registers": "registers of every processor",
}

#: Addresses that stand for all of a difference.
_EXAMPLES = 10


@dataclass(frozen=True, slots=True)
class KernelLeaks:
    """What was found of a kernel.

    Parameters
    ----------
    heap
        Its objects.
    result
        The scan, whose white objects are the leaks.
    roots
        What was scanned unconditionally.
    findings
        For the report.
    symbols
        The kernel's names.
    records
        Turns rows of objects into what the kernel would print of them, and in which layout; None
        without kmemleak's records.
    """

    heap: Heap
    result: ScanResult
    roots: Roots
    findings: KernelFindings
    symbols: SymbolTable
    records: RecordsOf | None = None


def find_kernel_objects(dump: Dump, options: KernelOptions) -> Heap:
    """Find all objects of a kernel, with what is known of each; errors as `find_kernel_leaks`."""
    from .linux.kmemleak import find_kmemleak

    kernel = open_kernel(dump, vmlinux=options.vmlinux, layout=options.layout)
    found = find_kmemleak(kernel) if options.records != "slub" else None
    if found is None:
        _check_records(dump, options)
        heap = _slub_memory(kernel).heap()
    else:
        heap = copy.copy(found.heap)
        heap.provenance = _with_kinds(kernel, _pages(kernel), heap)
    heap.coverage.extend(kernel.coverage)
    return heap


def find_kernel_leaks(
    dump: Dump,
    options: KernelOptions,
    scan_options: ScanOptions,
    clock: Clock,
    coverage: Coverage,
    *,
    no_roots: frozenset[str] = frozenset(),
    threads: int | None = None,
    low_memory: bool = False,
) -> KernelLeaks:
    """Find what a kernel leaks.

    Parameters
    ----------
    dump
        Of a whole machine.
    options
        See `KernelOptions`.
    scan_options, threads, low_memory
        As of `scan_image`.
    clock
        Times the parts.
    coverage
        Receives what was missing of the kernel.
    no_roots
        Classes of roots to leave out, keys of `ROOT_KINDS`.

    Raises
    ------
    DumpError
        Names, types or structures cannot be had.
    HeapError
        There are no records of objects, or not those that were asked for.
    UsageError
        The options contradict each other.
    """
    from .linux.kmemleak import find_kmemleak

    with clock("kernel"):
        kernel = open_kernel(dump, vmlinux=options.vmlinux, layout=options.layout)
    how: dict[str, Any] = {
        "options": scan_options,
        "threads": threads,
        "low_memory": low_memory,
    }
    coverage.extend(kernel.coverage)
    kernel.coverage = coverage
    found = None
    if options.records != "slub":
        with clock("heap"):
            found = find_kmemleak(kernel)
    if found is not None:
        return _by_kmemleak(kernel, found, options, clock, no_roots, how)
    _check_records(dump, options)
    if options.verdict == "kernel" or options.no_rules:
        raise UsageError(
            f"{dump.path}: the kernel's own verdict comes from kmemleak's records, which "
            + ("were not asked for" if options.records == "slub" else "this kernel does not have"),
            hint="leave --as and --no-rules out: the verdict is that of the frozen image",
        )
    return _by_slub(kernel, clock, no_roots, how)


def _check_records(dump: Dump, options: KernelOptions) -> None:
    if options.records == "kmemleak":
        raise HeapError(
            f"{dump.path}: this kernel has no records of kmemleak",
            hint="without them, its allocator's own books tell what is allocated: --records slub",
        )


def _slub_memory(kernel: Kernel) -> KernelMemory:
    from .heaps.slub import read_memory

    memory = read_memory(kernel)
    if memory is None:
        raise HeapError(
            f"{kernel.dump.path}: the allocator of this kernel is not SLUB",
            hint="SLAB (before Linux 6.8) and SLOB (before 6.4) are not read",
        )
    return memory


def _by_slub(
    kernel: Kernel, clock: Clock, no_roots: frozenset[str], how: Mapping[str, Any]
) -> KernelLeaks:
    from .linux.kmemleak import find_kmemleak
    from .linux.leftovers import live_parts

    with clock("heap"):
        memory = _slub_memory(kernel)
        heap = memory.heap()
    with clock("roots"):
        roots = memory.roots().without(no_roots)
    with clock("scan"):
        objects = live_parts(kernel, heap.objects, roots, kernel.coverage)
        result = scan_image(kernel.image, objects, roots, **how)
    differences: tuple[Difference, ...] = ()
    found = find_kmemleak(kernel)
    if found is not None:
        from .linux.beside_kmemleak import Beside, compare_books

        with clock("compare"):
            reasons = compare_books(kernel, heap.objects, result.white, found)
            differences = _differences(heap.objects, reasons, result.white, Beside)
    findings = KernelFindings(kernel.release, "slub", "", differences)
    return KernelLeaks(heap, result, roots, findings, kernel.symbols)


def _by_kmemleak(
    kernel: Kernel,
    found: KernelHeap,
    options: KernelOptions,
    clock: Clock,
    no_roots: frozenset[str],
    how: Mapping[str, Any],
) -> KernelLeaks:
    from .linux.verdict import AS_KERNEL, AS_NOW, find_verdict, rules_named, stored_reported

    with clock("roots"):
        pages = _pages(kernel)
        kinds = {kind for kind in KINDS if kind not in no_roots}
        if pages is None:
            kinds.discard("pages")
        roots = kernel_roots(kernel, found, kinds=kinds, pages=pages)
    shown = _without(rules_named(options.verdict), options.no_rules)
    with clock("scan"):
        now = find_verdict(kernel, found, AS_NOW, roots=roots, **how)
        by_rules = find_verdict(kernel, found, AS_KERNEL, base=now.base)
        verdict = now if options.verdict == "now" else by_rules
        if shown != verdict.rules:
            verdict = find_verdict(kernel, found, shown, base=now.base)
    with clock("compare"):
        findings = _compare(kernel, found, options.verdict, now, by_rules)
        findings = replace(
            findings, kernel_reported=int(np.count_nonzero(stored_reported(kernel, found)))
        )
        heap = copy.copy(found.heap)
        heap.provenance = _with_kinds(kernel, pages, heap)
    records = partial(_records, kernel, found)
    return KernelLeaks(heap, verdict.scan, roots, findings, kernel.symbols, records)


def _records(
    kernel: Kernel, found: KernelHeap, rows: NDArray[Any]
) -> tuple[Layout, list[KernelRecord]]:
    from .linux.kmemleak_report import kernel_records, report_layout

    return report_layout(kernel), kernel_records(kernel, found, rows)


def _pages(kernel: Kernel) -> Pages | None:
    """Read the array of struct pages; a dump that is cut short may lack it."""
    from .linux.pages import read_pages

    try:
        return read_pages(kernel)
    except DumpError as error:
        kernel.coverage.add(
            "kernel.pages", f"struct pages are not scanned, nor are objects' caches told: {error}"
        )
        return None


def _without(rules: Rules, without: frozenset[str]) -> Rules:
    """Switch rules off by their names."""
    known = {field.name for field in fields(rules)} - {"registers"}
    unknown = sorted(without - known)
    if unknown:
        raise UsageError(
            f"there is no rule called {unknown[0]!r}", hint=f"one of: {', '.join(sorted(known))}"
        )
    return replace(rules, **dict.fromkeys(without, False))


def _compare(
    kernel: Kernel, found: KernelHeap, shown: VerdictName, now: Verdict, by_rules: Verdict
) -> KernelFindings:
    from .linux.comparison import Reason, compare

    comparison = compare(kernel, found, now, by_rules)
    first = now if shown == "now" else by_rules
    return KernelFindings(
        kernel.release,
        "kmemleak",
        shown,
        _differences(found.objects, comparison.now_and_kernel, first.reported, Reason),
        _differences(found.objects, comparison.rules_and_report, by_rules.reported, Reason),
        comparison.colours,
    )


def _differences(
    objects: ObjectTable,
    reasons: NDArray[np.uint8],
    leak: NDArray[np.bool_],
    names: type[Reason] | type[Beside],
) -> tuple[Difference, ...]:
    """Tell of the objects on which verdicts differ, by reason."""
    told = []
    order = objects.allocation_order()
    for reason in names:
        rows = order[reasons[order] == reason] if reason else order[:0]
        if rows.size:
            told.append(
                Difference(
                    reason.name.lower().replace("_", "-"),
                    reason.sentence,
                    bool(leak[rows[0]]),
                    int(rows.size),
                    int(objects.size[rows].sum(dtype=np.uint64)),
                    tuple(objects.address[rows[:_EXAMPLES]].tolist()),
                )
            )
    return tuple(told)


def _with_kinds(kernel: Kernel, pages: Pages | None, heap: Heap) -> Provenance | None:
    """Return kmemleak's provenance with slab caches, and whose variables an object is made of."""
    from .heaps.slub.naming import kinds_of
    from .linux.images import whole_images

    provenance = heap.provenance
    if provenance is None or provenance.kind is None:
        return provenance
    kind, kinds = provenance.kind.copy(), list(provenance.kinds)
    address = heap.objects.address
    unknown = np.flatnonzero(kind < 0)
    if pages is not None:
        caches, names = kinds_of(kernel, pages, address[unknown])
        kind[unknown] = np.where(caches >= 0, caches + len(kinds), -1)
        kinds += names
    first_image = len(kinds)
    for part in whole_images(kernel):
        inside = (kind < 0) & (address >= part.address) & (address < part.end)
        if inside.any():
            if len(kinds) == first_image or kinds[-1] != part.name:
                kinds.append(part.name)
            kind[inside] = len(kinds) - 1
    images = tuple(range(first_image, len(kinds)))
    return replace(provenance, kind=kind.astype(np.int32), kinds=kinds, images=images)
