"""Turns options on what is scanned, which all subcommands share, into what an analysis takes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from . import values
from .kernel_source import add_kernel_source

if TYPE_CHECKING:
    from ..options import AnalyseOptions, RawSource


def add_scan_options(
    parser: argparse.ArgumentParser, *, graph: bool = False, address: str = ""
) -> None:
    """Add the core file, what can stand for it, and what is done with it.

    Parameters
    ----------
    parser
        Where to.
    graph
        Whether the subcommand walks the references, so that they have to be kept.
    address
        Of a subcommand that takes an address as well: which, for its help.
    """
    # Not nargs="?": that would take nothing where an option stands before another positional.
    core = parser.add_argument("core", type=Path, metavar="CORE", help="a core file or vmcore")
    core.required = False
    if address:
        where = parser.add_argument("address", type=values.address, metavar="ADDR", help=address)
        where.required = False

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

    add_analysis_options(parser, graph=graph)


def add_analysis_options(parser: argparse.ArgumentParser, *, graph: bool = False) -> None:
    """Add what is done with a dump, whichever it is: for subcommands that name theirs otherwise.

    Parameters
    ----------
    parser, graph
        As of `add_scan_options`.
    """
    what = parser.add_argument_group("what is scanned")
    what.add_argument(
        "--sysroot",
        type=Path,
        metavar="DIR",
        help="folder with the program's files, for the pages that the core lacks"
        + (" and for symbols (symbols: default /)" if graph else ""),
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
        "--starts-only",
        action="store_true",
        help="only pointers to an object's start hold it, not those into it",
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
        "--heuristics",
        type=values.heuristics,
        metavar="LIST|none|all",
        help="pointers into the middle of an object that count as pointers to it: stdstring (the"
        " characters of an old std::string), length64 (behind a length), newarray (behind the"
        " number of elements), multipleinheritance (to a base class) (default all)",
    )
    what.add_argument(
        "--no-possible",
        action="store_true",
        help="do not tell apart what is possibly lost: held only by pointers into the middle of"
        " objects, or past their end",
    )

    _add_kernel_options(parser)

    work = parser.add_argument_group("how it is done")
    work.add_argument(
        "--threads",
        type=values.positive,
        metavar="N",
        help="work on so many threads (default: the processors there are); the result is the same",
    )
    parser.set_defaults(low_memory=False)
    if not graph:
        work.add_argument(
            "--low-memory",
            action="store_true",
            help="keep no references: slower, with some 40 bytes an object less",
        )
    work.add_argument(
        "--no-types",
        dest="find_types",
        action="store_false",
        help="do not look for what objects are (C++ classes, Python objects, …)",
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


def analyse_options(arguments: argparse.Namespace) -> AnalyseOptions:
    """Return what the analysis is asked to do."""
    from ..options import HEURISTICS, AnalyseOptions, KernelOptions

    chosen = arguments.heuristics
    # An order of clusters is for those who show leaks: their table has none.
    order = getattr(arguments, "order", None)
    return AnalyseOptions(
        sysroot=arguments.sysroot,
        no_roots=arguments.no_roots,
        pointer_mask=arguments.pointer_mask,
        alignment=arguments.alignment,
        end_pointers=arguments.end_pointers,
        interior=not arguments.starts_only,
        order="allocation" if order in (None, "cluster") else order,
        threads=arguments.threads,
        low_memory=arguments.low_memory,
        types=arguments.find_types,
        possible=False if arguments.no_possible else None,
        heuristics=frozenset(HEURISTICS) if chosen is None else chosen,
        kernel=KernelOptions(
            vmlinux=arguments.vmlinux,
            layout=arguments.layout,
            records=arguments.records,
            verdict=arguments.verdict,
            no_rules=arguments.no_rules,
        ),
    )


def source(arguments: argparse.Namespace) -> Path | RawSource:
    """Return what is scanned.

    Raises
    ------
    UsageError
        There is nothing, or it does not go together.
    """
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
    if given and core is not None and getattr(arguments, "address", 0) is None:
        # With plain memory there is no core: what stands alone is the address.
        try:
            arguments.address = values.address(str(core))
        except argparse.ArgumentTypeError as error:
            raise UsageError(str(error)) from None
        core = arguments.core = None
    if core is not None:
        if given:
            raise UsageError(f"{given[0]} describes plain memory: it does not go with a core file")
        return core
    if not given:
        raise UsageError("there is nothing to scan: name a core file, or plain memory")
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
