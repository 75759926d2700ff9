"""Objects of real kernels without their kmemleak records, held to what these records say."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

import kmemleak_core as km
from kmemleak_core.dumps import open_dump
from kmemleak_core.heaps.slub import KernelMemory, SlubHeap, read_memory
from kmemleak_core.linux.kernel import open_kernel
from kmemleak_core.linux.pages import read_pages

from ..test_scan_vmcore import NO_SCAN, PHYS, number, rows
from .conftest import SNAPSHOTS


@dataclass
class Known:
    """What the kernel's own detector knew, by address."""

    records: dict[int, dict[str, str]]
    reported: list[int]
    pages: list[tuple[int, int]]
    meta: dict[str, int]
    areas: set[int]

    def min_count(self, address: int) -> int:
        return int(self.records[address]["min_count"])

    def young(self, address: int) -> bool:
        born = int(self.records[address]["jiffies"])
        return born + self.meta["min_age"] > self.meta["last_scan"]

    def of(self, min_count: int) -> dict[int, int]:
        return {
            a: number(r["size"])
            for a, r in self.records.items()
            if int(r["min_count"]) == min_count
        }


@pytest.fixture(scope="module", params=SNAPSHOTS)
def snapshot(request, shared_data, vmcores):
    folder = shared_data / "vmcore" / request.param
    roots = rows(folder / "roots.csv")
    known = Known(
        records={
            number(r["address"]): r
            for r in rows(folder / "objects.csv.gz")
            if not number(r["flags"]) & PHYS
        },
        reported=[number(r["address"]) for r in rows(folder / "expected.csv")],
        pages=[(number(r["start"]), number(r["size"])) for r in roots if r["kind"] == "page"],
        meta=json.loads((folder / "meta.json").read_text()),
        areas={number(r["object_address"]) for r in rows(folder / "scan_areas.csv")},
    )
    kernel = open_kernel(open_dump(vmcores(request.param)))
    return request.param, known, read_memory(kernel)


@pytest.fixture(scope="module")
def heap(snapshot):
    return snapshot[2].heap()


def kinds_of(heap):
    return np.array(list(heap.provenance.kinds), object)[heap.provenance.kind]


def blocks(heap, kind):
    chosen = kinds_of(heap) == kind
    objects = heap.objects
    return dict(zip(objects.address[chosen].tolist(), objects.size[chosen].tolist(), strict=True))


def test_struct_pages_in_use_are_those_that_the_kernel_scans(snapshot):
    _, known, memory = snapshot
    address, size = read_pages(memory.kernel).structs_in_use()
    assert list(zip(address.tolist(), size.tolist(), strict=True)) == known.pages


def test_the_kernels_own_sums_agree(heap):
    assert [c for c in heap.checks if not c.passed] == []
    assert len(heap.checks) == 3 * heap.counters["caches"]
    assert not list(heap.coverage)


def test_slab_objects_are_those_that_drgn_lists(snapshot, heap, shared_data):
    name, _, memory = snapshot
    if name != "snap1":
        pytest.skip("drgn's list is of another dump")
    listed = {
        number(r["address"]): (r["cache"], int(r["object_size"]))
        for r in rows(shared_data / "vmcore" / name / "slub_objects.csv.gz")
    }
    address, count = memory.walked.slabs.allocated()
    cache = np.repeat(memory.slabs.cache, count).tolist()
    names, sizes = memory.caches.names, memory.caches.object_size.tolist()
    found = {a: (names[c], sizes[c]) for a, c in zip(address.tolist(), cache, strict=True)}
    assert found == listed


def test_vmalloc_blocks_are_kmemleaks(snapshot, heap):
    _, known, _ = snapshot
    assert blocks(heap, "vmalloc") == known.of(2)


def test_per_cpu_pieces_are_kmemleaks(snapshot, heap):
    _, known, memory = snapshot
    units = memory.per_cpu.units
    gray = {a: n for a, n in known.of(0).items() if any(u <= a < u + size for u, size in units)}
    # It has an object a copy; here the per-CPU pointer is the object, and is scanned as copies.
    address, size = memory.per_cpu.copies()
    assert dict(zip(address.tolist(), size.tolist(), strict=True)) == gray
    assert blocks(heap, "per-CPU").keys() == set(memory.per_cpu.pointer.tolist())


def test_large_blocks_are_kmemleaks(snapshot, heap):
    _, known, memory = snapshot
    for address, size in blocks(heap, "large kmalloc").items():
        asked = number(known.records[address]["size"])
        assert asked <= size < max(2 * asked, asked + memory.kernel.page_size)


def test_every_slab_object_is_one_of_kmemleaks_but_its_own(snapshot, heap):
    _, known, memory = snapshot
    objects = heap.objects
    own = kinds_of(heap)[~np.isin(objects.address, np.array(list(known.records), np.uint64))]
    # The cache of kmem_cache_node made its first object itself, before there were any.
    assert set(own) <= {
        "struct kmemleak_object",
        "struct kmemleak_scan_area",
        "struct kmem_cache_node",
        "per-CPU",
    }
    # What kmemleak has besides comes from the page allocator at boot, or is no allocation.
    missing = set(known.records) - set(objects.address.tolist())
    rows_of = memory.pages.rows_of_memory(np.array(sorted(missing), np.uint64))
    assert not memory.pages.slab[rows_of[rows_of >= 0]].any()


def test_leaks_that_the_kernel_reported_are_found_but_those_that_annotations_hide(
    snapshot, heap, shared_data
):
    name, known, memory = snapshot
    missing = set(known.reported) - set(white(memory, heap))
    # One leak hangs on a word outside a scan area, one on an object that is not to be scanned.
    assert [referrers(memory, heap, known, a) for a in sorted(missing)] == (
        [{"scan area"}, {"no scan"}] if name == "snap1" else []
    )


def test_whatever_is_found_besides_is_young_annotated_or_lost_with_per_cpu_memory(snapshot, heap):
    name, known, memory = snapshot
    extra = set(white(memory, heap)) - set(known.reported)
    # Linux 6.1 does not look for lost per-CPU memory. A module that is gone left one piece.
    lost = sorted(extra & set(memory.per_cpu.pointer.tolist()))
    assert len(lost) == (name == "snap2")
    held = set()
    for pointer in lost:
        size = blocks(heap, "per-CPU")[pointer]
        for offset in memory.kernel.per_cpu_offsets:
            held |= set(memory.kernel.image.words(pointer + offset, size // 8).tolist())
    for address in extra - set(lost):
        assert known.min_count(address) <= 0 or known.young(address) or address in held


def test_a_filtered_kdump_tells_the_same(snapshot, heap, shared_data):
    name, _, memory = snapshot
    kdump = shared_data / "vmcore" / name / "vmcore.lzo-d31.kdump"
    if not kdump.exists():
        pytest.skip("there is no kdump of this moment")
    other = read_memory(open_kernel(open_dump(kdump)))
    found = other.heap()
    assert found.objects.address.tolist() == heap.objects.address.tolist()
    assert found.checks == heap.checks
    assert white(other, found) == white(memory, heap)


def test_it_is_found_by_the_lead_in(snapshot):
    found = SlubHeap().find(snapshot[2].kernel)
    assert found is not None
    assert found.allocator == "slub"


def white(memory: KernelMemory, heap) -> list[int]:
    # The kernel does not look at registers.
    roots = memory.roots().without({"registers"})
    found = km.scan_image(memory.kernel.image, heap.objects, roots).white
    return heap.objects.address[found].tolist()


def referrers(memory: KernelMemory, heap, known: Known, address: int) -> set[str]:
    """Return which annotations the objects have that refer to one, kmemleak's own left out."""
    why = set()
    for segment in memory.kernel.image.segments:
        words = segment.data[: segment.size & ~7].view("<u8")
        for i in np.flatnonzero(words - np.uint64(address) < heap.objects.size.dtype.type(96)):
            row = heap.objects.find(segment.address + 8 * int(i))
            if row is None or heap.objects.min_count[row] < 0:
                continue
            owner = int(heap.objects.address[row])
            why.add("scan area" if owner in known.areas else "")
            if number(known.records[owner]["flags"]) & NO_SCAN:
                why.add("no scan")
    return why - {""}
