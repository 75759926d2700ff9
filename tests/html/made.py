"""Makes reports of any number of leaks and origins, with clusters in them, out of numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from kmemleak_core import MemoryImage, ObjectTable, Report, Roots, scan_image
from kmemleak_core.leak_groups import group_leaks
from kmemleak_core.provenance import Provenance
from kmemleak_core.report import ReportSource, Summary
from kmemleak_core.scan import ScanOptions

BASE = 0x5500_0000_0000
SIZE = 64
#: Every object's second to fourth word.
SECRET = b"top secret contents"[:16]
#: Objects 0 to 999 are a tree, each of which refers to two others; beyond are lists of four.
TREE = 1000


def made(
    leaks: int, origins: int, *, names: str = "type_", possible: int = 0, **changes: Any
) -> Report:
    """Return a report of so many objects, made by so many functions, that are all leaked.

    Parameters
    ----------
    leaks, origins
        How many; at most `kmemleak_core.leak_groups.MAX_GROUPS` of the latter become groups.
    names
        What the types are called, before their number.
    possible
        Lists of four that are not leaked but possibly lost: a root points into their middle.
    **changes
        Fields of the report.
    """
    memory = np.zeros((leaks, SIZE // 8), np.uint64)
    memory[:, 1:3] = np.frombuffer(SECRET, np.uint64)
    row = np.arange(leaks)
    tree = row[: min(TREE, leaks)]
    for side in (1, 2):
        child = 2 * tree + side
        inside = child < tree.size
        memory[tree[inside], 3 + side] = BASE + SIZE * child[inside]
    chained = row[(row >= TREE) & (row % 4 < 3) & (row + 1 < leaks)]
    memory[chained, 4] = BASE + SIZE * (chained + 1)
    image = MemoryImage.from_segments([(BASE, memory.tobytes())])
    objects = ObjectTable.from_arrays(BASE + SIZE * row, np.full(leaks, SIZE))
    middles = BASE + SIZE * (TREE + 4 * np.arange(possible)) + 8
    roots = Roots.from_ranges(words=middles.tolist())
    result = scan_image(image, objects, roots, options=ScanOptions(possible=possible > 0))
    found = result.leaks
    number = (row // 4 % origins).astype(np.int32)
    provenance = Provenance(
        kind=number,
        kinds=[f"{names}{i}" for i in range(origins)],
        trace=number.astype(np.int64),
        traces=[(1000 + i, i % 100, i % 10) for i in range(origins)],
        symbol=lambda address: f"function_{address}+0x10/0x40 [module_{address % 7}]",
    )
    told, perhaps = provenance.take(np.flatnonzero(result.white)), result.possible
    held = None if result.possible_rows is None else provenance.take(result.possible_rows)
    values: dict[str, Any] = {
        "source": ReportSource(path="core", format="elf-core", architecture="x86_64"),
        "summary": Summary.of(objects, found, perhaps if possible else None),
        "leaks": found,
        "groups": group_leaks(found, image, objects, told),
        "image": image,
        "result": result,
        "provenance": told,
        "possible": perhaps,
        "possible_groups": group_leaks(perhaps, image, objects, held),
        "possible_provenance": held,
    }
    return Report(**(values | changes))
