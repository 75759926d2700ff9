"""Turns ``kmemleak scan`` into a report of what leaks in a dump."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace

from . import output, report_options, scan_options, triage_options

_USAGE = """\
%(prog)s [OPTION …] CORE
       %(prog)s [OPTION …] --memory ADDR:FILE … --objects FILE
"""

_DESCRIPTION = """\
Tells which allocated objects of a dump nobody can reach.

The dump is an ELF core file (from the kernel, gcore or `kmemleak dump`, also compressed
with zstd, gzip, xz or lz4), whose malloc heap is found without symbols; a kernel's vmcore
(ELF or kdump-compressed), whose names and types are found in it; or plain memory with tables
of its objects and roots.
"""

_EPILOG = """\
examples:
  kmemleak scan core                       what leaks, the largest first
  kmemleak scan --all --limit 0 core       all of it, and what it leads to
  kmemleak scan --format html -o report.html core
  kmemleak scan --list --order size --min-size 1M core.zst
  kmemleak scan --json --redact -o leaks.json core
  kmemleak scan --sysroot / core           with pages of files that it lacks
  kmemleak scan --no-roots registers,stacks core

  a kernel's dump:
  kmemleak scan vmcore
  kmemleak scan --function 'ext4_*' --group-by kind --sort count vmcore
  kmemleak scan --as kernel --format kmemleak vmcore
  kmemleak scan --format folded vmcore | flamegraph.pl > leaks.svg

  in tests:
  kmemleak scan --suppressions known.txt --write-baseline known.json core
  kmemleak scan --baseline known.json --fail-on direct:1MB core
  kmemleak scan --baseline known.json --format sarif -o leaks.sarif core

  plain memory:
  kmemleak scan --memory 0x20000000:ram.bin --word-size 4 \\
                --objects objects.csv --roots roots.csv

"""

_WHICH_COUNT = """
Leaks that are suppressed, in the baseline or hidden by a filter are not "found"; with --fail-on
the code is 1 from so many, or so many bytes, of the others on. What is possibly lost counts for
--fail-on possible alone: filters and suppressions apply to it, baselines do not.
"""


def prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    from .command import EXIT_CODES

    parser = subparsers.add_parser(
        "scan",
        help="tell what leaks in a core file, or in other memory",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=_EPILOG + EXIT_CODES + _WHICH_COUNT,
        formatter_class=report_options.ReportHelpFormatter,
    )
    parser.set_defaults(run=run)
    scan_options.add_scan_options(parser)
    triage_options.add_triage_options(parser)
    report_options.add_filters(parser)
    report_options.add_report_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Scan, show the report, and return the exit code."""
    source = scan_options.source(arguments)
    output.check_output(arguments.output, arguments.force)
    triage = triage_options.Triage(arguments)

    from ..pipeline import analyse
    from ..report import renderer

    chosen = renderer(triage_options.report_format(arguments))
    shown = report_options.render_options(arguments)
    with output.progress(arguments.quiet) as progress:
        report = triage.apply(analyse(source, scan_options.analyse_options(arguments), progress))
    code, reasons = triage.verdict(report, shown)
    if arguments.output is not None or not arguments.quiet:
        with output.opened(arguments.output, arguments.force) as stream:
            chosen.render(report, stream, replace(shown, exit_code=code))
    if not arguments.quiet:
        for reason in reasons:
            print(f"kmemleak: {reason}", file=sys.stderr)
    return code
