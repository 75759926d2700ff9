"""Turns ``kmemleak vmcore`` into files that help with the dumps of kernels."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..report.escape import printable
from . import output
from .kernel_source import add_kernel_source

_DESCRIPTION = """\
Helps with the dumps of kernels; `kmemleak scan vmcore` finds what leaks in one.
"""

_EXAMPLES = """\
examples:
  kmemleak scan vmcore
  kmemleak vmcore objects vmcore > objects.csv
  kmemleak vmcore layout vmlinux -o layout.json

"""

_EXIT_CODES = """\
exit codes:
  0  done
  2  wrong usage
  3  a file cannot be read
"""

_OBJECTS = """\
Writes the table of all objects of a kernel: where each is, what it is (its slab cache, a structure,
vmalloc, …) and, where kmemleak's records tell, who allocated it and when. It is what
`kmemleak scan --memory … --objects` reads.
"""

_OBJECTS_EXAMPLES = """\
examples:
  kmemleak vmcore objects vmcore > objects.csv
  kmemleak vmcore objects --records slub vmcore -o objects.npz

"""

_LAYOUT = """\
Writes a small file of the structures that an analysis of a kernel's dump asks for, as this kernel
has them. Kernels with BTF carry their own; for one without, make this file once, where its vmlinux
is, and give it to each scan of its dumps: --layout FILE.

Of a vmlinux without BTF the debugging symbols (DWARF) are read, with drgn:
pip install "kmemleak-core[vmcore]".
"""

_LAYOUT_EXAMPLES = """\
examples:
  kmemleak vmcore layout /usr/lib/debug/boot/vmlinux-6.1.0 -o layout.json
  kmemleak scan vmcore --layout layout.json

"""


def prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand, and its own."""
    parser = subparsers.add_parser(
        "vmcore",
        help="help with the dumps of kernels",
        description=_DESCRIPTION,
        epilog=_EXAMPLES + _EXIT_CODES,
    )
    tasks = parser.add_subparsers(title="tasks", metavar="TASK", required=True)
    _prepare_objects(tasks)
    _prepare_layout(tasks)


def _prepare_objects(tasks: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = tasks.add_parser(
        "objects",
        help="export the table of a kernel's objects",
        description=_OBJECTS,
        epilog=_OBJECTS_EXAMPLES + _EXIT_CODES,
    )
    parser.set_defaults(run=run_objects)
    parser.add_argument("vmcore", type=Path, metavar="VMCORE", help="the dump")
    add_kernel_source(parser)
    parser.add_argument(
        "--format", choices=("csv", "jsonl", "npz"), help="(default: by the file's name, else csv)"
    )
    output.add_output(parser)


def run_objects(arguments: argparse.Namespace) -> int:
    """Write the table, and return the exit code."""
    import sys

    from ..dumps import open_dump
    from ..errors import DumpError, UsageError
    from .command import ExitCode

    path: Path | None = arguments.output
    suffix = "" if path is None else path.suffix.lstrip(".")
    format = arguments.format or (suffix if suffix in ("jsonl", "npz") else "csv")
    if format == "npz" and path is None:
        raise UsageError("npz is no text: it needs -o FILE")
    output.check_output(path, arguments.force)
    dump = open_dump(arguments.vmcore)
    if dump.machine is None:
        raise DumpError("is no dump of a kernel", path=str(arguments.vmcore))

    from ..kernel_pipeline import find_kernel_objects
    from ..options import KernelOptions
    from ..report.objects_table import write_arrays, write_objects

    heap = find_kernel_objects(
        dump, KernelOptions(arguments.vmlinux, arguments.layout, arguments.records)
    )
    for note in heap.coverage:
        print(f"kmemleak: {printable(note.message)} ({note.count:,} times)", file=sys.stderr)
    if format == "npz" and path is not None:
        with path.open("wb" if arguments.force else "xb") as file:
            write_arrays(heap, file)
        return ExitCode.CLEAN
    with output.opened(path, arguments.force) as stream:
        write_objects(heap, stream, format)
    return ExitCode.CLEAN


def _prepare_layout(tasks: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = tasks.add_parser(
        "layout",
        help="write down the structures of a kernel that does not carry them",
        description=_LAYOUT,
        epilog=_LAYOUT_EXAMPLES + _EXIT_CODES,
    )
    parser.set_defaults(run=run_layout)
    parser.add_argument(
        "vmlinux", type=Path, metavar="VMLINUX", help="the kernel's file, with debugging symbols"
    )
    output.add_output(parser)


def run_layout(arguments: argparse.Namespace) -> int:
    """Write a kernel's layout, and return the exit code."""
    import json
    import sys

    from ..symbols.layout import describe
    from ..symbols.vmlinux import read_vmlinux
    from .command import ExitCode

    output.check_output(arguments.output, arguments.force)
    types, build_id = read_vmlinux(arguments.vmlinux)
    if not build_id:
        name = printable(str(arguments.vmlinux))
        print(f"kmemleak: {name} has no build-id: no dump can be checked with it", file=sys.stderr)
    content = describe(types, build_id)
    with output.opened(arguments.output, arguments.force) as file:
        json.dump(content, file, separators=(",", ":"))
        file.write("\n")
    return ExitCode.CLEAN
