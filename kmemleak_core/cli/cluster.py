"""Turns ``kmemleak cluster`` into a leaked cluster that other tools draw."""

from __future__ import annotations

import argparse

from . import output, scan_options, values

_DESCRIPTION = """\
Writes a leaked cluster as a graph: the leak that heads it, all that only leaks lead to from there,
and by how many words which refers to which. With an address the cluster of that leak, or of what
is possibly lost there, else the one of the most objects.
"""

_EPILOG = """\
examples:
  kmemleak cluster core | dot -Tsvg > cluster.svg
  kmemleak cluster core 0x557033f8a2a0 --limit 50 -o cluster.dot
  kmemleak cluster --format graphml -o cluster.graphml vmcore

exit codes:
  0  the graph is written; it has no members where nothing leaks
  2  wrong usage, or nothing is lost at the address
  3  the dump cannot be read, or holds no known heap
"""


def prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "cluster",
        help="draw a leaked cluster: DOT, GraphML, JSON",
        usage="%(prog)s [OPTION …] CORE [ADDR]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.set_defaults(run=run, order=None)
    where = "anywhere in a leaked object, hexadecimal (default: the largest cluster)"
    scan_options.add_scan_options(parser, address=where)
    shown = parser.add_argument_group("how it is shown")
    shown.add_argument(
        "--format",
        choices=("dot", "graphml", "json"),
        default="dot",
        help="for Graphviz (default); for networkx, Gephi, yEd; or as report/cluster.json tells",
    )
    shown.add_argument(
        "--limit",
        type=values.count,
        default=1000,
        metavar="N",
        help="members, the nearest to the head (0: all; default 1000)",
    )
    output.add_answer(shown)


def run(arguments: argparse.Namespace) -> int:
    """Scan, draw, and return the exit code."""
    source = scan_options.source(arguments)
    output.check_output(arguments.output, arguments.force)

    from ..pipeline import analyse
    from ..report.cluster import find_cluster
    from ..report.cluster_dot import write_dot
    from ..report.cluster_graphml import write_graphml
    from ..report.cluster_json import write_json
    from .command import ExitCode

    with output.progress(arguments.quiet) as tell:
        report = analyse(source, scan_options.analyse_options(arguments), tell)
    cluster = find_cluster(
        report, arguments.address, limit=arguments.limit, redact=arguments.redact
    )
    write = {"dot": write_dot, "graphml": write_graphml, "json": write_json}[arguments.format]
    with output.opened(arguments.output, arguments.force) as stream:
        write(cluster, stream)
    return ExitCode.CLEAN
