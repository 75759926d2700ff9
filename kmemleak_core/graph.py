"""Turns a scan's result into answers about references: which words hold an object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ._index import NO_TARGET, AddressIndex
from ._scan import scan_words
from .errors import FaultError
from .scan import Colour, ScanResult, scan_plan

#: Kinds of pointer, by the number that a target carries.
POINTERS = ("start", "interior", "end")


@dataclass(frozen=True, slots=True)
class Referrer:
    """One word that refers to an object.

    Parameters
    ----------
    place
        The word's address; None for a register.
    value
        What it holds, after the pointer mask.
    pointer
        ``"start"``, ``"interior"`` or ``"end"``.
    kind
        Class of the root that it lies in, or ``"object"``.
    name
        ``"stack of thread 7"``, ``"r12 of thread 7"``, ``"object 0x55… + 0x18"``.
    live
        Whether it counts: it lies in a root or in an object that is itself held.
    holder
        Address of the object that it lies in; None in a root.
    """

    place: int | None
    value: int
    pointer: str
    kind: str
    name: str
    live: bool
    holder: int | None = None


def referrers(result: ScanResult, address: int) -> list[Referrer]:
    """Find every word that refers to an object: registers, then root ranges, then objects.

    Parameters
    ----------
    result
        A scan.
    address
        Anywhere in the object.

    Raises
    ------
    FaultError
        No tracked object holds the address.
    """
    objects, roots, options = result.objects, result.roots, result.options
    row = objects.find(address)
    if row is None:
        raise FaultError(address, f"no tracked object holds {address:#x}")
    end = int(objects.address[row]) + int(objects.size[row])
    neighbour = row + 1 < len(objects) and int(objects.address[row + 1]) == end
    index = AddressIndex(
        objects.address[row : row + 1],
        objects.size[row : row + 1],
        objects.flags[row : row + 1],
        inclusive_end=options.end_pointers and not neighbour,
        interior=options.interior,
    )
    step = options.alignment or result.image.word_size
    mask = options.pointer_mask
    found: list[Referrer] = []

    values = roots.word_array() & np.uint64(mask)
    targets = index.lookup(values)
    for i in np.flatnonzero(targets != NO_TARGET).tolist():
        word = roots.words[i]
        pointer = POINTERS[int(targets[i]) >> 30]
        found.append(Referrer(None, int(values[i]), pointer, word.kind, word.name, True))

    start, size = roots.range_arrays()
    nobody = np.full(start.size, -1, dtype=np.int64)
    columns = scan_words(result.image.engine, index, start, size, nobody, step=step, mask=mask)
    for place, value, target, i in zip(*(c.tolist() for c in columns), strict=True):
        root = roots.ranges[i]
        name = f"{root.name or root.kind}+{place - root.address:#x}"
        found.append(Referrer(place, value, POINTERS[target >> 30], root.kind, name, True))

    start, size, owner, _ = scan_plan(objects)
    nobody = np.full(start.size, -1, dtype=np.int64)
    columns = scan_words(result.image.engine, index, start, size, nobody, step=step, mask=mask)
    for place, value, target, i in zip(*(c.tolist() for c in columns), strict=True):
        holder = int(owner[i]) if owner is not None else i
        if holder == row:
            continue
        base = int(objects.address[holder])
        name = f"object {base:#x}+{place - base:#x}"
        live = int(result.colour[holder]) == Colour.GRAY
        pointer = POINTERS[target >> 30]
        found.append(Referrer(place, value, pointer, "object", name, live, base))
    return found
