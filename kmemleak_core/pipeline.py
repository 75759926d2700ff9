"""Turns a dump, or tables that describe one, into a Report: sources, engine and meaning meet."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from . import workers
from .clock import Clock, Progress
from .coverage import Coverage
from .dump import Dump
from .errors import DumpError, HeapError, UsageError
from .heaps import Heap, finders
from .leak_groups import group_leaks
from .options import AnalyseOptions, KernelOptions, RawSource
from .report.model import Report, ReportSource
from .report.summary import Summary
from .roots import Roots
from .scan import ScanOptions, ScanResult, scan_image

if TYPE_CHECKING:
    from .kernel_findings import KernelFindings
    from .recognise import Types
    from .report.model import RecordsOf
    from .symbols import Symbol, SymbolTable

#: Notes on dumps that lack what their header announces.
_INCOMPLETE = ("dump.truncated", "vmcore.filtered")


@dataclass(frozen=True, slots=True)
class Found:
    """What a report is made of, before leaks are grouped.

    Parameters
    ----------
    dump, heap, roots
        The memory, the objects in it, and what was scanned unconditionally.
    result
        The scan.
    kernel, records
        Of a kernel's dump: see `Report`.
    symbols
        The kernel's names; None for a process.
    types
        Tells what objects of a process are; None where nobody wants to know, or nothing tells.
    """

    dump: Dump
    heap: Heap
    roots: Roots
    result: ScanResult
    kernel: KernelFindings | None = None
    records: RecordsOf | None = None
    symbols: SymbolTable | None = None
    types: Types | None = None


def analyse(
    source: Path | RawSource,
    options: AnalyseOptions | None = None,
    progress: Progress | None = None,
) -> Report:
    """Find the leaks in a dump.

    Parameters
    ----------
    source
        A dump file, or files that describe memory.
    options
        See `AnalyseOptions`.
    progress
        Told what begins.

    Raises
    ------
    DumpError
        The dump, or a table, cannot be read.
    HeapError
        No allocator module can walk a heap in it.
    UsageError
        The options contradict each other or the source.
    """
    options = options or AnalyseOptions()
    clock = Clock(progress or (lambda _: None))
    coverage = Coverage()
    found = _find_leaks(source, options, coverage, clock)
    dump, heap, roots, result = found.dump, found.heap, found.roots, found.result
    kernel, records = found.kernel, found.records
    rows = np.flatnonzero(result.white)
    provenance = None if heap.provenance is None else heap.provenance.take(rows)
    unsure, told = result.possible_rows, None
    if unsure is not None and heap.provenance is not None:
        told = heap.provenance.take(unsure)
    if found.types is not None:
        with clock("types"):
            provenance = found.types.of(rows, provenance)
            if unsure is not None:
                told = found.types.of(unsure, told)
    with clock("group"):
        leaks = result.leaks
        groups = group_leaks(leaks, result.image, result.objects, provenance)
        possible = result.possible
        possible_groups = group_leaks(possible, result.image, result.objects, told)
    coverage.extend(dump.coverage)
    coverage.extend(heap.coverage)
    coverage.extend(heap.objects.anomalies)
    if found.types is not None:
        coverage.extend(found.types.coverage)
    missing = int(result.counters["missing_bytes"])
    if missing:
        coverage.add(
            "scan.missing", "objects or roots reach into memory that the dump lacks", nbytes=missing
        )
    asked = asdict(options)
    of_kernel = asked.pop("kernel")
    asked.update(
        of_kernel if kernel is not None else {},
        end_pointers=result.options.end_pointers,
        possible=result.possible_rows is not None,
    )
    return Report(
        source=ReportSource(
            path=dump.path,
            format=dump.format,
            architecture=dump.architecture,
            word_size=dump.image.word_size,
            byteorder=dump.image.byteorder,
            process=dict(dump.process),
            threads=len(dump.threads),
        ),
        summary=Summary.of(heap.objects, leaks, possible if asked["possible"] else None),
        leaks=leaks,
        groups=groups,
        allocator=heap.allocator,
        counters={
            "image_bytes": dump.image.nbytes,
            "root_bytes": roots.nbytes,
            "root_words": len(roots.words),
            **heap.counters,
            **result.counters,
            **clock.seconds,
        },
        checks=heap.checks,
        coverage=coverage,
        options=asked,
        image=dump.image,
        result=result,
        provenance=provenance,
        origins=heap.provenance,
        types_of=found.types,
        possible=possible,
        possible_groups=possible_groups,
        possible_provenance=told,
        variable_at=_variable_at(found, options),
        kernel=kernel,
        kernel_records=None if records is None else lambda leaks: records(rows[leaks]),
    )


def _variable_at(found: Found, options: AnalyseOptions) -> Callable[[int], Symbol | None] | None:
    """Return what turns an address into the variable there; files are opened when it is asked."""
    if found.symbols is not None:
        return found.symbols.find
    if not found.dump.files:
        return None
    from .symbols.process import ProcessSymbols

    return ProcessSymbols(found.dump, options.sysroot).find


def scan(source: str | os.PathLike[str] | RawSource, **options: Any) -> Report:
    """Find the leaks in a core file: `analyse` for a notebook.

    Parameters
    ----------
    source
        The core's path, or a `RawSource`.
    **options
        Fields of `AnalyseOptions` and, for a kernel's dump, of `KernelOptions`.

    Examples
    --------
    >>> report = scan("core")  # doctest: +SKIP
    >>> report.leaks["address"], report.leaks["size"]  # doctest: +SKIP
    """
    if not isinstance(source, RawSource):
        source = Path(source)
    return analyse(source, AnalyseOptions.asked(**options))


def find_leaks(
    source: Path | RawSource,
    options: AnalyseOptions | None = None,
    progress: Progress | None = None,
) -> Found:
    """Find the leaks in a dump, with everything that led to them; otherwise as `analyse`."""
    clock = Clock(progress or (lambda _: None))
    return _find_leaks(source, options or AnalyseOptions(), Coverage(), clock)


def _find_leaks(
    source: Path | RawSource, options: AnalyseOptions, coverage: Coverage, clock: Clock
) -> Found:
    if isinstance(source, RawSource):
        dump, heap, roots = _open_raw(source, options, coverage, clock)
    else:
        from .dumps import open_dump

        with clock("open"):
            dump = open_dump(source, sysroot=options.sysroot)
        if dump.machine is not None:
            return _kernel_leaks(dump, options, coverage, clock)
        heap, roots = _process_heap(dump, options, coverage, clock)
    if options.kernel != KernelOptions():
        raise UsageError(
            f"{dump.path or 'plain memory'} is no dump of a kernel: what was asked of one"
            " does not apply"
        )
    roots = roots.without(options.no_roots)
    with clock("scan"):
        result = scan_image(
            dump.image,
            heap.objects,
            roots,
            options=_scan_options(options, bool(heap.allocator), options.possible is not False),
            threads=options.threads,
            low_memory=options.low_memory,
        )
    types = None
    told = heap.provenance is not None and heap.provenance.kind is not None
    if options.types and dump.files and not told:
        from .recognise import Types

        types = Types(dump, heap.objects, roots, options.sysroot)
    return Found(dump, heap, roots, result, types=types)


def _scan_options(options: AnalyseOptions, end_pointers: bool, possible: bool) -> ScanOptions:
    return ScanOptions(
        alignment=options.alignment,
        pointer_mask=options.pointer_mask,
        interior=options.interior,
        end_pointers=end_pointers if options.end_pointers is None else options.end_pointers,
        possible=possible,
        heuristics=options.heuristics,
    )


def _kernel_leaks(dump: Dump, options: AnalyseOptions, coverage: Coverage, clock: Clock) -> Found:
    from .kernel_pipeline import ROOT_KINDS, find_kernel_leaks

    if options.sysroot is not None:
        raise UsageError("a sysroot says nothing about a kernel")
    if options.possible:
        raise UsageError(
            "of a kernel's objects none is told to be possibly lost: its lists link them by members"
            " in their middle"
        )
    _check_classes(options.no_roots, ROOT_KINDS)
    try:
        found = find_kernel_leaks(
            dump,
            options.kernel,
            _scan_options(options, end_pointers=False, possible=False),
            clock,
            coverage,
            no_roots=options.no_roots,
            threads=options.threads,
            low_memory=options.low_memory,
        )
    except DumpError as error:
        # What is not there may be what was wanted.
        missing = next((n for n in dump.coverage if n.code in _INCOMPLETE), None)
        if missing is None:
            raise
        raise DumpError(
            f"{error.args[0]}: {missing.message}", hint=error.hint or "copy the dump again"
        ) from error
    return Found(
        dump, found.heap, found.roots, found.result, found.findings, found.records, found.symbols
    )


def _process_heap(
    dump: Dump, options: AnalyseOptions, coverage: Coverage, clock: Clock
) -> tuple[Heap, Roots]:
    from .process_roots import ROOT_KINDS, process_roots

    _check_classes(options.no_roots, ROOT_KINDS)
    with clock("heap"):
        heap = _find_heap(dump, options.threads or workers.available())
    with clock("roots"):
        roots = process_roots(dump, heap)
    if not dump.threads:
        coverage.add(
            "dump.no-threads",
            "the dump tells of no threads: registers and stack pointers are unknown, "
            "and what only they hold is reported as leaked",
        )
    return heap, roots


def _find_heap(dump: Dump, threads: int) -> Heap:
    from .heaps.foreign import name_foreign_allocator

    for finder in finders():
        heap = finder.find(dump, threads)
        if heap is not None:
            return heap
    name = name_foreign_allocator(dump)
    if name is not None:
        raise HeapError(
            f"{dump.path}: its allocator is {name}, which is not read yet",
            hint="describe its blocks in a table: kmemleak scan --memory ADDR:FILE --objects FILE",
        )
    raise HeapError(
        f"{dump.path}: no heap was found: no glibc malloc arena, and no other allocator's traces",
        hint="a core that holds the data of libc.so (or of a static program) and the heap: "
        "see core(5) on coredump_filter, and `kmemleak dump PID`",
    )


def _open_raw(
    source: RawSource, options: AnalyseOptions, coverage: Coverage, clock: Clock
) -> tuple[Dump, Heap, Roots]:
    from .dumps.raw import open_raw, read_objects, read_roots

    if options.sysroot is not None:
        raise UsageError("a sysroot says nothing about raw memory")
    with clock("open"):
        dump = open_raw(source.memory, word_size=source.word_size, byteorder=source.byteorder)
        if source.objects is not None and source.events is None:
            heap = Heap("", read_objects(source.objects, source.scan_areas))
        elif source.events is not None and source.objects is None and source.scan_areas is None:
            heap = _replayed(source.events, coverage)
        else:
            raise UsageError("raw memory needs objects, with or without scan areas, or events")
        roots = Roots() if source.roots is None else read_roots(source.roots, coverage)
    _check_classes(options.no_roots, roots.kinds)
    if not roots.ranges and not roots.words:
        coverage.add("roots.none", "there are no roots: every object that is not grey is a leak")
    return dump, heap, roots


def _replayed(path: Path, coverage: Coverage) -> Heap:
    from .logs.events import open_events
    from .replay import replay

    found = replay(open_events(path), samples=1, max_anomalies=0)
    coverage.extend(found.log.coverage)
    for kind, count in found.totals.items():
        if count:
            name = kind.name.lower().replace("_", "-")
            coverage.add(f"events.{name}", f"{path}: {name.replace('-', ' ')}", count=count)
    return Heap("", found.objects, provenance=found.provenance)


def _check_classes(asked: Iterable[str], known: Iterable[str]) -> None:
    unknown = sorted(set(asked) - set(known))
    if unknown:
        raise UsageError(
            f"there is no class of roots called {unknown[0]!r}",
            hint=f"one of: {', '.join(sorted(known))}",
        )
