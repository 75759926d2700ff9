"""Turns a report and an address into a leaked cluster as it is drawn: members, references."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..cluster_graph import ClusterGraph, cluster_graph, largest_cluster
from ..errors import UsageError
from ..leaks import LeakTable, Loss
from ..shapes import classify, shape_text
from .escape import printable
from .model import RenderOptions, Report
from .select import shown
from .units import count_text


class Member(NamedTuple):
    """One leak of a cluster.

    Parameters
    ----------
    address, size
        The object.
    kind
        What it is; empty where nothing tells.
    shape
        What its first words hold.
    direct
        Whether it heads a cluster.
    """

    address: int
    size: int
    kind: str
    shape: str
    direct: bool

    @property
    def what(self) -> str:
        """What it is, or else what it looks like."""
        return self.kind or f"[{self.shape}]"


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """A cluster, for a drawing.

    Parameters
    ----------
    report
        Where it is from.
    graph
        Its members, and their references.
    redact
        Whether what memory holds is hidden.
    """

    report: Report
    graph: ClusterGraph
    redact: bool = False

    def members(self) -> Iterator[Member]:
        """Yield the members, the head first: those that `edges` number from 0 on."""
        report, rows = self.report, self.graph.rows
        if report.image is None or report.result is None:
            raise UsageError("this report does not carry the scan that it came from")
        leaks, told = report.leaks.array[rows], report.provenance
        objects = report.result.objects
        codes = classify(report.image, objects, leaks["address"], leaks["size"])
        options = RenderOptions(redact=self.redact)
        for i, row in enumerate(rows.tolist()):
            size = int(leaks["size"][i])
            shape = shape_text(bytes(codes[i]), size, report.image.word_size)
            yield Member(
                int(leaks["address"][i]),
                size,
                "" if told is None else printable(told.kind_of(row)),
                shown(shape, options),
                bool(leaks["direct"][i]),
            )

    def edges(self) -> Iterator[tuple[int, int, int]]:
        """Yield who refers to whom, by how many words."""
        graph = self.graph
        for i in range(graph.words.size):
            yield int(graph.sources[i]), int(graph.targets[i]), int(graph.words[i])

    @property
    def title(self) -> str:
        """What it is the cluster of, in one line."""
        name = printable(self.report.source.path) or "memory"
        if not self.graph.rows.size:
            return f"{name}: no leaks"
        head = int(self.report.leaks["address"][self.graph.rows[0]])
        what = "possibly lost cluster" if self.possible else "cluster"
        more = f", {self.graph.left_out:,} more left out" if self.graph.left_out else ""
        return f"{name}: {what} of {head:#x}, {count_text(self.graph.rows.size, 'object')}{more}"

    @property
    def possible(self) -> bool:
        """Whether its members are not leaked, but possibly lost."""
        rows = self.graph.rows
        return bool(rows.size) and int(self.report.leaks["loss"][rows[0]]) == Loss.POSSIBLE


def find_cluster(
    report: Report, address: int | None = None, *, limit: int = 1000, redact: bool = False
) -> Cluster:
    """Return a cluster of a report.

    Parameters
    ----------
    report
        What was found.
    address
        Anywhere in one of its members, which can be possibly lost, too; None for the leaked
        cluster of the most members, which has none where nothing leaks.
    limit
        Members, the nearest to the head; 0 for all.
    redact
        Hide what memory holds.

    Raises
    ------
    UsageError
        The address is in no leak, nor in anything that is possibly lost.
    """
    row = largest_cluster(report.leaks) if address is None else _row_at(report.leaks, address)
    if address is not None and row is None:
        report = report.of_possible()
        row = _row_at(report.leaks, address)
        if row is None:
            raise UsageError(
                f"{address:#x} is in no leaked object, nor in one that is possibly lost",
                hint="kmemleak explain tells what is there, and who holds it",
            )
    if row is None:
        none = np.empty(0, np.int32)
        return Cluster(report, ClusterGraph(np.empty(0, np.int64), none, none, none, 0), redact)
    return Cluster(report, cluster_graph(report.leaks, row, limit), redact)


def _row_at(leaks: LeakTable, address: int) -> int | None:
    """Return the row of what an address is in; None for none."""
    row = int(np.searchsorted(leaks["address"], np.uint64(address), side="right")) - 1
    if row < 0 or address >= leaks[row].address + max(1, leaks[row].size):
        return None
    return row
