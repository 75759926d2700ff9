"""Turns kmemleak's list of objects, as it lies in a kernel's memory, into columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..errors import DumpError, FaultError
from .kernel import Kernel
from .stack_depot import StackDepot, distinct_rows
from .structures import Structures


class KernelFlags(IntFlag):
    """Bits of ``kmemleak_object.flags``: macros of mm/kmemleak.c, the same since each is there."""

    ALLOCATED = 1
    REPORTED = 2
    NO_SCAN = 4
    FULL_SCAN = 8
    PHYS = 16  # Linux 6.0: the address is physical
    PERCPU = 32  # Linux 6.12: the address is what each processor's offset is added to


#: What the address of an object can be, by the number that `KmemleakRecords.space` has for it.
SPACES = ("", "phys", "percpu")

#: Scan areas that an object has on average, at most; more are damage.
_AREAS = 16


@dataclass(slots=True, eq=False)
class KmemleakRecords:
    """The kernel's ``struct kmemleak_object``, in the order of its list; n of them.

    Parameters
    ----------
    record : ndarray of uint64, shape (n,)
        Where each structure lies.
    address, size : ndarray of uint64, shape (n,)
        The object: as `space` tells, and bytes.
    flags : ndarray of uint32, shape (n,)
        `KernelFlags`.
    min_count, count : ndarray of int32, shape (n,)
        References wanted, and those that the kernel met in its last scan.
    checksum : ndarray of uint32, shape (n,)
        Of the content when the object was last seen white.
    excess_ref : ndarray of uint64, shape (n,)
        The object that surplus references count for; 0 for none, and in kernels before 4.13.
    jiffies : ndarray of int64, shape (n,)
        When it was allocated, in ticks.
    pid : ndarray of int32, shape (n,)
        The task that allocated it.
    comm : ndarray of int32, shape (n,)
        Index of its name in `comms`.
    comms
        Names of tasks.
    trace : ndarray of int64, shape (n,)
        Index into `traces`; −1 for none.
    traces
        Return addresses, innermost first.
    area_row : ndarray of int64, shape (m,)
        The record that each scan area belongs to, ascending; in the order in which an object's
        areas are scanned.
    area_address, area_size : ndarray of uint64, shape (m,)
        The areas.
    """

    record: NDArray[np.uint64]
    address: NDArray[np.uint64]
    size: NDArray[np.uint64]
    flags: NDArray[np.uint32]
    min_count: NDArray[np.int32]
    count: NDArray[np.int32]
    checksum: NDArray[np.uint32]
    excess_ref: NDArray[np.uint64]
    jiffies: NDArray[np.int64]
    pid: NDArray[np.int32]
    comm: NDArray[np.int32]
    comms: Sequence[str]
    trace: NDArray[np.int64]
    traces: Sequence[tuple[int, ...]]
    area_row: NDArray[np.int64]
    area_address: NDArray[np.uint64]
    area_size: NDArray[np.uint64]

    def __len__(self) -> int:
        return int(self.record.size)

    @property
    def space(self) -> NDArray[np.uint8]:
        """What each address is, ``(n,)``: index into `SPACES`."""
        physical = (self.flags & KernelFlags.PHYS != 0).astype(np.uint8)
        per_cpu = (self.flags & KernelFlags.PERCPU != 0).astype(np.uint8)
        space: NDArray[np.uint8] = np.maximum(physical, per_cpu * np.uint8(2))
        return space

    def flagged(self, flag: KernelFlags) -> NDArray[np.bool_]:
        """Return which records have a flag, ``(n,)`` ``bool``."""
        has: NDArray[np.bool_] = self.flags & np.uint32(flag) != 0
        return has


def read_records(kernel: Kernel, head: int, coverage: Coverage) -> KmemleakRecords:
    """Read all objects of kmemleak's list.

    Parameters
    ----------
    kernel
        Whose list it is.
    head
        Where its ``object_list`` is.
    coverage
        Receives ``kmemleak.list`` (the list ends early), ``kmemleak.missing`` (parts of records
        that are not in the dump), ``kmemleak.areas``, and what the stack depot tells.

    Raises
    ------
    DumpError
        The layout of the records is not known.
    """
    structures = kernel.structures()
    name = "kmemleak_object"
    link = structures.member(name, "object_list").offset
    record = _nodes(kernel, structures, head, coverage) - np.uint64(link)
    member = [
        "pointer",
        "size",
        "flags",
        "min_count",
        "count",
        "checksum",
        "jiffies",
        "pid",
        "area_list.first",
    ]
    # Of vmalloc, since Linux 4.13; the depot since 6.1, before it the record held its frames.
    member += [path for path in ("excess_ref", "trace_handle") if structures.has(name, path)]
    column = dict(zip(member, structures.columns(record, name, *member), strict=True))
    comm, comms = _names(structures, record)
    if "trace_handle" in column:
        trace, traces = StackDepot(kernel, coverage).traces(column["trace_handle"])
    else:
        trace, traces = _own_traces(structures, record)
    areas = _areas(structures, column["area_list.first"], coverage)
    if structures.missing:
        coverage.add(
            "kmemleak.missing",
            f"{structures.missing:,} values of kmemleak's records are not in the dump",
            count=structures.missing,
        )
    return KmemleakRecords(
        record,
        column["pointer"],
        column["size"],
        column["flags"].astype(np.uint32),
        column["min_count"].astype(np.int32),
        column["count"].astype(np.int32),
        column["checksum"].astype(np.uint32),
        column.get("excess_ref", np.zeros(record.size, np.uint64)),
        column["jiffies"].view(np.int64),
        column["pid"].astype(np.int32),
        comm,
        comms,
        trace,
        traces,
        *areas,
    )


def _nodes(
    kernel: Kernel, structures: Structures, head: int, coverage: Coverage
) -> NDArray[np.uint64]:
    """Return the list's elements; where it is broken, what leads to there from either end."""
    word = kernel.image.word_size
    most = kernel.image.nbytes // structures.struct("kmemleak_object").size
    try:
        first, last = (structures.number(at, word) for at in (head, head + word))
    except FaultError as error:
        raise DumpError(
            f"the head of kmemleak's list of objects is not in the dump: {error}",
            path=kernel.dump.path,
        ) from error
    nodes, problem = structures.follow(first, 0, end=head, most=most)
    # Each element tells the one before it, too.
    before, _ = structures.numbers(nodes, word, word)
    expected = np.concatenate((np.array([head], np.uint64), nodes[:-1]))[: nodes.size]
    wrong = np.flatnonzero(before != expected)
    if not wrong.size and not problem:
        return nodes
    kept = nodes[: wrong[0]] if wrong.size else nodes
    back, _ = structures.follow(last, word, end=head, most=most)
    rest = back[~np.isin(back, kept)][::-1]
    place = f" at {int(nodes[wrong[0]]):#x}" if wrong.size else ""
    coverage.add(
        "kmemleak.list",
        f"kmemleak's list of objects is damaged{place}: {problem or 'its links disagree'}; "
        f"{kept.size:,} objects were met from its beginning, {rest.size:,} from its end",
    )
    return np.concatenate((kept, rest))


def _names(
    structures: Structures, record: NDArray[np.uint64]
) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Return the index of each record's name, and the names."""
    member = structures.member("kmemleak_object", "comm")
    width = (member.size + 7) & ~7
    text = np.zeros((record.size, width), np.uint8)
    text[:, : member.size], present = structures.bytes(record, member.offset, member.size)
    structures.missing += int(np.count_nonzero(~present))
    index, first = distinct_rows(text.view(np.uint64))
    # What follows the end of a string may be anything: the same name then comes several times.
    names: dict[str, int] = {}
    number = [
        names.setdefault(row.tobytes().split(b"\0", 1)[0].decode("latin-1"), len(names))
        for row in text[first]
    ]
    return np.array(number, np.int32)[index], tuple(names)


def _own_traces(
    structures: Structures, record: NDArray[np.uint64]
) -> tuple[NDArray[np.int64], list[tuple[int, ...]]]:
    """Return the index of each record's backtrace (−1: none), and them: kernels up to 6.0."""
    word = structures.image.word_size
    member = structures.member("kmemleak_object", "trace")
    many = member.size // word
    length = structures.column(record, "kmemleak_object", "trace_len")
    length = np.minimum(length, np.uint64(many)).astype(np.int64)
    raw, _ = structures.bytes(record, member.offset, many * word)
    frames = raw.view(structures.image.word_dtype).astype(np.uint64).reshape(-1, many)
    frames[np.arange(many) >= length[:, None]] = 0
    rows = np.concatenate((frames, length[:, None].astype(np.uint64)), axis=1)
    index, first = distinct_rows(np.ascontiguousarray(rows))
    traces = [tuple(frames[i, : length[i]].tolist()) for i in first.tolist()]
    index[length == 0] = -1
    return index, traces


def _areas(
    structures: Structures, first: NDArray[np.uint64], coverage: Coverage
) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the scan areas: the record that each belongs to, start, size."""
    rows = np.flatnonzero(first)
    name = "kmemleak_scan_area"
    node = structures.member(name, "node.next").offset - structures.member(name, "node").offset
    areas, owner, damaged = structures.follow_many(
        first[rows], node, most=_AREAS * rows.size + (1 << 10)
    )
    if damaged:
        coverage.add(
            "kmemleak.areas", f"the scan areas of {damaged:,} objects end early", count=damaged
        )
    areas = areas - np.uint64(structures.member(name, "node").offset)
    start, size = structures.columns(areas, name, "start", "size")
    return rows[owner], start, size
