"""Turns an image, its objects and its roots into a ScanResult: which objects nobody reaches."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import workers
from ._graph import reverse, subgraph
from ._index import NO_TARGET, ROWS, AddressIndex
from ._mark import mark, mark_by_scanning
from ._scan import extract_references
from .errors import UsageError
from .image import MemoryImage
from .objects import ObjectFlags, ObjectTable
from .options import HEURISTICS, check_heuristics
from .roots import Roots
from .shared_property import shared_property

if TYPE_CHECKING:
    from .leaks import LeakTable


class Colour(IntEnum):
    """The kernel's colours."""

    WHITE = 0
    GRAY = 1
    BLACK = 2


@dataclass(frozen=True, slots=True)
class ScanOptions:
    """What counts as a reference.

    Parameters
    ----------
    alignment
        Words start at multiples of so many bytes (1, 2, 4, 8); None: the word size.
    pointer_mask
        Applied to each word before it is looked up, for pointers that carry a tag.
    interior
        Whether pointers behind an object's start count.
    end_pointers
        Whether a pointer one past an object's end counts, where no other object starts.
    possible
        Whether objects are told apart that are gray, but would not be if only pointers to starts
        counted, and those that are as good.
    heuristics
        Which pointers into the middle are: names of `options.HEURISTICS`.
    """

    alignment: int | None = None
    pointer_mask: int = (1 << 64) - 1
    interior: bool = True
    end_pointers: bool = False
    possible: bool = False
    heuristics: frozenset[str] = frozenset(HEURISTICS)

    def __post_init__(self) -> None:
        if self.alignment not in (None, 1, 2, 4, 8):
            raise UsageError(f"the alignment is 1, 2, 4 or 8 bytes, not {self.alignment}")
        if not 0 < self.pointer_mask < 1 << 64:
            raise UsageError(f"the pointer mask {self.pointer_mask:#x} is no 64-bit mask")
        check_heuristics(self.heuristics)


@dataclass(frozen=True, slots=True)
class References:
    """The reference graph: what each object's words point at, in the order of the words.

    Attributes
    ----------
    offsets : ndarray of int64, shape (n + 1,)
        Entries ``offsets[i]:offsets[i + 1]`` of `targets` belong to row i.
    targets : ndarray of uint32
        An object's row in the low 30 bits, the kind of pointer above: 0 start, 1 interior,
        2 one past the end. References of an object to itself are left out.
    """

    offsets: NDArray[np.int64]
    targets: NDArray[np.uint32]

    def reverse(self) -> References:
        """Turn the lists around: what refers to each object, by rising row of who does.

        Kinds of pointer stay with the references. Takes some 10 ns a reference, and as much
        memory as these lists do.
        """
        return References(*reverse(self.offsets, self.targets))


@dataclass
class ScanResult:
    """What a scan found, row by row of its object table.

    Attributes
    ----------
    image, objects, roots, options
        What was scanned, and how.
    count : ndarray of int32, shape (n,)
        References found from roots and gray objects; counting stops at min_count.
    held : ndarray of uint8, shape (n,)
        Kinds of pointer that hold an object: 1 to its start, 2 interior, 4 one past the end.
    references : References or None
        What each object refers to; None if the scan was to do with little memory.
    root_references : References
        What each root range refers to.
    word_targets : ndarray of uint32
        The target of each root word, ``_scan.NO_TARGET`` for none.
    counters : dict
        ``words``, ``candidates``, ``hits``, ``self_references``, ``missing_bytes``, and the
        seconds of each part; with `possible_rows` how many objects each heuristic found.
    possible_rows : ndarray of int64 or None
        Rows, rising, of possibly lost objects: gray, but not by pointers to starts alone. Each
        chain of references to one has a pointer into the middle of an object, or past its end, in
        it. For objects that want several references these have to be such to starts; those that
        want none are held by nobody, as roots are. None where that was not asked.
    """

    image: MemoryImage
    objects: ObjectTable
    roots: Roots
    options: ScanOptions
    count: NDArray[np.int32]
    held: NDArray[np.uint8]
    references: References | None
    root_references: References
    word_targets: NDArray[np.uint32]
    counters: dict[str, float] = field(default_factory=dict)
    possible_rows: NDArray[np.int64] | None = None

    @shared_property
    def white(self) -> NDArray[np.bool_]:
        """Objects with too few references, ``(n,)`` ``bool``: the leaks."""
        mask: NDArray[np.bool_] = self.count < self.objects.min_count
        return mask

    @shared_property
    def colour(self) -> NDArray[np.uint8]:
        """The colour of each object, ``(n,)``: values of `Colour`."""
        colours = np.full(len(self.objects), Colour.GRAY, dtype=np.uint8)
        colours[self.white] = Colour.WHITE
        colours[self.objects.min_count < 0] = Colour.BLACK
        return colours

    @shared_property
    def leaks(self) -> LeakTable:
        """The white objects as a table."""
        from .clusters import LeakGraph
        from .leaks import build_leaks

        among = self.references_among(np.flatnonzero(self.white))
        return build_leaks(self, LeakGraph(among.offsets, among.targets))

    @shared_property
    def possible(self) -> LeakTable:
        """The possibly lost objects as a table; empty if they were not told apart.

        A head among them is what a pointer into the middle, or past the end, leads to from
        elsewhere; ``direct`` tells them, the others are held by these.
        """
        from .clusters import LeakGraph
        from .leaks import build_possible

        if self.possible_rows is None:
            return build_possible(self)
        among = self.references_among(self.possible_rows)
        return build_possible(self, LeakGraph(among.offsets, among.targets))

    @shared_property
    def loss(self) -> NDArray[np.uint8]:
        """Memcheck's kind of each object, ``(n,)``: values of `leaks.Loss`."""
        from .leaks import Loss

        kinds = np.full(len(self.objects), Loss.REACHABLE, np.uint8)
        kinds[self.white] = self.leaks["loss"]
        if self.possible_rows is not None:
            kinds[self.possible_rows] = Loss.POSSIBLE
        return kinds

    def references_among(self, rows: NDArray[np.int64], *, starts_only: bool = False) -> References:
        """Find the references of some objects to each other, rows without kinds of pointer.

        After a scan with little memory the objects are scanned for it.

        Parameters
        ----------
        rows
            ``(m,)``, rising: ``rows[i]`` is row i of the result.
        starts_only
            Leave out references to the middle, or past the end.
        """
        if self.references is not None:
            whole = self.references
            return References(*subgraph(whole.offsets, whole.targets, rows, starts_only))
        objects, options = self.objects, self.options
        start, size, _, first_range = scan_plan(objects)
        of = np.arange(rows.size)
        ranges = rows
        if first_range is not None:
            many = first_range[rows + 1] - first_range[rows]
            of = np.repeat(of, many)
            skipped = np.cumsum(many) - many
            ranges = np.arange(of.size) - skipped[of] + first_range[rows][of]
        # One past an end is the neighbour's where there is one, whether or not it is among them.
        flags = objects.flags[rows]
        after = np.minimum(rows + 1, len(objects) - 1)
        beside = objects.address[after] == objects.address[rows] + objects.size[rows]
        flags[beside] |= np.uint8(ObjectFlags.EXACT_END)
        offsets, targets, _ = extract_references(
            self.image.engine,
            AddressIndex(
                objects.address[rows],
                objects.size[rows],
                flags,
                inclusive_end=options.end_pointers,
                interior=options.interior,
            ),
            start[ranges],
            size[ranges],
            of,
            step=options.alignment or self.image.word_size,
            mask=options.pointer_mask,
        )
        if first_range is not None:
            offsets = offsets[np.concatenate(([0], np.cumsum(many)))]
        if starts_only:
            starts = targets <= ROWS
            offsets = np.concatenate(([0], np.cumsum(starts)))[offsets]
            targets = targets[starts]
        return References(offsets, targets & np.uint32(ROWS))

    def __repr__(self) -> str:
        white = int(np.count_nonzero(self.white))
        return f"<ScanResult {white:,} leaks among {len(self.objects):,} objects>"


def scan_image(
    image: MemoryImage,
    objects: ObjectTable,
    roots: Roots,
    *,
    options: ScanOptions | None = None,
    modified: ArrayLike | None = None,
    threads: int | None = None,
    low_memory: bool = False,
    alignment: int | None = None,
    pointer_mask: int = (1 << 64) - 1,
    interior: bool = True,
    end_pointers: bool = False,
) -> ScanResult:
    """Scan an image: find the objects that no root holds, directly or through others.

    The algorithm is kmemleak's; references are extracted in one sequential pass over all
    objects, then followed breadth-first from the roots in the order in which kmemleak's gray
    list would be. The result is the same for any number of threads, and for either way.

    Parameters
    ----------
    image, objects, roots
        The memory, the objects in it, and what is scanned unconditionally.
    options
        Instead of the single keywords.
    modified
        ``(n,)`` ``bool`` by row: objects known to have changed since they were last seen white.
        Those that are white after the first round are taken as gray, and followed.
    threads
        How many may work at once; None: as many as this process may use processors.
    low_memory
        Scan each object as it becomes gray, as kmemleak does, and keep no references: slower
        on large images, some 40 bytes an object less. References between leaks are looked for
        afterwards; others are not to be had.
    alignment, pointer_mask, interior, end_pointers
        As in `ScanOptions`.

    Returns
    -------
    ScanResult

    Raises
    ------
    UsageError
        An option has a value that it cannot have.
    """
    if options is None:
        options = ScanOptions(alignment, pointer_mask, interior, end_pointers)
    step = options.alignment or image.word_size
    mask = options.pointer_mask
    if threads is None:
        threads = workers.available()
    clock = time.perf_counter
    began = clock()
    index = AddressIndex(
        objects.address,
        objects.size,
        objects.flags,
        inclusive_end=options.end_pointers,
        interior=options.interior,
        threads=threads,
    )
    indexed = clock()
    view = image.engine
    root_start, root_size = roots.range_arrays()
    nobody = np.full(root_start.size, -1, dtype=np.int64)
    root_offsets, root_targets, counters = extract_references(
        view, index, root_start, root_size, nobody, step=step, mask=mask, threads=threads
    )
    word_targets = index.lookup(roots.word_array() & np.uint64(mask))
    held_by_roots = np.concatenate((word_targets[word_targets != NO_TARGET], root_targets))
    start, size, owner, first_range = scan_plan(objects)
    excess = excess_rows(objects, index)
    changed = None if modified is None else _mask(modified, len(objects))
    apart = options.possible and changed is None
    references = None
    if low_memory:
        extracted = clock()
        count, held, possible, more = mark_by_scanning(
            view,
            index,
            start,
            size,
            owner,
            first_range,
            objects.min_count,
            held_by_roots,
            step=step,
            mask=mask,
            excess=excess,
            order=objects.order,
            modified=changed,
            apart=apart,
        )
    else:
        offsets, targets, more = extract_references(
            view, index, start, size, owner, step=step, mask=mask, threads=threads
        )
        if first_range is not None:
            offsets = offsets[first_range]
        references = References(offsets, targets)
        extracted = clock()
        count, held, possible = mark(
            offsets,
            targets,
            objects.min_count,
            held_by_roots,
            excess=excess,
            order=objects.order,
            modified=changed,
            apart=apart,
        )
    marked = clock()
    totals: dict[str, float] = {k: counters[k] + more[k] for k in counters}
    totals["words"] += len(roots.words)
    totals["index_seconds"] = indexed - began
    totals["extract_seconds"] = extracted - indexed
    totals["mark_seconds"] = marked - extracted
    result = ScanResult(
        image,
        objects,
        roots,
        options,
        count,
        held,
        references,
        References(root_offsets, root_targets),
        word_targets,
        totals,
        None if possible is None else possible.astype(np.int64),
    )
    if possible is not None and possible.size and options.heuristics:
        _use_heuristics(result)
        totals["heuristics_seconds"] = clock() - marked
    return result


def _use_heuristics(result: ScanResult) -> None:
    """Take out of the possibly lost objects what is reachable after all."""
    from .heuristics import promote

    assert result.possible_rows is not None
    found = promote(result, result.possible_rows, result.options.heuristics)
    result.possible_rows = found.left
    result.counters |= {f"{name}_objects": n for name, n in found.objects.items()}


def scan_plan(
    objects: ObjectTable,
) -> tuple[
    NDArray[np.uint64],
    NDArray[np.uint64],
    NDArray[np.int64] | None,
    NDArray[np.int64] | None,
]:
    """Lay out which ranges of which objects are scanned.

    Returns
    -------
    start, size : ndarray of uint64, shape (r,)
        The ranges, in row order.
    owner : ndarray of int64, shape (r,), or None
        The row that each range belongs to; None where range i is the whole of object i.
    first_range : ndarray of int64, shape (n + 1,), or None
        Row i's ranges are ``first_range[i]:first_range[i + 1]``; None likewise.
    """
    whole = objects.size
    unscanned: NDArray[np.bool_] | None = None
    # Nearly always all are scanned, which two passes tell.
    every_flag = np.bitwise_or.reduce(objects.flags)
    if every_flag & ObjectFlags.NO_SCAN or objects.min_count.min(initial=0) < 0:
        unscanned = (objects.min_count < 0) | (objects.flags & ObjectFlags.NO_SCAN != 0)
        whole = np.where(unscanned, np.uint64(0), whole)
    if objects.area_offsets is None or objects.area_address is None or objects.area_size is None:
        return objects.address, whole, None, None
    areas = np.diff(objects.area_offsets)
    restricted = (areas > 0) & (objects.flags & ObjectFlags.FULL_SCAN == 0)
    ranges = np.where(restricted, areas, 1)
    first_range = np.concatenate(([0], np.cumsum(ranges)))
    owner = np.repeat(np.arange(len(objects)), ranges)
    start, size = objects.address[owner], whole[owner]
    # Entries of the area columns that belong to restricted rows, in row order as the ranges are.
    used = np.repeat(restricted, areas)
    mine = restricted[owner]
    start[mine] = objects.area_address[used]
    size[mine] = objects.area_size[used]
    if unscanned is not None:
        size[unscanned[owner]] = 0
    return start, size, owner, first_range


def excess_rows(objects: ObjectTable, index: AddressIndex) -> NDArray[np.int32] | None:
    """Find the rows that surplus references count for: only an exact start will do."""
    if objects.excess_ref is None or not bool(objects.excess_ref.any()):
        return None
    rows = np.full(len(objects), -1, dtype=np.int32)
    carriers = np.flatnonzero(objects.excess_ref)
    found = index.lookup(objects.excess_ref[carriers])
    exact = found < len(objects)  # kind 0: a pointer to the start
    rows[carriers[exact]] = found[exact].astype(np.int32)
    return rows


def _mask(values: ArrayLike, n: int) -> NDArray[np.uint8]:
    array = np.ascontiguousarray(values, dtype=bool)
    if array.shape != (n,):
        raise UsageError(f"`modified` has shape {array.shape}, ({n},) is wanted")
    return array.view(np.uint8)
