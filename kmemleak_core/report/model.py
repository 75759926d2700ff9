"""Turns what an analysis found into one Report value, which every renderer shows."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..errors import UsageError
from ..graph import Referrer, referrers
from ..heaps import Check
from ..image import MemoryImage
from ..kernel_findings import KernelFindings
from ..kernel_record import KernelRecord
from ..leaks import GroupBy, LeakGroup, LeakTable
from ..provenance import Provenance
from ..scan import ScanResult
from ..shared_property import shared_property
from .kernel_layouts import Layout
from .summary import Summary

if TYPE_CHECKING:
    from ..baseline import Baseline, Comparison
    from ..gate import Amounts
    from ..recognise import Types
    from ..suppressions import Suppressions, SuppressionUse
    from ..symbols import Symbol
    from ..type_sums import TypeTable
    from ..who.retained import Retained

#: Turns rows into a kernel's records, and tells in which layout it prints them.
RecordsOf = Callable[[NDArray[Any]], tuple[Layout, list[KernelRecord]]]


@dataclass(frozen=True, slots=True)
class ReportSource:
    """What was analysed.

    Parameters
    ----------
    path
        The file, as the user named it.
    format
        ``"elf-core"``, ``"raw"``, ….
    architecture
        ``"x86_64"``, …; ``"unknown"`` where nothing tells.
    word_size, byteorder
        As in `MemoryImage`.
    process
        ``"name"``, ``"pid"``, ``"arguments"`` as far as the dump tells.
    threads
        How many threads the dump tells of.
    """

    path: str = ""
    format: str = "raw"
    architecture: str = "unknown"
    word_size: int = 8
    byteorder: str = "little"
    process: Mapping[str, str] = field(default_factory=dict)
    threads: int = 0


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How a report is shown.

    Parameters
    ----------
    limit
        Groups (or, in a list, leaks) to show; 0 for all; None for the renderer's own choice.
    min_size, max_size
        Leave out leaks of fewer or more bytes than this. What is left out stays in the summary,
        and is told to be hidden.
    types, functions, modules
        Leave out leaks but of these kinds, or those with one of these functions or modules in
        their backtrace: whole names with ``*`` for anything; one of several is enough.
    sort
        Which groups come first: most ``"bytes"`` (None is this, too) or ``"count"``, largest
        ``"size"``, ``"oldest"``.
    order
        Order of single leaks: ``"allocation"``, ``"address"``, ``"size"``, ``"cluster"`` (each
        head, then what it leads to); None for that of their groups, if `sort` is given, for
        clusters, if `unfold` is, else for the order that the analysis was asked for.
    unfold
        Show under each group what its heads lead to.
    redact
        Hide what memory holds: no hex, no text, no process arguments.
    hex_bytes
        Bytes of content to show for each example.
    weight
        What stacks are measured in, where only one can be told: ``"bytes"`` or ``"objects"``.
    width
        Columns of the terminal; None for 100, or what the terminal has.
    color
        Whether to use colours; None to find out from the stream and ``NO_COLOR``.
    exit_code
        What the command is going to tell its caller; None where there is no command.
    """

    limit: int | None = None
    min_size: int = 0
    max_size: int | None = None
    types: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    sort: str | None = None
    order: str | None = None
    unfold: bool = False
    redact: bool = False
    hex_bytes: int = 32
    weight: str = "bytes"
    width: int | None = None
    color: bool | None = None
    exit_code: int | None = None


@dataclass(eq=False)
class Report:
    """Everything that one analysis has to say.

    Parameters
    ----------
    source
        What was analysed.
    summary
        The figures.
    leaks
        One row a leak.
    groups
        The same leaks by size and shape, the most bytes first.
    allocator
        Whose heap was walked; empty if objects came from a table.
    counters
        What the scan did: ``"words"``, ``"candidates"``, ``"hits"``, ``"seconds"``, ….
    checks
        The allocator's own sums against ours.
    coverage
        What was missing or not understood.
    options
        What the analysis was asked to do, by name.
    image
        Where contents are read for hex dumps; None to do without.
    result
        The scan itself, for those who want to go on from here: colours, references, roots.
    version
        Of this package; found out if empty.
    provenance
        What the leaks are and who allocated them, row by row of the table; None if nothing tells.
    origins
        The same of all objects of the scan, row by row.
    types_of
        Finds out what objects of a process are; None if nothing does.
    kernel
        What else a kernel's dump tells; None for a process or plain memory.
    kernel_records
        Turns rows of the leak table into what the kernel would print of them; None where the
        dump has no records of its kmemleak.
    suppressions
        What each suppression did.
    grouped_by
        What the members of a group share: see `regroup`.
    variable_at
        Turns an address into the variable that it lies in; None where nothing tells.
    comparison
        What is in a baseline: such leaks are hidden as if by a filter; None without one.
    possible, possible_groups, possible_provenance
        As `leaks`, `groups` and `provenance`: the objects that are possibly lost. They are no
        leaks: filters and suppressions apply to them, baselines know nothing of them.
    """

    source: ReportSource
    summary: Summary
    leaks: LeakTable
    groups: tuple[LeakGroup, ...] = ()
    allocator: str = ""
    counters: dict[str, int | float] = field(default_factory=dict)
    checks: Sequence[Check] = ()
    coverage: Coverage = field(default_factory=Coverage)
    options: Mapping[str, Any] = field(default_factory=dict)
    image: MemoryImage | None = field(default=None, repr=False)
    result: ScanResult | None = field(default=None, repr=False)
    version: str = ""
    provenance: Provenance | None = field(default=None, repr=False)
    origins: Provenance | None = field(default=None, repr=False)
    types_of: Types | None = field(default=None, repr=False)
    kernel: KernelFindings | None = None
    kernel_records: RecordsOf | None = field(default=None, repr=False)
    suppressions: tuple[SuppressionUse, ...] = ()
    grouped_by: GroupBy = "origin"
    variable_at: Callable[[int], Symbol | None] | None = field(default=None, repr=False)
    comparison: Comparison | None = field(default=None, repr=False)
    possible: LeakTable = field(default_factory=LeakTable.empty, repr=False)
    possible_groups: tuple[LeakGroup, ...] = ()
    possible_provenance: Provenance | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.version:
            from .. import __version__

            self.version = __version__

    def content(self, address: int, size: int) -> bytes:
        """Return bytes of the image: as many, from the address on, as it holds."""
        segment = self.image.find(address) if self.image is not None else None
        if self.image is None or segment is None:
            return b""
        size = max(0, min(size, self.image.segments[-1].end - address))
        held = min(size, segment.end - address)
        while held < size:  # go on into the segments that follow without a gap
            segment = self.image.find(address + held)
            if segment is None:
                break
            held = min(size, segment.end - address)
        return self.image.read(address, held)

    def referrers(self, address: int) -> list[Referrer]:
        """Find every word that refers to the object that holds an address.

        Raises
        ------
        FaultError
            No object holds the address.
        UsageError
            The report does not carry its scan.
        """
        if self.result is None:
            raise UsageError("this report does not carry the scan that it came from")
        return referrers(self.result, address)

    @shared_property
    def retained(self) -> Retained:
        """How much each object, root and module alone keeps alive.

        Raises
        ------
        UsageError
            The report does not carry its scan, or that was done with little memory.
        """
        from ..who.retained import retained

        return retained(self._with_images, kinds=lambda: self.kinds)

    @shared_property
    def retained_by_variable(self) -> Retained:
        """The same with each variable as a root of its own, where something tells of variables.

        Raises
        ------
        UsageError
            The report does not carry its scan, or that was done with little memory.
        """
        from ..who.retained import retained, root_groups
        from ..who.root_parts import variables_as_roots

        result = self._with_images
        groups = root_groups(result.roots)
        if self.variable_at is not None:
            result, groups = variables_as_roots(result, self.variable_at, groups)
        return retained(result, groups, lambda: self.kinds)

    @property
    def _with_images(self) -> ScanResult:
        """The scan, with a kernel's variables as roots where its books have them as objects."""
        from ..who.root_parts import images_as_roots

        if self.result is None:
            raise UsageError("this report does not carry the scan that it came from")
        return images_as_roots(self.result, self.origins)

    @shared_property
    def kinds(self) -> Provenance | None:
        """What is known of all objects of the scan, with their types; None if nothing tells."""
        if self.types_of is None or self.result is None:
            return self.origins
        return self.types_of.of(np.arange(len(self.result.objects)), self.origins)

    def types(self, *, of_leaks: bool = False) -> TypeTable:
        """Add up the objects by what they are, the most bytes first.

        Parameters
        ----------
        of_leaks
            Whether leaks alone count.

        Raises
        ------
        UsageError
            The report does not carry its scan.
        """
        from ..type_sums import TypeTable

        if self.result is None:
            raise UsageError("this report does not carry the scan that it came from")
        result = self.result
        kinds = self.kinds
        return TypeTable.of(result.image, result.objects, result.white, kinds, of_leaks=of_leaks)

    def of_possible(self) -> Report:
        """Return the same report with the possibly lost objects in the leaks' place.

        So whatever chooses, orders or measures leaks does the same for these.
        """
        return replace(
            self,
            leaks=self.possible,
            groups=self.possible_groups,
            provenance=self.possible_provenance,
            comparison=None,
            kernel_records=None,
            possible=LeakTable.empty(),
            possible_groups=(),
            possible_provenance=None,
        )

    def suppress(self, *known: Suppressions | str | os.PathLike[str]) -> Report:
        """Return the report without known leaks, and all that these lead to.

        Parameters
        ----------
        *known
            Suppressions, or paths of files of them (`kmemleak_core.suppressions`).

        Raises
        ------
        UsageError
            A file cannot be read, or a line of it is no suppression.

        Examples
        --------
        >>> report.suppress(Suppressions.parse("leak:make_thing"))  # doctest: +SKIP
        """
        from ..suppressions import Suppressions
        from .changes import suppressed

        entries = [
            (one if isinstance(one, Suppressions) else Suppressions.load(Path(one))).entries
            for one in known
        ]
        return suppressed(self, Suppressions(entry for some in entries for entry in some))

    def baseline(self) -> Baseline:
        """Return the groups of this report, for a later one to be compared `against`."""
        from .changes import baseline_of

        return baseline_of(self)

    def against(self, baseline: Baseline | str | os.PathLike[str]) -> Report:
        """Return the report with only those groups shown that a baseline lacks, or has less of.

        Parameters
        ----------
        baseline
            One, or the path of its file (`kmemleak_core.baseline`).

        Raises
        ------
        UsageError
            The file cannot be read, or is no baseline.
        """
        from ..baseline import Baseline
        from .changes import compared

        if not isinstance(baseline, Baseline):
            baseline = Baseline.load(Path(baseline))
        return compared(self, baseline)

    def counted(self, options: RenderOptions | None = None) -> Amounts:
        """Add up the leaks that count: which pass the filters; of grown groups, the growth."""
        from .select import counted

        return counted(self, options or RenderOptions())

    def regroup(self, by: GroupBy) -> Report:
        """Return the report with other groups.

        Parameters
        ----------
        by
            What the members of a group share: ``"trace"`` (backtrace), ``"kind"``, ``"size"``,
            ``"shape"``, or ``"origin"``: backtrace and kind. By the first two and the last,
            leaks of which that is not known are grouped by size and shape.

        Raises
        ------
        UsageError
            Nothing tells of any leak, or the report does not carry its scan.
        """
        from .changes import regrouped

        return regrouped(self, by)

    def report(self, format: str = "text", **options: Any) -> str:
        """Return the report as text.

        Parameters
        ----------
        format
            Name of a renderer: ``"text"``, ``"list"``, ``"json"``, ``"kmemleak"``, ….
        **options
            Fields of `RenderOptions`.

        Raises
        ------
        UsageError
            No renderer has that name.
        """
        from . import renderer

        out = io.StringIO()
        renderer(format).render(self, out, RenderOptions(**options))
        return out.getvalue()

    def to_dict(self, **options: Any) -> dict[str, Any]:
        """Return the report as plain values, laid out as ``report/schema.json`` tells."""
        from .json import to_dict

        return to_dict(self, RenderOptions(**options))

    def to_arrow(self, table: str = "leaks", *, redact: bool = False) -> Any:
        """Return a table as a ``pyarrow.Table``.

        Parameters
        ----------
        table
            ``"objects"``, ``"references"``, ``"leaks"``, ``"groups"``, ``"possible"``,
            ``"possible_groups"``, ``"roots"``, ``"root_references"`` or ``"traces"``: what
            `kmemleak export` writes.
        redact
            Hide what memory holds.

        Raises
        ------
        KmemleakError
            pyarrow is not installed, there is no such table, or the report lacks what it holds.
        """
        from .arrow import arrow_table

        return arrow_table(self, table, redact=redact)

    def export(
        self,
        folder: str | os.PathLike[str],
        tables: Sequence[str] | None = None,
        format: str = "parquet",
        *,
        force: bool = False,
        redact: bool = False,
    ) -> dict[str, Path]:
        """Write tables into a folder, and return the file of each; see `to_arrow`.

        Parameters
        ----------
        folder
            Where to; made if it is not there.
        tables
            Which; None for all.
        format
            ``"parquet"``, ``"arrow"`` or ``"npz"``.
        force
            Replace files.
        redact
            Hide what memory holds.
        """
        from .export import DEFAULT_TABLES, export

        files = export(self, folder, tables or DEFAULT_TABLES, format, force=force, redact=redact)
        return {file.table: file.path for file in files}

    def __repr__(self) -> str:
        s = self.summary
        name = f" of {self.source.path!r}" if self.source.path else ""
        return (
            f"<Report{name}: {s.leaked_objects:,} objects, {s.leaked_bytes:,} bytes leaked"
            f" of {s.objects:,} scanned, {s.direct_objects:,} directly>"
        )

    def _repr_html_(self) -> str:
        from .html.notebook import summary_html

        return summary_html(self)
