"""Turns ``kmemleak export`` into files of a dump's objects, references and leaks for data tools."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..report.escape import printable
from ..report.units import count_text, size_text
from . import output, scan_options, values

_DESCRIPTION = """\
Writes what a scan found into a folder, a table a file, for pandas, DuckDB, Polars, Spark, …:

  objects          every object: address, size, references found and wanted, colour, type, …
  references       which object refers to which, how (start, interior, end), by how many words
  leaks            as the report has them, with group, head, type, task and backtrace
  groups           the same by what they share
  possible         as leaks: what is possibly lost
  possible_groups  as groups
  roots            ranges and registers that were scanned unconditionally
  root_references  which of them refer to which objects
  traces           backtraces, by the numbers that objects and leaks have

All formats are binary: parquet (small), arrow (Arrow's file format, also known as Feather: read
where it lies) and npz (for numpy; the only one that does without pyarrow).
"""

_EPILOG = """\
examples:
  kmemleak export core -o tables
  kmemleak export --tables leaks,groups --redact core -o tables
  kmemleak export --format npz vmcore -o tables

exit codes:
  0  the files are written
  2  wrong usage
  3  the dump cannot be read, or holds no known heap
"""

#: As `report.export.FORMATS` and `report.columns.TABLES` have them, which take numpy to import.
_FORMATS = ("parquet", "arrow", "npz")
_TABLES = (
    "objects",
    "references",
    "leaks",
    "groups",
    "possible",
    "possible_groups",
    "roots",
    "root_references",
    "traces",
)


def prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "export",
        help="write objects, references and leaks as tables for data tools",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.set_defaults(run=run, order=None)
    scan_options.add_scan_options(parser)
    written = parser.add_argument_group("what is written")
    written.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="into this folder"
    )
    written.add_argument("--force", action="store_true", help="replace files")
    written.add_argument(
        "--tables",
        type=_tables,
        default=_TABLES,
        metavar="TABLE,…",
        help="which of these tables (default: all)",
    )
    written.add_argument("--format", choices=_FORMATS, default="parquet", help="(default parquet)")
    written.add_argument(
        "--redact", action="store_true", help="write nothing of what the memory holds"
    )
    written.add_argument("-q", "--quiet", action="store_true", help="print nothing but errors")


def run(arguments: argparse.Namespace) -> int:
    """Scan, write the tables, and return the exit code."""
    source = scan_options.source(arguments)

    from ..pipeline import analyse
    from ..report.export import check_folder, export
    from .command import ExitCode

    check_folder(arguments.output, arguments.tables, arguments.format, arguments.force)
    if arguments.format != "npz":
        from ..report.arrow import pyarrow

        pyarrow()
    with output.progress(arguments.quiet) as tell:
        report = analyse(source, scan_options.analyse_options(arguments), tell)
    files = export(
        report,
        arguments.output,
        arguments.tables,
        arguments.format,
        force=arguments.force,
        redact=arguments.redact,
    )
    for file in files:
        if not arguments.quiet:
            rows = count_text(file.rows, "row")
            print(f"{printable(str(file.path))}: {rows}, {size_text(file.nbytes)}", flush=True)
    return ExitCode.CLEAN


def _tables(text: str) -> tuple[str, ...]:
    asked = values.names(text)
    unknown = sorted(asked - set(_TABLES))
    if unknown:
        raise argparse.ArgumentTypeError(
            f"there is no table {unknown[0]!r}; there are {', '.join(_TABLES)}"
        )
    return tuple(table for table in _TABLES if table in asked)
