"""Turns what objects are into sums: how many of each type, and how many of these leak."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .image import MemoryImage
from .notebook import SHOWN, html_table
from .objects import ObjectTable
from .provenance import Provenance
from .shapes import classify, coarse, common, shape_text

#: So many objects of one size tell what these look like.
_SAMPLE = 1000


@dataclass(frozen=True, slots=True)
class TypeSum:
    """The objects of one type; of those whose type is not known: of one size.

    Parameters
    ----------
    name
        The type; empty where it is not known.
    size
        Bytes of each; None where they differ.
    count, nbytes
        Objects, and bytes in them.
    leaked_count, leaked_bytes
        Those of them that leak.
    shape
        Without a type: what their first words hold, as far as a thousand of them agree, as
        `shapes.shape_text` writes it.
    example
        Address of the first one, a leaked one if there is any.
    """

    name: str
    size: int | None
    count: int
    nbytes: int
    leaked_count: int
    leaked_bytes: int
    shape: str
    example: int


@dataclass(frozen=True, eq=False)
class TypeTable:
    """What a heap consists of.

    Parameters
    ----------
    image, objects
        The memory, and the objects in it.
    rows : ndarray of int64, shape (n,)
        The objects, those of the first group first, in each by address.
    starts : ndarray of int64, shape (g,)
        Where each group begins in `rows`.
    leaked : ndarray of bool
        Which objects leak, by row of `objects`.
    kinds
        What the objects are; None where nothing tells.
    """

    image: MemoryImage
    objects: ObjectTable
    rows: NDArray[np.int64] = field(repr=False)
    starts: NDArray[np.int64] = field(repr=False)
    leaked: NDArray[np.bool_] = field(repr=False)
    kinds: Provenance | None = field(repr=False)

    @classmethod
    def of(
        cls,
        image: MemoryImage,
        objects: ObjectTable,
        leaked: NDArray[np.bool_],
        kinds: Provenance | None,
        *,
        of_leaks: bool = False,
    ) -> TypeTable:
        """Add up.

        Parameters
        ----------
        image, objects, leaked, kinds
            As of the class.
        of_leaks
            Whether leaks alone count.
        """
        rows = np.flatnonzero(leaked) if of_leaks else np.arange(len(objects))
        key = _keys(objects, rows, kinds)
        order = np.argsort(key, kind="stable")
        new = np.append(True, np.diff(key[order]) != 0) if rows.size else np.empty(0, bool)
        starts = np.flatnonzero(new)
        nbytes = np.add.reduceat(objects.size[rows[order]], starts) if rows.size else starts
        # The most bytes first; then as the keys come.
        ranking = np.argsort(-nbytes.astype(np.int64), kind="stable")
        lengths = np.diff(np.append(starts, rows.size))[ranking]
        begins = np.cumsum(lengths) - lengths
        places = np.arange(rows.size) + np.repeat(starts[ranking] - begins, lengths)
        return cls(image, objects, rows[order[places]], begins, leaked, kinds)

    def __len__(self) -> int:
        return self.starts.size

    def __getitem__(self, index: int) -> TypeSum:
        if not 0 <= index < self.starts.size:
            raise IndexError(index)
        end = self.starts[index + 1] if index + 1 < self.starts.size else self.rows.size
        rows = self.rows[self.starts[index] : end]
        sizes, leaked = self.objects.size[rows], self.leaked[rows]
        name = "" if self.kinds is None else self.kinds.kind_of(int(rows[0]))
        size = int(sizes[0]) if int(sizes.min()) == int(sizes.max()) else None
        first = int(np.argmax(leaked)) if leaked.any() else 0
        return TypeSum(
            name,
            size,
            rows.size,
            int(sizes.sum(dtype=np.uint64)),
            int(np.count_nonzero(leaked)),
            int(sizes[leaked].sum(dtype=np.uint64)),
            "" if name or size is None else self._shape(rows[:_SAMPLE], size),
            int(self.objects.address[rows[first]]),
        )

    def _shape(self, rows: NDArray[np.int64], size: int) -> str:
        address, sizes = self.objects.address[rows], self.objects.size[rows]
        codes = coarse(classify(self.image, self.objects, address, sizes))
        looks = common(codes, np.arange(rows.size), np.zeros(1, np.int64))
        return shape_text(looks.tobytes(), size, self.image.word_size)

    def known(self) -> tuple[int, int]:
        """Return how many objects have a type, and their bytes."""
        if self.kinds is None or self.kinds.kind is None:
            return 0, 0
        rows = self.rows[self.kinds.kind[self.rows] >= 0]
        return rows.size, int(self.objects.size[rows].sum(dtype=np.uint64))

    def left_out(self, shown: int) -> tuple[int, int]:
        """Return how many objects the groups behind so many have, and their bytes."""
        rows = self.rows[self.starts[shown] :] if shown < self.starts.size else self.rows[:0]
        return rows.size, int(self.objects.size[rows].sum(dtype=np.uint64))

    def __repr__(self) -> str:
        return f"<TypeTable {self.rows.size:,} objects in {len(self):,} groups>"

    def _repr_html_(self) -> str:
        sums = [self[i] for i in range(min(SHOWN, len(self)))]
        rows = [
            (s.name or f"[{s.shape}]", f"{s.count:,}", f"{s.nbytes:,}", f"{s.leaked_count:,}")
            for s in sums
        ]
        return html_table(self, ("type", "objects", "bytes", "leaked"), rows)


def _keys(
    objects: ObjectTable, rows: NDArray[np.int64], kinds: Provenance | None
) -> NDArray[np.int64]:
    """Return one number for each object: its type's, or behind all types its size's."""
    size = np.minimum(objects.size[rows], np.uint64(1 << 62)).astype(np.int64)
    if kinds is None or kinds.kind is None:
        return size
    kind = kinds.kind[rows].astype(np.int64)
    return np.where(kind >= 0, kind, size + len(kinds.kinds))
