"""Turns the memory of a process that is no root into words that still hold an object's address.

None of them counts: they lie in what was freed, or below a stack pointer. But they tell who held
a leak last.
"""

from __future__ import annotations

import numpy as np

from .._index import AddressIndex
from .._scan import scan_words
from ..dump import Dump
from ..graph import POINTERS, Referrer
from ..heaps import Heap
from ..scan import ScanResult

#: What an exclusion of a heap is called.
_REASONS = {
    "heap": "heap memory that no block uses",
    "heap-mapped": "heap memory that no block uses",
    "arena": "the allocator's own structures",
    "tcache": "the allocator's own structures",
    "ended-thread-stack": "the stack of a thread that ended",
}
#: Words beyond these are not told.
_MOST = 1000


def leftovers(dump: Dump, heap: Heap, result: ScanResult, row: int) -> list[Referrer]:
    """Find the words outside of roots and objects that hold an object's address.

    Parameters
    ----------
    dump, heap
        Of a process.
    result
        Its scan.
    row
        The object's.

    Returns
    -------
    list of Referrer
        By address; none of them live. Their kind is ``"freed"``, ``"allocator"``,
        ``"dead-stack"``, ``"left-out"`` (of a stack that would be a root) or ``"unused"``.
    """
    objects, options, image = result.objects, result.options, result.image
    index = AddressIndex(
        objects.address[row : row + 1],
        objects.size[row : row + 1],
        objects.flags[row : row + 1],
        interior=options.interior,
    )
    start = image.starts
    places, values, targets, _ = scan_words(
        image.engine,
        index,
        start,
        image.ends - start,
        np.full(start.size, -1, np.int64),
        step=options.alignment or image.word_size,
        mask=options.pointer_mask,
    )
    holder = np.searchsorted(objects.address, places, side="right").astype(np.int64) - 1
    known = np.maximum(holder, 0)
    outside = (holder < 0) | (places - objects.address[known] >= objects.size[known])
    begin, size = result.roots.range_arrays()
    order = np.argsort(begin)
    begin, size = begin[order], size[order]
    if begin.size:
        at = np.searchsorted(begin, places, side="right").astype(np.int64) - 1
        inside = np.maximum(at, 0)
        outside &= (at < 0) | (places - begin[inside] >= size[inside])
    found = []
    for i in np.flatnonzero(outside)[:_MOST].tolist():
        place = int(places[i])
        kind, name = _describe(dump, heap, place)
        pointer = POINTERS[int(targets[i]) >> 30]
        found.append(Referrer(place, int(values[i]), pointer, kind, name, False))
    return found


def _describe(dump: Dump, heap: Heap, place: int) -> tuple[str, str]:
    pointers = {thread.tid: thread.stack_pointer for thread in dump.threads}
    for stack in heap.stacks:
        if stack.low <= place < stack.high:
            if stack.tid is None:
                return "dead-stack", "stack of a thread that ended"
            return _on_stack(place, stack.tid, pointers.get(stack.tid, place + 1))
    for thread in dump.threads:
        segment = dump.image.find(thread.stack_pointer)
        if segment is not None and segment.address <= place < segment.end:
            return _on_stack(place, thread.tid, thread.stack_pointer)
    for exclusion in heap.excluded:
        if exclusion.begin <= place < exclusion.end:
            kind = {"heap": "freed", "heap-mapped": "freed"}.get(exclusion.reason, "allocator")
            kind = "dead-stack" if exclusion.reason == "ended-thread-stack" else kind
            return kind, _REASONS.get(exclusion.reason, exclusion.reason)
    return "unused", "memory that is no root"


def _on_stack(place: int, tid: int, pointer: int) -> tuple[str, str]:
    return "dead-stack" if place < pointer else "left-out", f"stack of thread {tid}"
