"""Turns leaks found in the allocators' books into how they differ from kmemleak's verdict, and why.

For kernels that have both: what the books alone cannot know (annotations, ages) is told.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ..objects import ObjectTable
from .kernel import Kernel
from .kmemleak import KernelHeap
from .verdict import AS_KERNEL, births_and_ages, find_verdict


class Beside(IntEnum):
    """Why an object is a leak by the allocators' books and none by kmemleak, or the reverse."""

    AGREED = 0
    #: Leaks by the books alone.
    ANNOTATED = 1
    BORN_LATER = 2
    TOO_YOUNG = 3
    UNTRACKED = 4
    HELD = 5
    #: Leaks by kmemleak alone.
    HIDDEN = 6

    @property
    def sentence(self) -> str:
        """What it means, for a person."""
        return _SENTENCES[self]


_SENTENCES = {
    Beside.AGREED: "both agree",
    Beside.ANNOTATED: "the kernel's code says that it is no leak, or that it is to be ignored",
    Beside.BORN_LATER: "made after the kernel's last scan began",
    Beside.TOO_YOUNG: "too young to be reported when the kernel's last scan began",
    Beside.UNTRACKED: "kmemleak was not told of it",
    Beside.HELD: "kmemleak finds it held by one of the objects above",
    Beside.HIDDEN: "held only by memory that the kernel's code says is not to be scanned",
}


def compare_books(
    kernel: Kernel, objects: ObjectTable, white: NDArray[np.bool_], found: KernelHeap
) -> NDArray[np.uint8]:
    """Compare leaks among the objects of the allocators' books with kmemleak's verdict.

    Parameters
    ----------
    kernel
        The kernel.
    objects, white
        From the books, and which of them are leaks: ``(n,)`` ``bool``.
    found
        What kmemleak tracked.

    Returns
    -------
    ndarray of uint8, shape (n,)
        `Beside` of each of the objects.
    """
    reported = find_verdict(kernel, found, AS_KERNEL).reported
    tracked = found.objects
    reasons = np.zeros(len(objects), np.uint8)
    if not len(tracked):
        reasons[white] = Beside.UNTRACKED
        return reasons
    row = np.searchsorted(tracked.address, objects.address).clip(0, len(tracked) - 1)
    known = tracked.address[row] == objects.address
    born_later, young = births_and_ages(kernel, found)
    extra = white & ~(known & reported[row])
    # The last that holds is told: what was made later is too young as well.
    for reason, holds in (
        (Beside.HELD, known),
        (Beside.TOO_YOUNG, known & young[row]),
        (Beside.BORN_LATER, known & born_later[row]),
        (Beside.ANNOTATED, known & (tracked.min_count[row] <= 0)),
        (Beside.UNTRACKED, ~known),
    ):
        reasons[extra & holds] = reason
    reasons[known & reported[row] & ~white] = Beside.HIDDEN
    return reasons
