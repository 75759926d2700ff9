"""Kernels that nobody here built: their slabs are what /proc/slabinfo said just before the dump."""

from __future__ import annotations

import pytest

from kmemleak_core.dumps import open_dump
from kmemleak_core.heaps.slub import read_memory
from kmemleak_core.heaps.slub.slabinfo import slabinfo
from kmemleak_core.linux.kernel import open_kernel

rig = pytest.importorskip("tests.vmcore.rig", reason="the rig that boots kernels is not there")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

#: Caches that may change between the reading of a text and the dump.
MOVED = 3


@pytest.fixture(scope="module", params=["bookworm", "trixie", "sid"])
def guest(request):
    try:
        fresh = rig.fresh(request.param)["plain"]
    except rig.RigError as error:
        pytest.skip(str(error))
    return fresh, read_memory(open_kernel(open_dump(fresh.vmcore)))


def test_every_cache_has_the_objects_and_slabs_of_slabinfo(guest):
    fresh, memory = guest
    told = {}
    for line in fresh.text("slabinfo").splitlines()[2:]:
        name, active, objects, *rest = line.split()
        told[name] = (int(active), int(objects), int(rest[-2]))
    found = {line.name: (line.active, line.objects, line.slabs) for line in slabinfo(memory)}
    assert len(told) > 100
    assert found.keys() == told.keys()
    assert len([name for name in told if told[name] != found[name]]) <= MOVED


def test_the_allocators_own_sums_agree(guest):
    _, memory = guest
    heap = memory.heap()
    assert [check for check in heap.checks if not check.passed] == []
    assert [n for n in heap.coverage if n.code.startswith("heap.slub.")] == []


def test_vmalloc_blocks_are_those_of_vmallocinfo(guest):
    fresh, memory = guest
    told = set()
    for line in fresh.text("vmallocinfo").splitlines():
        where, size, *words = line.split()
        # A chunk of per-CPU memory counts no pages of its own.
        if "vmalloc" in words and any(w.startswith("pages=") for w in words):
            told.add((int(where.split("-")[0], 16), int(size) - memory.kernel.page_size))
    areas = memory.areas
    mine = areas.allocated
    found = set(zip(areas.address[mine].tolist(), areas.size[mine].tolist(), strict=True))
    # Stacks of tasks that began or ended in between.
    moved = sum(1 for _, size in told ^ found if size > 16384)
    assert moved == 0
    assert len(told & found) > 80


def test_user_tracking_tells_who_asked_for_every_object():
    try:
        fresh = rig.fresh("debugged")["plain"]
    except rig.RigError as error:
        pytest.skip(str(error))
    memory = read_memory(open_kernel(open_dump(fresh.vmcore)))
    heap = memory.heap()
    assert [check for check in heap.checks if not check.passed] == []
    known = heap.provenance
    in_slabs = known.kind < len(memory.caches)
    # But one: the cache of kmem_cache_node made its first object itself.
    assert (known.trace[in_slabs] < 0).sum() == 1
    assert (known.pid[in_slabs] >= 0).sum() == in_slabs.sum() - 1
    assert max(len(t) for t in known.traces) > 8
