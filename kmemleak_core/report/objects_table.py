"""Turns objects, and what is known of each, into a table: CSV, JSONL or npz.

What `kmemleak scan --objects` reads; further columns tell of the objects' origin.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import IO, Any, TextIO

import numpy as np

from ..heaps import Heap
from ..provenance import Provenance

COLUMNS = ("address", "size", "min_count", "flags", "excess_ref", "kind", "comm", "pid", "birth")
#: Of a backtrace's frames in one cell.
_BETWEEN = ";"


def write_objects(heap: Heap, out: TextIO, format: str) -> None:
    """Write all objects in the order of allocation, one a line.

    Parameters
    ----------
    heap
        The objects.
    out
        Where to.
    format
        ``"csv"``, with a line of names, or ``"jsonl"``. Addresses are hexadecimal.
    """
    rows = _rows(heap)
    if format == "jsonl":
        for row in rows:
            json.dump({k: v for k, v in row.items() if v not in (None, "")}, out)
            out.write("\n")
        return
    writer = csv.DictWriter(out, (*COLUMNS, "backtrace"), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)


def write_arrays(heap: Heap, out: IO[bytes]) -> None:
    """Write all objects as the arrays of an npz file, in the order of allocation.

    ``kind``, ``comm`` and ``trace`` are numbers of rows in ``kinds``, ``comms`` and ``traces``
    (the backtraces as lines of text), −1 for none.
    """
    objects, origin = heap.objects, heap.provenance or Provenance()
    order = objects.allocation_order()
    arrays: dict[str, Any] = {
        "address": objects.address,
        "size": objects.size,
        "min_count": objects.min_count,
        "flags": objects.flags,
        "excess_ref": objects.excess_ref,
        "kind": origin.kind,
        "comm": origin.comm,
        "pid": origin.pid,
        "birth": origin.birth,
        "trace": origin.trace,
    }
    arrays = {name: column[order] for name, column in arrays.items() if column is not None}
    name = origin.symbol or hex
    arrays["kinds"] = np.array(list(origin.kinds) or [""])
    arrays["comms"] = np.array(list(origin.comms) or [""])
    arrays["traces"] = np.array([_BETWEEN.join(map(name, t)) for t in origin.traces] or [""])
    np.savez(out, **arrays)


def _rows(heap: Heap) -> Iterator[dict[str, Any]]:
    objects, origin = heap.objects, heap.provenance or Provenance()
    texts: dict[int, str] = {}
    for row in objects.allocation_order().tolist():
        told = -1 if origin.trace is None else int(origin.trace[row])
        if told not in texts:
            texts[told] = _BETWEEN.join(origin.frames_of(row))
        comm = -1 if origin.comm is None else int(origin.comm[row])
        yield {
            "address": hex(objects.address[row]),
            "size": int(objects.size[row]),
            "min_count": int(objects.min_count[row]),
            "flags": int(objects.flags[row]),
            "excess_ref": 0 if objects.excess_ref is None else hex(objects.excess_ref[row]),
            "kind": origin.kind_of(row),
            "comm": origin.comms[comm] if comm >= 0 else "",
            "pid": None if origin.pid is None else int(origin.pid[row]),
            "birth": None if origin.birth is None else int(origin.birth[row]),
            "backtrace": texts[told],
        }
