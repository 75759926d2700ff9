"""Finds the allocated blocks inside an image, one module an allocator."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from ..coverage import Coverage
from ..dump import Dump
from ..objects import ObjectTable
from ..plugins import registered
from ..provenance import Provenance


@dataclass(frozen=True, slots=True)
class Check:
    """One of the allocator's own sums, compared with what the walk found.

    Parameters
    ----------
    name
        ``"system_mem of the main arena"``.
    expected, found
        The allocator's figure and ours.
    """

    name: str
    expected: int
    found: int

    @property
    def passed(self) -> bool:
        """Whether they agree."""
        return self.expected == self.found


@dataclass(frozen=True, slots=True)
class StackRange:
    """Memory that serves as a thread's stack.

    Parameters
    ----------
    low, high
        The range of the stack proper, up to (not including) the thread's control block and TLS.
    tid
        The thread that runs on it; None for the cached stack of a thread that ended.
    """

    low: int
    high: int
    tid: int | None


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A range that is no root, though it was mapped.

    Parameters
    ----------
    begin, end
        The range, end exclusive.
    reason
        ``"heap"``, ``"arena"``, ``"tcache"``, ``"ended-thread-stack"``, ….
    """

    begin: int
    end: int
    reason: str


@dataclass(slots=True)
class Heap:
    """What one allocator's module found.

    Parameters
    ----------
    allocator
        Its name and, where known, layout family: ``"glibc 2.27-2.42"``.
    objects
        Allocated blocks: the part that belongs to the program, without headers.
    excluded
        What must not be scanned as a root: heap memory, the allocator's own structures.
    stacks
        Thread stacks, as far as the C library's own records tell.
    checks
        The allocator's own sums against the walk's.
    counters
        For the report: ``"arenas"``, ``"chunks"``, ``"free_chunks"``, ``"tcache_chunks"``, ….
    coverage
        What did not parse.
    provenance
        What the objects are and who allocated them, where something tells.
    """

    allocator: str
    objects: ObjectTable
    excluded: list[Exclusion] = field(default_factory=list)
    stacks: list[StackRange] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    coverage: Coverage = field(default_factory=Coverage)
    provenance: Provenance | None = None


class HeapFinder(Protocol):
    """One allocator: looks for its structures in a dump."""

    name: str

    def find(self, dump: Dump, threads: int = 1) -> Heap | None:
        """Return the heap, or None where this allocator left no trace.

        Parameters
        ----------
        dump
            The memory.
        threads
            How many may work at a time; the heap is the same for any number.
        """
        ...


def finders() -> Iterable[HeapFinder]:
    """Yield every known allocator: ours, then those of the ``kmemleak_core.heaps`` entry points."""
    from .glibc import GlibcHeap

    yield GlibcHeap()
    for entry in registered("kmemleak_core.heaps"):
        yield entry.load()()
