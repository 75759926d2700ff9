"""Finds the stacks of live threads and the cached stacks of ended ones, by their control blocks.

``struct pthread`` (``nptl/descr.h``) lies at the upper end of the stack that the C library
allocated and records it: ``stackblock``, ``stackblock_size``. Their offset is learnt from the
live threads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from ..._heap_find import find_linked
from ...dump import Dump, Thread
from ...errors import FaultError
from ...image import MemoryImage
from .. import StackRange
from .arenas import word_at

#: Bytes of ``struct pthread`` in which stackblock is searched.
CONTROL_BLOCK = 0xC00

#: Control blocks are aligned to 64 bytes.
ALIGNMENT = 64

#: No process has more.
MAX_THREADS = 1 << 20

#: No thread's number is larger (``PID_MAX_LIMIT`` of ``linux/threads.h``), no stack lies lower.
MAX_ID = 1 << 22

AT_RANDOM = 25


@dataclass(slots=True)
class Stacks:
    """Where stacks lie.

    Parameters
    ----------
    live
        One range for each thread whose stack is known.
    ended
        Cached stacks of threads that ended, up to their control blocks.
    unknown
        Ids of threads of which no stack is known.
    blank
        Ids of threads whose control block the dump does not hold, or holds as zeros.
    offset
        Offset of ``stackblock`` from the thread pointer, None if it was not learnt.
    searched
        Whether control blocks of ended threads can be recognised on this architecture.
    """

    live: list[StackRange] = field(default_factory=list)
    ended: list[StackRange] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    blank: list[int] = field(default_factory=list)
    offset: int | None = None
    searched: bool = True


def find_stacks(dump: Dump, ranges: list[tuple[int, int]]) -> Stacks:
    """Find the stacks of a process.

    Parameters
    ----------
    dump
        The memory and its threads.
    ranges
        Where control blocks of ended threads are searched: anonymous memory that is no heap.
    """
    image = dump.image
    stacks = Stacks(searched=dump.architecture in ("x86_64", "i386", "unknown"))
    bases = {t.tls_base for t in dump.threads if t.tls_base}
    votes = Counter(
        offset for base in bases for offset, _, _ in _blocks(image, base, stacks.searched)
    )
    ended = _ended(image, ranges, bases) if stacks.searched else []
    if not votes:
        # Only the main thread is left: the ended ones tell the offset themselves.
        votes = Counter(offset for base in ended for offset, _, _ in _blocks(image, base, True))
    if votes:
        most = max(votes.values())
        stacks.offset = min(o for o, n in votes.items() if n == most)
    for thread in dump.threads:
        # The first word of a control block points to itself.
        known = thread.tls_base and dump.architecture in ("x86_64", "i386")
        if known and word_at(image, thread.tls_base) != thread.tls_base:
            stacks.blank.append(thread.tid)
        block = _block_at(image, thread.tls_base, stacks.offset)
        if block is not None:
            stacks.live.append(StackRange(block[0], thread.tls_base, thread.tid))
        else:
            main = _main_stack(dump, thread)
            if main is not None:
                stacks.live.append(main)
            else:
                stacks.unknown.append(thread.tid)
    for base in ended:
        block = _block_at(image, base, stacks.offset)
        if block is not None and not any(block[0] <= live < base for live in bases):
            stacks.ended.append(StackRange(block[0], base, None))
    return stacks


def _blocks(image: MemoryImage, base: int, above: bool) -> list[tuple[int, int, int]]:
    """Return (offset, stackblock, size) that fit in the control block of a thread."""
    word = image.word_size
    low = base if above else base - CONTROL_BLOCK
    segment = image.find(max(low, 0))
    if segment is None:
        return []
    count = (min(low + CONTROL_BLOCK, segment.end) - low) // word
    try:
        words = image.words(low, count).astype(np.uint64)
    except FaultError:
        return []
    start, size = words[:-1], words[1:]
    # The stack holds its own control block, near its end. A size is a multiple of the page as
    # a rule, but a program may bring any memory as a stack.
    # Right before its list of mutexes, a pointer into itself, it has the thread's number: in a
    # program at low addresses these look like the beginning and the size of such a stack.
    fits = (start > MAX_ID) & (start < np.uint64(base)) & (size >= 4096)
    fits &= (np.uint64(base) - start) < size
    fits &= (size - (np.uint64(base) - start)) <= np.uint64(1 << 20)
    fits &= size <= np.uint64(1 << 40)
    return [
        (low - base + i * word, int(start[i]), int(size[i])) for i in np.flatnonzero(fits).tolist()
    ]


def _block_at(image: MemoryImage, base: int, offset: int | None) -> tuple[int, int] | None:
    if offset is None or not base:
        return None
    start = word_at(image, base + offset)
    size = word_at(image, base + offset + image.word_size)
    if not start or not size or not start < base < start + size:
        return None
    # The main thread's record spans everything below its stack's end: no stack block.
    return (start, size) if start + size - base <= 1 << 20 else None


def _ended(image: MemoryImage, ranges: list[tuple[int, int]], live: set[int]) -> list[int]:
    """Return the control blocks (``tcb`` and ``self`` point to them) of no live thread."""
    found: list[int] = []
    for low, high in ranges:
        found += find_linked(
            image.engine, low, high, ALIGNMENT, 0, 0, 2 * image.word_size, 0, MAX_THREADS
        )
    return [base for base in found if base not in live]


def _main_stack(dump: Dump, thread: Thread) -> StackRange | None:
    """Return the stack that the kernel made, if this is the thread to which it belongs."""
    image = dump.image
    segment = image.find(thread.stack_pointer)
    if segment is None or not segment.writable:
        return None
    random = dump.auxv.get(AT_RANDOM)
    if segment.name == "[stack]" or (
        random is not None and segment.address <= random < segment.end
    ):
        return StackRange(segment.address, segment.end, thread.tid)
    return None
