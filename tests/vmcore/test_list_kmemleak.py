"""kmemleak's own records, from the dump alone: every column of every row, and all roots."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from kmemleak_core.dumps import open_dump
from kmemleak_core.linux.kernel import Kernel, open_kernel
from kmemleak_core.linux.kmemleak import KernelHeap, find_kmemleak
from kmemleak_core.linux.kmemleak_list import SPACES, KernelFlags
from kmemleak_core.linux.roots import kernel_roots

from ..test_scan_vmcore import number, rows
from .conftest import SNAPSHOTS


@dataclass
class Snapshot:
    folder: Path
    kernel: Kernel
    found: KernelHeap
    table: list[dict[str, str]]
    meta: dict


@pytest.fixture(scope="module", params=SNAPSHOTS)
def snapshot(request, shared_data, vmcores):
    folder = shared_data / "vmcore" / request.param
    kernel = open_kernel(open_dump(vmcores(request.param)))
    found = find_kmemleak(kernel)
    assert found is not None
    return Snapshot(
        folder,
        kernel,
        found,
        rows(folder / "objects.csv.gz"),
        json.loads((folder / "meta.json").read_text()),
    )


@pytest.mark.parametrize(
    "column",
    ["address", "size", "flags", "min_count", "count", "checksum", "excess_ref", "jiffies", "pid"],
)
def test_every_number_of_every_record(snapshot, column):
    found = getattr(snapshot.found.records, column)
    assert found.tolist() == [number(row[column]) for row in snapshot.table]


def test_every_name(snapshot):
    records = snapshot.found.records
    names = [records.comms[i] for i in records.comm.tolist()]
    assert names == [row["comm"] for row in snapshot.table]
    assert len(set(records.comms)) == len(records.comms)


def test_every_backtrace(snapshot):
    with gzip.open(snapshot.folder / "traces.json.gz", "rt") as file:
        told = {key: tuple(number(f[0]) for f in frames) for key, frames in json.load(file).items()}
    records = snapshot.found.records
    traces = [records.traces[i] if i >= 0 else () for i in records.trace.tolist()]
    assert traces == [told[row["trace"]] for row in snapshot.table]


def test_every_scan_area(snapshot):
    told = [
        tuple(number(row[k]) for k in ("object_row", "start", "size"))
        for row in rows(snapshot.folder / "scan_areas.csv")
    ]
    records = snapshot.found.records
    columns = (records.area_row, records.area_address, records.area_size)
    assert list(zip(*(c.tolist() for c in columns), strict=True)) == told


def test_physical_objects_are_told_as_such_and_are_no_targets(snapshot):
    records, objects = snapshot.found.records, snapshot.found.objects
    physical = records.flagged(KernelFlags.PHYS)
    assert {SPACES[s] for s in records.space[physical].tolist()} == {"phys"}
    assert {SPACES[s] for s in records.space[~physical].tolist()} == {""}
    assert len(objects) == np.count_nonzero(~physical)
    assert np.array_equal(objects.address, records.address[snapshot.found.row])


def test_how_the_detector_stands(snapshot):
    state, meta = snapshot.found.state, snapshot.meta
    assert (state.now, state.last_scan, state.min_age) == tuple(
        meta[k] for k in ("now", "last_scan", "min_age")
    )
    assert state.lowmem == (meta["min_low_pfn"], meta["max_low_pfn"])
    assert (state.enabled, state.stack_scan, state.scanned) == (True, True, True)


def test_all_is_understood(snapshot):
    assert not list(snapshot.found.heap.coverage)
    kernel_roots(snapshot.kernel, snapshot.found)
    assert not list(snapshot.kernel.coverage)


@pytest.mark.parametrize(("kind", "told_as"), [("percpu", "percpu"), ("pages", "page")])
def test_every_root(snapshot, kind, told_as):
    told = [
        (number(row["start"]), number(row["size"]))
        for row in rows(snapshot.folder / "roots.csv")
        if row["kind"] == told_as
    ]
    found = kernel_roots(snapshot.kernel, snapshot.found, kinds=[kind])
    assert sorted((r.address, r.size) for r in found.ranges) == sorted(told)
    assert found.kinds == {kind}


def test_every_stack_is_called_by_its_task(snapshot):
    told = {
        number(row["start"]) + number(row["size"]): (number(row["size"]), row["name"])
        for row in rows(snapshot.folder / "roots.csv")
        if row["kind"] == "stack"
    }
    used = kernel_roots(snapshot.kernel, snapshot.found, kinds=["stacks"])
    rest = {
        r.end: r for r in kernel_roots(snapshot.kernel, snapshot.found, kinds=["old-stacks"]).ranges
    }
    assert len(rest) > 50
    assert {
        r.end: (r.size + (rest[r.address].size if r.address in rest else 0), r.name)
        for r in used.ranges
    } == {end: (size, f"stack of {name}") for end, (size, name) in told.items()}


def test_what_waiting_tasks_use_of_their_stacks_is_little(snapshot):
    used = kernel_roots(snapshot.kernel, snapshot.found, kinds=["stacks"])
    waiting = [r for r in used.ranges if r.size < 16384]
    assert len(waiting) >= len(used.ranges) - len(snapshot.kernel.per_cpu_offsets)
    assert max(r.size for r in waiting) < 4096


def test_registers_are_the_processors(snapshot):
    told = [number(row["value"]) for row in rows(snapshot.folder / "regs.csv")]
    found = kernel_roots(snapshot.kernel, snapshot.found, kinds=["registers"])
    values = {word.value for word in found.words}
    general = {"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip"}
    assert values <= set(told)
    assert len(found.words) >= len(general) * len(snapshot.kernel.per_cpu_offsets)
