"""Turns the records of kernel reports into leaks grouped by backtrace, and two reports into news.

One leak shows up as many objects, and one object in many reports of a log: each object counts
once, and objects that the same code allocated make one group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .frame_patterns import Skipper
from .kernel_record import KernelRecord
from .logs.kernel_report import KernelReport
from .suppressions import Suppressions, SuppressionUse

#: What old kernels end a backtrace with.
_END_MARKS = frozenset({"0xffffffffffffffff", "0xffffffff"})

_Backtrace = tuple[str, ...]
#: What makes two objects look-alikes: their callers, or comm and size where there is no backtrace.
GroupKey = tuple[_Backtrace, str, int]


@dataclass(slots=True)
class KernelLeakGroup:
    """Leaks that were allocated by the same code.

    Parameters
    ----------
    frames
        Their backtrace from the first function that is not the allocator's; empty where the
        kernel kept none (then comm and size are what they share).
    skipped
        The allocator's frames before that, of the oldest.
    oldest
        The one that was allocated first: a report is in the order of allocation.
    count, nbytes
        How many there are, and their bytes.
    min_size, max_size
        Bytes of the smallest and the largest.
    unlisted
        Objects that the kernel counted with these, but did not list.
    comms
        Names of the tasks that allocated them, each once, in the order of the report.
    rows
        Their indices in the analysis' leaks.
    """

    frames: _Backtrace
    skipped: _Backtrace
    oldest: KernelRecord
    count: int = 0
    nbytes: int = 0
    min_size: int = 0
    max_size: int = 0
    unlisted: int = 0
    comms: dict[str, None] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)

    @property
    def key(self) -> GroupKey:
        """What its members share."""
        if self.frames:
            return self.frames, "", 0
        return (), self.oldest.comm, self.oldest.size


@dataclass(slots=True)
class KernelDiff:
    """How a report differs from an older one.

    An object is the same if address and size are, and either the backtrace or both the time of
    its allocation and its process.

    Parameters
    ----------
    old_path
        The older report.
    new, gone
        Leaks that only the newer, or only the older one has.
    kept
        How many both have.
    new_groups, gone_groups
        These, grouped.
    old_keys, keys
        The groups that each of the reports has, to tell a new leak from more of the same.
    """

    old_path: str
    new: tuple[KernelRecord, ...]
    gone: tuple[KernelRecord, ...]
    kept: int
    new_groups: tuple[KernelLeakGroup, ...]
    gone_groups: tuple[KernelLeakGroup, ...]
    old_keys: frozenset[GroupKey]
    keys: frozenset[GroupKey]


@dataclass(slots=True)
class KernelAnalysis:
    """What a kernel's report comes to.

    Parameters
    ----------
    report
        Where it is from, and what of it was not understood.
    leaks
        The objects that are not suppressed, each once, in the order of the report.
    groups
        The same, grouped: most bytes first, then most objects, then by backtrace.
    repeated
        Records of an object that an earlier record had told of.
    suppressed, suppressed_bytes
        Leaks that are suppressed.
    suppressions
        What each suppression did, in the order of its file.
    diff
        Against an older report, if one was given.
    """

    report: KernelReport
    leaks: tuple[KernelRecord, ...]
    groups: tuple[KernelLeakGroup, ...]
    repeated: int = 0
    suppressed: int = 0
    suppressed_bytes: int = 0
    suppressions: tuple[SuppressionUse, ...] = ()
    diff: KernelDiff | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all leaks."""
        return sum(leak.size for leak in self.leaks)

    @property
    def unlisted(self) -> int:
        """Objects that the kernel counted, but did not list."""
        return sum(group.unlisted for group in self.groups)

    @property
    def found(self) -> bool:
        """Whether there are leaks; against an older report, new ones."""
        return bool(self.leaks if self.diff is None else self.diff.new)


def analyse_report(
    report: KernelReport,
    *,
    old: KernelReport | None = None,
    suppressions: Suppressions | None = None,
    skip: Iterable[str] = (),
) -> KernelAnalysis:
    """Deduplicate, suppress and group the leaks of a report; compare it with an older one.

    Parameters
    ----------
    report
        What `kmemleak_core.logs` read.
    old
        A report from before, of the same boot (addresses are compared).
    suppressions
        Leaks that are known; those of the older report are suppressed alike.
    skip
        Names of functions beside the kernel's allocators whose callers are to blame, with ``*``.
    """
    suppressions = suppressions or Suppressions()
    skipper = Skipper(skip)
    once = unique(report.records)
    leaks, suppressed = _divide(once, suppressions)
    uses = [[0, 0] for _ in suppressions.entries]
    for index, record in suppressed:
        uses[index][0] += 1
        uses[index][1] += record.size
    groups = group_records(leaks, skipper)
    analysis = KernelAnalysis(
        report=report,
        leaks=tuple(leaks),
        groups=groups,
        repeated=len(report.records) - len(once),
        suppressed=len(suppressed),
        suppressed_bytes=sum(record.size for _, record in suppressed),
        suppressions=tuple(
            SuppressionUse.of(entry, count, nbytes)
            for entry, (count, nbytes) in zip(suppressions.entries, uses, strict=True)
        ),
    )
    if old is not None:
        before, _ = _divide(unique(old.records), suppressions)
        analysis.diff = _compare(leaks, groups, before, old.path, skipper)
    return analysis


def unique(records: Iterable[KernelRecord]) -> list[KernelRecord]:
    """Return the records without those of objects that an earlier one told of.

    A log can hold several reports. The same object is one at the same address, of the same size
    and backtrace, allocated by the same task at the same time.
    """
    seen: dict[object, KernelRecord] = {}
    for record in records:
        key = (_identity(record), record.jiffies, record.pid, record.comm)
        seen.setdefault(key, record)
    return list(seen.values())


def group_records(
    records: Sequence[KernelRecord], skipper: Skipper | None = None
) -> tuple[KernelLeakGroup, ...]:
    """Group records by backtrace: most bytes first, then most objects, then by backtrace."""
    skipper = skipper or Skipper()
    groups: dict[GroupKey, KernelLeakGroup] = {}
    divided: dict[_Backtrace, tuple[_Backtrace, _Backtrace]] = {}
    for row, record in enumerate(records):
        trace = symbols(record)
        if trace not in divided:
            divided[trace] = _callers(trace, skipper)
        skipped, frames = divided[trace]
        key = (frames, "", 0) if frames else ((), record.comm, record.size)
        group = groups.get(key)
        if group is None:
            group = groups[key] = KernelLeakGroup(
                frames, skipped, record, min_size=record.size, max_size=record.size
            )
        group.count += 1
        group.nbytes += record.size
        group.min_size = min(group.min_size, record.size)
        group.max_size = max(group.max_size, record.size)
        group.unlisted += record.more
        group.comms.setdefault(record.comm)
        group.rows.append(row)
    return tuple(sorted(groups.values(), key=lambda g: (-g.nbytes, -g.count, g.key)))


def symbols(record: KernelRecord) -> _Backtrace:
    """Return a record's backtrace without addresses, which each boot hashes anew."""
    trace = tuple(frame.symbol or frame.address or "" for frame in record.frames)
    while trace and trace[-1] in _END_MARKS:
        trace = trace[:-1]
    return trace


def _callers(trace: _Backtrace, skipper: Skipper) -> tuple[_Backtrace, _Backtrace]:
    """Divide a backtrace into the allocator's frames and the others."""
    for index, symbol in enumerate(trace):
        if not skipper.skips(symbol):
            return trace[:index], trace[index:]
    return (), trace


def _identity(record: KernelRecord) -> tuple[str, int, int, _Backtrace]:
    return record.space, record.address, record.size, symbols(record)


def _identities(records: Iterable[KernelRecord]) -> set[object]:
    """Return what an object is known by in another report; one of the two is enough.

    Symbols of a module are bare addresses once it is gone: then the time of its allocation and
    its task tell that an object is still the same.
    """
    known: set[object] = set()
    for record in records:
        known.add(_identity(record))
        known.add((record.space, record.address, record.size, record.jiffies, record.pid))
    return known


def _divide(
    records: Iterable[KernelRecord], suppressions: Suppressions
) -> tuple[list[KernelRecord], list[tuple[int, KernelRecord]]]:
    """Divide records into leaks and those that a suppression, named by its index, covers."""
    leaks, suppressed = [], []
    for record in records:
        index = suppressions.find(symbols(record), size=record.size, address=record.address)
        if index is None:
            leaks.append(record)
        else:
            suppressed.append((index, record))
    return leaks, suppressed


def _compare(
    leaks: Sequence[KernelRecord],
    groups: Sequence[KernelLeakGroup],
    before: Sequence[KernelRecord],
    old_path: str,
    skipper: Skipper,
) -> KernelDiff:
    old_ids, ids = _identities(before), _identities(leaks)
    new = tuple(record for record in leaks if old_ids.isdisjoint(_identities([record])))
    gone = tuple(record for record in before if ids.isdisjoint(_identities([record])))
    return KernelDiff(
        old_path=old_path,
        new=new,
        gone=gone,
        kept=len(leaks) - len(new),
        new_groups=group_records(new, skipper),
        gone_groups=group_records(gone, skipper),
        old_keys=frozenset(group.key for group in group_records(before, skipper)),
        keys=frozenset(group.key for group in groups),
    )
