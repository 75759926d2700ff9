"""Turns slabs into their allocated objects: all that no freelist leads to."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..._slub import ABSENT, ASKEW, OUTSIDE, TWICE, Slabs
from ...coverage import Coverage
from ...image import MemoryImage
from ...linux.pages import Pages
from .caches import Caches, CpuSlabs
from .slabs import SlabColumns

#: What is wrong with a freelist, by how its walk ended.
_PROBLEMS = {
    OUTSIDE: "lead out of their slab",
    ASKEW: "lead between two objects",
    TWICE: "lead to an object that is free already",
    ABSENT: "lead through memory that is not in the dump",
}


@dataclass(eq=False)
class Walked:
    """What the freelists told.

    Parameters
    ----------
    slabs
        Slots of all slabs with their marks.
    own : ndarray of int64, shape (n,)
        Objects on each slab's own freelist.
    held : ndarray of int64, shape (n,)
        Free objects that processors hold of each slab.
    swab
        Whether pointers are xored with an address whose bytes are swapped.
    coverage
        Freelists that ended early, by cache.
    """

    slabs: Slabs
    own: NDArray[np.int64]
    held: NDArray[np.int64]
    swab: bool
    coverage: Coverage = field(default_factory=Coverage)


def walk_freelists(
    image: MemoryImage, pages: Pages, caches: Caches, columns: SlabColumns, held: CpuSlabs
) -> Walked:
    """Follow every slab's freelist and every processor's.

    A slab that a processor has taken as its own is empty by its own count; what it still has to
    give is on the processor's list. Objects that other processors free go to the slab's list
    meanwhile: both are followed.
    """
    by_page = np.full(len(pages), -1, np.int64)
    by_page[columns.page] = np.arange(len(columns))
    row = pages.rows_of_structs(held.slab)
    taken = np.where(row >= 0, by_page[row], -1)
    # One that leads elsewhere is no slab of that cache: told with the damaged ones.
    lost = taken < 0
    lost[~lost] = columns.cache[taken[~lost]] != held.cache[~lost]
    with_list = np.flatnonzero(columns.freelist)
    head = np.concatenate([columns.freelist[with_list], held.freelist[~lost]])
    slab = np.concatenate([with_list, taken[~lost]])
    offset = caches.offset[columns.cache[slab]]
    random = caches.random[columns.cache[slab]]
    stride = caches.size[columns.cache]
    slabs = Slabs(columns.base, stride, columns.objects)

    def walk(swab: bool) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        return slabs.walk(image.engine, head, slab, offset, random, swab)

    # The address is swapped since Linux 5.7; before, it is not: nothing but success tells.
    swab = True
    length, problem = walk(swab)
    if random.any() and 2 * np.count_nonzero(problem) > head.size:
        slabs.forget()
        other = walk(False)
        if np.count_nonzero(other[1]) < np.count_nonzero(problem):
            swab, (length, problem) = False, other
        else:
            slabs.forget()
            length, problem = walk(swab)

    own = np.zeros(len(columns), np.int64)
    own[with_list] = length[: with_list.size]
    by_cpu = np.zeros(len(columns), np.int64)
    np.add.at(by_cpu, taken[~lost], length[with_list.size :])
    walked = Walked(slabs, own, by_cpu, swab)
    _tell(walked.coverage, caches, columns.cache[slab], head, problem)
    if lost.any():
        walked.coverage.add(
            "heap.slub.cpu-slab",
            "processors' slabs that are no slabs of their cache: not followed",
            count=int(np.count_nonzero(lost)),
            address=int(held.slab[lost][0]),
        )
    return walked


def _tell(
    coverage: Coverage,
    caches: Caches,
    cache: NDArray[np.int64],
    head: NDArray[np.uint64],
    problem: NDArray[np.uint8],
) -> None:
    bad = np.flatnonzero(problem)
    for row, what in sorted(set(zip(cache[bad].tolist(), problem[bad].tolist(), strict=True))):
        which = bad[(cache[bad] == row) & (problem[bad] == what)]
        coverage.add(
            "heap.slub.freelist",
            f"freelists of {caches.names[row]} {_PROBLEMS[what]}: "
            "free objects behind it count as allocated",
            count=which.size,
            address=int(head[which[0]]),
        )
