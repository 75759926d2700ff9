"""Turns ``kmemleak scan`` into a report of what leaks in a dump."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from . import output, values
from .kernel_source import add_kernel_source

if TYPE_CHECKING:
    from ..options import AnalyseOptions, RawSource
    from ..report import Report

_DESCRIPTION = """\
Tells which allocated objects of a dump nobody can reach.

The dump is an ELF core file (from the kernel, gcore or `kmemleak dump`, also compressed
with zstd, gzip, xz or lz4), whose malloc heap is found without symbols; a kernel's vmcore
(ELF or kdump-compressed), whose names and types are found in it; or plain memory with tables
of its objects and roots.
"""

_EPILOG = """\
examples:
  kmemleak scan core
  kmemleak scan --sysroot / --limit 0 core
  kmemleak scan --list --order size --min-size 1M core.zst
  kmemleak scan --json --redact -o leaks.json core
  kmemleak scan --no-roots registers,stacks core
  kmemleak scan vmcore
  kmemleak scan --as kernel --format kmemleak vmcore
  kmemleak scan --memory 0x20000000:ram.bin --objects objects.csv --roots roots.csv \\
                --word-size 4

"""


def prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    from .command import EXIT_CODES

    parser = subparsers.add_parser(
        "scan",
        help="tell what leaks in a core file, or in other memory",
        description=_DESCRIPTION,
        epilog=_EPILOG + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    parser.add_argument("core", nargs="?", type=Path, metavar="CORE", help="a core file or vmcore")

    raw = parser.add_argument_group("plain memory instead of a core")
    raw.add_argument(
        "--memory",
        action="append",
        default=[],
        metavar="ADDR:FILE",
        help="the file's bytes are the memory at that address (can be given more than once)",
    )
    raw.add_argument(
        "--objects", type=Path, metavar="FILE", help="allocated objects: CSV, JSONL or npz"
    )
    raw.add_argument(
        "--events",
        type=Path,
        metavar="FILE",
        help="instead: a log of allocations and frees, as kmemleak replay takes it",
    )
    raw.add_argument("--roots", type=Path, metavar="FILE", help="root ranges and words")
    raw.add_argument(
        "--scan-areas", type=Path, metavar="FILE", help="objects of which only parts are scanned"
    )
    raw.add_argument("--word-size", type=int, choices=(4, 8), help="bytes of a pointer (default 8)")
    raw.add_argument("--byteorder", choices=("little", "big"), help="(default little)")

    what = parser.add_argument_group("what is scanned")
    what.add_argument(
        "--sysroot",
        type=Path,
        metavar="DIR",
        help="folder with the program's files, for the pages that the core lacks",
    )
    what.add_argument(
        "--no-roots",
        type=values.names,
        default=frozenset(),
        metavar="CLASS,…",
        help="leave out classes of roots: registers, stacks, tls, data, anonymous, readonly;"
        " of a kernel: data, modules, percpu, pages, reserved, contents, stacks, old-stacks"
        " (their unused parts), phys, registers;"
        " with plain memory, kinds of the roots file",
    )
    what.add_argument(
        "--pointer-mask",
        type=values.mask,
        default=(1 << 64) - 1,
        metavar="HEX",
        help="bits of a word that are address, for tagged pointers",
    )
    what.add_argument(
        "--alignment",
        type=int,
        choices=(1, 2, 4, 8),
        help="look for pointers at multiples of so many bytes (default: the word size)",
    )
    what.add_argument(
        "--end-pointers",
        type=values.yes_or_no,
        metavar="yes|no",
        help="whether a pointer one past an object's end holds it"
        " (default: yes in a core, no in plain memory)",
    )
    what.add_argument(
        "--starts-only",
        action="store_true",
        help="only pointers to an object's start hold it, not those into it",
    )

    _add_kernel_options(parser)

    work = parser.add_argument_group("how it is done")
    work.add_argument(
        "--threads",
        type=values.positive,
        metavar="N",
        help="work on so many threads (default: the processors there are); the result is the same",
    )
    work.add_argument(
        "--low-memory",
        action="store_true",
        help="keep no references: slower, with some 40 bytes an object less",
    )

    shown = parser.add_argument_group("how it is shown")
    formats = shown.add_mutually_exclusive_group()
    formats.add_argument(
        "--format", default="text", metavar="NAME", help="text (default), list, json, kmemleak"
    )
    formats.add_argument(
        "--list", dest="format", action="store_const", const="list", help="one leak a line"
    )
    formats.add_argument(
        "--json",
        dest="format",
        action="store_const",
        const="json",
        help="everything, for machines (report/schema.json tells the layout)",
    )
    shown.add_argument(
        "--limit",
        type=values.count,
        metavar="N",
        help="groups, or single leaks, to show (0: all; default: 10 groups, all leaks)",
    )
    shown.add_argument(
        "--min-size",
        type=values.size,
        default=0,
        metavar="BYTES",
        help="only leaks of at least so many bytes (K, M, G: powers of 1024)",
    )
    shown.add_argument(
        "--order",
        choices=("allocation", "address", "size"),
        default="allocation",
        help="order of single leaks (default allocation)",
    )
    shown.add_argument(
        "--hex",
        type=values.count,
        default=32,
        metavar="BYTES",
        help="bytes of content to show (default 32)",
    )
    shown.add_argument(
        "--redact", action="store_true", help="show nothing of what the memory holds"
    )
    shown.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the report there")
    shown.add_argument("--force", action="store_true", help="replace the output file")
    shown.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="no progress, and no report on standard output: the exit code tells",
    )


def _add_kernel_options(parser: argparse.ArgumentParser) -> None:
    kernel = parser.add_argument_group("of a kernel's dump")
    kernel.add_argument(
        "--as",
        dest="verdict",
        choices=("now", "kernel"),
        default="now",
        help="the verdict of the image as it stands (default), or what the running kernel's"
        " kmemleak would have reported after its last scan",
    )
    kernel.add_argument(
        "--no-rules",
        type=values.names,
        default=frozenset(),
        metavar="RULE,…",
        help="with --as kernel, leave out rules: births (objects made after the last scan), ages"
        " (too young), checksums (modified since), sheaves (what the slab allocator's arrays of"
        " free objects held before counts as a reference)",
    )
    add_kernel_source(kernel)


def run(arguments: argparse.Namespace) -> int:
    """Scan, show the report, and return the exit code."""
    source = _source(arguments)
    output.check_output(arguments.output, arguments.force)

    from ..options import AnalyseOptions, KernelOptions
    from ..pipeline import analyse
    from ..report import RenderOptions, renderer

    chosen = renderer(arguments.format)
    options: AnalyseOptions = AnalyseOptions(
        sysroot=arguments.sysroot,
        no_roots=arguments.no_roots,
        pointer_mask=arguments.pointer_mask,
        alignment=arguments.alignment,
        end_pointers=arguments.end_pointers,
        interior=not arguments.starts_only,
        order=arguments.order,
        threads=arguments.threads,
        low_memory=arguments.low_memory,
        kernel=KernelOptions(
            vmlinux=arguments.vmlinux,
            layout=arguments.layout,
            records=arguments.records,
            verdict=arguments.verdict,
            no_rules=arguments.no_rules,
        ),
    )
    with output.progress(arguments.quiet) as progress:
        report = analyse(source, options, progress)
    if arguments.output is not None or not arguments.quiet:
        with output.opened(arguments.output, arguments.force) as stream:
            chosen.render(
                report,
                stream,
                RenderOptions(
                    limit=arguments.limit,
                    min_size=arguments.min_size,
                    order=arguments.order,
                    redact=arguments.redact,
                    hex_bytes=arguments.hex,
                ),
            )
    return _exit_code(report, arguments.min_size)


def _exit_code(report: Report, min_size: int) -> int:
    from .command import ExitCode

    found = bool((report.leaks["size"] >= min_size).any())
    return ExitCode.LEAKS if found else ExitCode.CLEAN


def _source(arguments: argparse.Namespace) -> Path | RawSource:
    raw = {
        "--memory": arguments.memory,
        "--objects": arguments.objects,
        "--events": arguments.events,
        "--roots": arguments.roots,
        "--scan-areas": arguments.scan_areas,
        "--word-size": arguments.word_size,
        "--byteorder": arguments.byteorder,
    }
    given = [name for name, value in raw.items() if value]
    core: Path | None = arguments.core
    if core is not None:
        if given:
            raise UsageError(f"{given[0]} describes plain memory: it does not go with a core file")
        return core
    if not given:
        raise UsageError("there is nothing to scan", hint="kmemleak scan CORE")
    if "--events" in given and not {"--objects", "--scan-areas"}.isdisjoint(given):
        raise UsageError("--events goes with neither --objects nor --scan-areas")
    for name in ("--memory", "--objects"):
        if name not in given and not (name == "--objects" and "--events" in given):
            raise UsageError(f"plain memory needs {name}", hint="kmemleak scan --help")

    from ..options import RawSource

    return RawSource(
        memory=tuple(arguments.memory),
        objects=arguments.objects,
        roots=arguments.roots,
        scan_areas=arguments.scan_areas,
        word_size=arguments.word_size or 8,
        byteorder=arguments.byteorder or "little",
        events=arguments.events,
    )
