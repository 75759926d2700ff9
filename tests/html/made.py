"""Makes reports of any number of leaks and origins, with clusters in them, out of numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

from kmemleak_core import MemoryImage, ObjectTable, Report, Roots, scan_image
from kmemleak_core.leak_groups import group_leaks
from kmemleak_core.provenance import Provenance
from kmemleak_core.report import ReportSource, Summary

BASE = 0x5500_0000_0000
SIZE = 64
#: Every object's second to fourth word.
SECRET = b"top secret contents"[:16]
#: Objects 0 to 999 are a tree, each of which refers to two others; beyond are lists of four.
TREE = 1000


def made(leaks: int, origins: int, *, names: str = "type_", **changes: Any) -> Report:
    """Return a report of so many leaks, made by so many functions; no object is reachable.

    Parameters
    ----------
    leaks, origins
        How many; at most `kmemleak_core.leak_groups.MAX_GROUPS` of the latter become groups.
    names
        What the types are called, before their number.
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
    result = scan_image(image, objects, Roots())
    found = result.leaks
    number = (row // 4 % origins).astype(np.int32)
    provenance = Provenance(
        kind=number,
        kinds=[f"{names}{i}" for i in range(origins)],
        trace=number.astype(np.int64),
        traces=[(1000 + i, i % 100, i % 10) for i in range(origins)],
        symbol=lambda address: f"function_{address}+0x10/0x40 [module_{address % 7}]",
    )
    values: dict[str, Any] = {
        "source": ReportSource(path="core", format="elf-core", architecture="x86_64"),
        "summary": Summary.of(objects, found),
        "leaks": found,
        "groups": group_leaks(found, image, objects, provenance),
        "image": image,
        "result": result,
        "provenance": provenance,
    }
    return Report(**(values | changes))
