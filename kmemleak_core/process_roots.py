"""Turns a user process's dump and heap into Roots: registers, stacks, TLS, mappings."""

from __future__ import annotations

from collections.abc import Iterator

from intervaltree import IntervalTree

from .dump import Dump, Thread
from .heaps import Heap, StackRange
from .image import MEMORY_FILES, Segment
from .roots import RootRange, Roots, RootWord
from .tls import static_tls_size

#: The classes of roots, and what a user is told that they are.
ROOT_KINDS = {
    "registers": "integer and vector registers of every thread",
    "stacks": "each thread's stack from its stack pointer up",
    "tls": "thread-local storage and the thread's control block",
    "data": "writable mappings of files: .data, .bss, private and shared file mappings",
    "anonymous": "writable memory that no heap owns",
    "readonly": "mappings that the program could not write to",
}

# Bytes below the stack pointer that a leaf function may use (System V ABI, x86-64).
_RED_ZONE = {"x86_64": 128}
# The thread pointer stands between the static TLS and the thread's control block; which is
# below differs by architecture (ELF TLS variants I and II). The control block's length is not
# recorded, nor is that of the TLS where no module's header was dumped: these are generous, and
# clipped to the mapping. They only give bytes a class: what they miss is a root all the same.
_STATIC_TLS = 1024
_CONTROL_BLOCK = 2304
_TLS_ABOVE = frozenset({"aarch64", "arm"})


def process_roots(dump: Dump, heap: Heap) -> Roots:
    """Collect every root of a user process.

    Whatever was mapped is a root, except what the heap's module excludes (heap memory, the
    allocator's own structures, stacks of ended threads), the dead part of live stacks, and files'
    machine code.

    Parameters
    ----------
    dump
        Threads and memory.
    heap
        Its exclusions and stack ranges.

    Returns
    -------
    Roots
        Kinds are the keys of `ROOT_KINDS`; each byte has one kind.
    """
    taken = IntervalTree()
    for exclusion in heap.excluded:
        if exclusion.end > exclusion.begin:
            taken[exclusion.begin : exclusion.end] = exclusion.reason
    special: list[RootRange] = []
    stacks = list(_stack_ranges(dump, heap))
    live = IntervalTree()
    static_tls = static_tls_size(dump)
    for thread in dump.threads:
        # First, because a thread's TLS lies at the upper end of its stack.
        tls = _tls_range(dump, thread, _STATIC_TLS if static_tls is None else static_tls)
        if tls is not None:
            # A static program's heap begins right behind its main thread's control block.
            special.extend(Roots((tls,)).subtract(taken).ranges)
            live[tls.address : tls.end] = None
            taken[tls.address : tls.end] = "tls"
    for thread in dump.threads:
        stack = next((s for s in stacks if s.tid == thread.tid), None)
        if stack is not None:
            part = _live_part(dump, thread, stack)
            # Two threads may claim one stack: what either uses is live, and told once.
            special.extend(Roots((part,)).subtract(live).ranges)
            if part.size:
                live[part.address : part.end] = None
    for stack in stacks:
        taken[stack.low : stack.high] = "stack"
    mappings = Roots(
        RootRange(s.address, s.size, _mapping_kind(s), _mapping_name(s))
        for s in dump.image.segments
        if not _is_machine_code(s)
    ).subtract(taken)
    return Roots((*special, *mappings.ranges), _register_words(dump))


def _stack_ranges(dump: Dump, heap: Heap) -> Iterator[StackRange]:
    known = [s for s in heap.stacks if s.tid is not None and s.low < s.high]
    yield from known
    told = {s.tid for s in known}
    for thread in dump.threads:
        segment = dump.image.find(thread.stack_pointer)
        if thread.tid not in told and segment is not None and segment.name == "[stack]":
            yield StackRange(segment.address, segment.end, thread.tid)


def _live_part(dump: Dump, thread: Thread, stack: StackRange) -> RootRange:
    name = f"stack of thread {thread.tid}"
    if not stack.low <= thread.stack_pointer <= stack.high:
        # It runs elsewhere (a signal stack, a coroutine): what its own stack holds is live.
        return RootRange(stack.low, stack.high - stack.low, "stacks", name)
    low = max(stack.low, thread.stack_pointer - _RED_ZONE.get(dump.architecture, 0))
    return RootRange(low, stack.high - low, "stacks", name)


def _tls_range(dump: Dump, thread: Thread, static_tls: int) -> RootRange | None:
    segment = dump.image.find(thread.tls_base) if thread.tls_base else None
    if segment is None:
        return None
    below, above = static_tls, _CONTROL_BLOCK
    if dump.architecture in _TLS_ABOVE:
        below, above = above, below
    low = max(segment.address, thread.tls_base - below)
    high = min(segment.end, thread.tls_base + above)
    return RootRange(low, high - low, "tls", f"TLS of thread {thread.tid}")


def _is_machine_code(segment: Segment) -> bool:
    """Say whether a segment is code as a file holds it: older than the heap, it holds none of it.

    Instructions look like addresses: a conditional jump some pages on is ``0f 86 7f 00 00 00``,
    by chance right where a large block lies. Code that a program generates is in memory without
    a file, or in a file in memory, and may hold addresses.
    """
    code = "x" in segment.permissions and not segment.writable
    return code and segment.kind == "file" and not segment.name.startswith(MEMORY_FILES)


def _mapping_kind(segment: Segment) -> str:
    if not segment.writable:
        return "readonly"
    return "data" if segment.kind == "file" else "anonymous"


def _mapping_name(segment: Segment) -> str:
    if segment.name:
        return segment.name
    return f"{segment.kind} mapping {segment.address:#x}"


def _register_words(dump: Dump) -> Iterator[RootWord]:
    order = dump.image.byteorder
    width = dump.image.word_size
    for thread in dump.threads:
        for register, value in thread.registers.items():
            if value:
                yield RootWord(value, "registers", f"{register} of thread {thread.tid}")
        for register, raw in thread.vectors:
            for at in range(0, len(raw) - width + 1, width):
                value = int.from_bytes(raw[at : at + width], order)
                if value:
                    name = f"{register}[{at}] of thread {thread.tid}"
                    yield RootWord(value, "registers", name)
