"""Turns the tables of an analysis into its figures: objects, and bytes in them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..leaks import LeakTable
from ..objects import ObjectTable


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one analysis: objects, and bytes in them.

    Parameters
    ----------
    objects, object_bytes
        All objects that were looked at.
    reachable_objects, reachable_bytes
        Those that are no leaks.
    leaked_objects, leaked_bytes
        Those that nobody can reach.
    direct_objects, direct_bytes
        Leaks that head a cluster: nothing else, or only their own cycle, refers to them.
    indirect_objects, indirect_bytes
        Leaks that other leaks hold.
    suppressed_objects, suppressed_bytes
        What would be leaks, but is known: none of the above beside all objects.
    possible_objects, possible_bytes
        Reachable objects that are possibly lost: every chain of references to one has a pointer
        into the middle of an object, or past its end. None where that is not told.
    """

    objects: int
    object_bytes: int
    reachable_objects: int
    reachable_bytes: int
    leaked_objects: int
    leaked_bytes: int
    direct_objects: int
    direct_bytes: int
    indirect_objects: int
    indirect_bytes: int
    suppressed_objects: int = 0
    suppressed_bytes: int = 0
    possible_objects: int | None = None
    possible_bytes: int | None = None

    @classmethod
    def of(
        cls, objects: ObjectTable, leaks: LeakTable, possible: LeakTable | None = None
    ) -> Summary:
        """Add up the tables; None: what is possibly lost is not told."""
        direct = leaks["direct"]
        direct_bytes = int(leaks["size"][direct].sum(dtype=np.uint64))
        direct_objects = int(np.count_nonzero(direct))
        object_bytes, leaked_bytes = objects.nbytes, leaks.nbytes
        return cls(
            objects=len(objects),
            object_bytes=object_bytes,
            reachable_objects=len(objects) - len(leaks),
            reachable_bytes=object_bytes - leaked_bytes,
            leaked_objects=len(leaks),
            leaked_bytes=leaked_bytes,
            direct_objects=direct_objects,
            direct_bytes=direct_bytes,
            indirect_objects=len(leaks) - direct_objects,
            indirect_bytes=leaked_bytes - direct_bytes,
            possible_objects=None if possible is None else len(possible),
            possible_bytes=None if possible is None else possible.nbytes,
        )

    def without(
        self, leaks: LeakTable, left: LeakTable, possible: LeakTable | None = None
    ) -> Summary:
        """Return the figures where only some of the leaks are left and the others suppressed.

        `possible` is what is left of the possibly lost objects; None: all.
        """
        told = self
        if possible is not None and self.possible_objects is not None:
            told = replace(self, possible_objects=len(possible), possible_bytes=possible.nbytes)
        direct = left["direct"]
        direct_bytes = int(left["size"][direct].sum(dtype=np.uint64))
        direct_objects = int(np.count_nonzero(direct))
        return replace(
            told,
            leaked_objects=len(left),
            leaked_bytes=left.nbytes,
            direct_objects=direct_objects,
            direct_bytes=direct_bytes,
            indirect_objects=len(left) - direct_objects,
            indirect_bytes=left.nbytes - direct_bytes,
            suppressed_objects=self.suppressed_objects + len(leaks) - len(left),
            suppressed_bytes=self.suppressed_bytes + leaks.nbytes - left.nbytes,
        )
