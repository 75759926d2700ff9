"""Freelists of every kind, and damaged ones, in kernels of a few slabs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmemleak_core.errors import DumpError
from kmemleak_core.heaps.slub import SlubHeap, read_memory

from ..builders.kernel import DIRECT_MAP, PAGE, PAGE_ARRAY, kernel_of
from ..builders.slub import HEAD, NOLEAKTRACE, STORE_USER, STRUCT, Plan, make_slabs

KEY = 0x0123_4567_89AB_CDEF
PLANS = [
    Plan("kmalloc-64", 64, 500),
    Plan("buffers", 520, 60, order=1),
    Plan("pointer-at-the-end", 104, 90, object_size=96, offset=96),
]


def found_in(made):
    """Return the addresses of allocated objects by the name of their cache, and the heap."""
    heap = SlubHeap().find(made.kernel)
    kinds = np.array(list(heap.provenance.kinds), object)[heap.provenance.kind]
    return {name: heap.objects.address[kinds == name] for name in made.allocated}, heap


def check(made, *, but=()):
    found, heap = found_in(made)
    for name, expected in made.allocated.items():
        if name not in but:
            assert found[name].tolist() == expected.tolist()
    return heap


def notes(heap):
    return [(n.code, n.count) for n in heap.coverage if n.code.startswith("heap.slub.")]


def harmless(heap):
    """Return notes on slabs: these kernels have neither vmalloc nor per-CPU chunks."""
    absent = {"heap.slub.vmalloc-list", "heap.slub.percpu"}
    return [note for note in notes(heap) if note[0] not in absent]


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("page_type", [False, True])
def test_what_no_freelist_leads_to_is_allocated(older, page_type):
    heap = check(make_slabs(PLANS, older=older, page_type=page_type))
    assert harmless(heap) == []
    assert all(c.passed for c in heap.checks)


@pytest.mark.parametrize("swab", [False, True])
def test_pointers_that_are_xored_with_their_address(swab):
    made = make_slabs([Plan(p.name, p.size, p.count, random=KEY) for p in PLANS], swab=swab)
    assert all(c.passed for c in check(made).checks)


def test_objects_begin_behind_their_red_zone():
    made = make_slabs([Plan("zoned", 96, 200, object_size=48, left_pad=16)])
    heap = check(made)
    assert set(heap.objects.size.tolist()) == {48}
    assert set((heap.objects.address % 4096 % 96).tolist()) == {16}


def test_objects_of_caches_that_are_not_traced_are_black():
    made = make_slabs([*PLANS, Plan("kmemleak_object", 128, 40, flags=NOLEAKTRACE)])
    heap = check(made)
    black = heap.objects.address[heap.objects.min_count < 0]
    assert black.tolist() == made.allocated["kmemleak_object"].tolist()


def test_what_processors_hold_is_free():
    made = make_slabs(PLANS, cpus=2)
    memory = read_memory(made.kernel)
    assert memory.walked.held.sum() > 0
    assert (memory.walked.own == memory.slabs.objects - memory.slabs.inuse).all()


def test_what_lies_in_sheaves_is_free():
    made = make_slabs(PLANS)
    types = made.kernel.types
    types.layouts["kmem_cache"][1]["cpu_sheaves"] = (80, 8)
    types.layouts["slub_percpu_sheaves"] = (32, {"main": (8, 8), "spare": (16, 8)})
    types.layouts["slab_sheaf"] = (32, {"size": (24, 4), "objects": (32, 0)})
    kept = made.allocated["kmalloc-64"][::3]
    sheaf, per_cpu = DIRECT_MAP + 32 * PAGE, 0x800
    words = made.memory.view("<u8")
    words[32 * PAGE // 8 + 3] = kept.size
    words[32 * PAGE // 8 + 4 :][: kept.size] = kept
    made.word(DIRECT_MAP + PAGE + 80)[0] = per_cpu
    made.word(made.kernel.per_cpu_offsets[1] + per_cpu + 8)[0] = sheaf
    found, heap = found_in(made)
    assert found["kmalloc-64"].tolist() == sorted(set(made.allocated["kmalloc-64"]) - set(kept))
    assert heap.counters["objects_in_sheaves"] == kept.size


def test_objects_whose_kernel_keeps_who_asked_for_them():
    made = make_slabs(
        [Plan("plain", 64, 40), Plan("kept", 160, 40, object_size=64, offset=64, flags=STORE_USER)]
    )
    # Frames in the track itself, as before Linux 5.16; it lies behind the freelist's pointer.
    track = {"addr": (0, 8), "addrs": (8, 24, 3), "pid": (36, 4, -1), "when": (40, 8)}
    made.kernel.types.layouts["track"] = (48, track)
    kept = made.allocated["kept"].tolist()
    for i, address in enumerate(kept):
        at = address - DIRECT_MAP + 72
        made.memory[at : at + 32].view("<u8")[:] = (0x1000, 0x2000 + i % 3, 0x3000, 0)
        made.memory[at + 36 : at + 40].view("<i4")[0] = i
        made.memory[at + 40 : at + 48].view("<u8")[0] = 4711 + i
    heap = SlubHeap().find(made.kernel)
    rows = np.searchsorted(heap.objects.address, made.allocated["kept"])
    known = heap.provenance
    assert known.pid[rows].tolist() == list(range(len(kept)))
    assert known.birth[rows].tolist() == [4711 + i for i in range(len(kept))]
    expected = [(0x2000 + i % 3, 0x3000) for i in range(len(kept))]
    assert [known.traces[t] for t in known.trace[rows]] == expected
    assert len(known.traces) == 3
    others = np.searchsorted(heap.objects.address, made.allocated["plain"])
    assert set(known.trace[others].tolist()) == {-1}


@pytest.mark.parametrize("told", [False, True])
def test_large_blocks_are_pages_of_their_own(told):
    # Up to Linux 6.14 nothing marks them: they are compound pages that nobody else accounts for.
    made = make_slabs(PLANS, page_type=told)
    first = len(made.structs) - 8
    head = made.structs[first]
    head[0:8].view("<u8")[0] = 1 << 6
    if told:
        made.kernel.types.enumerators["PGTY_large_kmalloc"] = 0xF8
        head[48:52].view("<u4")[0] = 0xF8 << 24  # and no page count: frozen pages (7.0)
    else:
        head[52:56].view("<u4")[0] = 1
    tails = made.structs[first + 1 : first + 4]
    tails.view("<u8")[:, 1] = PAGE_ARRAY + first * STRUCT + 1
    # A compound page of a file is none.
    made.structs[first + 4 : first + 6] = made.structs[first : first + 2]
    made.structs[first + 4, 48:52] = 0xFF
    made.structs[first + 4, 24:32].view("<u8")[0] = DIRECT_MAP
    made.structs[first + 5].view("<u8")[1] = PAGE_ARRAY + (first + 4) * STRUCT + 1
    heap = check(made)
    assert heap.counters["large_kmalloc"] == 1
    row = heap.objects.find(DIRECT_MAP + first * PAGE + 3 * PAGE)
    assert heap.objects.size[row] == 4 * PAGE
    assert heap.provenance.kinds[heap.provenance.kind[row]] == "large kmalloc"


def test_objects_of_kfence_lie_in_pages_of_their_own():
    made = make_slabs([*PLANS, Plan("pool", 64, 600)])
    # The pool is made of pages that look like slabs, every other one a guard.
    first = DIRECT_MAP + int(made.slabs["pool"][0]) * PAGE
    del made.allocated["pool"]
    members = {"addr": (8, 8), "size": (16, 8), "state": (24, 4), "cache": (32, 8)}
    types, symbols = made.kernel.types, made.kernel.symbols.addresses
    types.layouts["kfence_metadata"] = (64, members)
    symbols["__kfence_pool"] = DIRECT_MAP + 40 * PAGE
    symbols["kfence_metadata"] = DIRECT_MAP + 41 * PAGE
    made.word(symbols["__kfence_pool"])[0] = first
    cache = DIRECT_MAP + PAGE  # the first: kmalloc-64
    for i, (state, size) in enumerate([(1, 24), (0, 64), (2, 64), (1, 64)]):
        at = (41 * PAGE + 64 * i) // 8
        # At either end of the page, so that what is beyond it faults.
        address = first + (2 * i + 2) * PAGE + (PAGE - size if i % 2 else 0)
        made.memory.view("<u8")[at + 1 : at + 5] = (address, size, state, cache)
    heap = SlubHeap().find(made.kernel)
    assert heap.counters["kfence_objects"] == 2
    kinds = np.array(list(heap.provenance.kinds), object)[heap.provenance.kind]
    fenced = kinds == "kmalloc-64 (kfence)"
    assert heap.objects.address[fenced].tolist() == [
        first + 2 * PAGE,
        first + 9 * PAGE - 64,
    ]
    assert heap.objects.size[fenced].tolist() == [24, 64]
    in_pool = (heap.objects.address >= first) & (heap.objects.address < first + 10 * PAGE)
    assert np.count_nonzero(in_pool) == 2


class TestDamage:
    @pytest.mark.parametrize(
        ("value", "what"),
        [
            ("itself", "free already"),
            (DIRECT_MAP + 5 * PAGE, "out of their slab"),
            (1, "out of their slab"),
            ("askew", "between two objects"),
        ],
    )
    def test_a_freelist_that_leads_astray_ends_there(self, value, what):
        made = make_slabs(PLANS, cpus=0)
        first = made.free["kmalloc-64"][0]
        astray = {"itself": first, "askew": first ^ 8}.get(value, value)
        made.word(first + 24)[0] = 0
        made.word(first + PLANS[0].offset)[0] = astray
        heap = check(made, but=["kmalloc-64"])
        assert harmless(heap) == [("heap.slub.freelist", 1)]
        message = next(n.message for n in heap.coverage if n.code == "heap.slub.freelist")
        assert what in message
        assert "kmalloc-64" in message
        assert [c.name for c in heap.checks if not c.passed] == [
            "free objects on slabs of kmalloc-64"
        ]

    def test_a_slab_whose_memory_is_missing(self):
        made = make_slabs(PLANS, cpus=0)
        cut = int(made.slabs["kmalloc-64"][0]) * PAGE
        kernel = made.kernel
        made.kernel = kernel_of(
            [
                (DIRECT_MAP, made.memory[:cut]),
                (DIRECT_MAP + cut + PAGE, made.memory[cut + PAGE :]),
                (PAGE_ARRAY, made.structs.reshape(-1)),
                (HEAD, kernel.image.segments[-1].data),
            ],
            kernel.types,
            kernel.symbols.addresses,
            frames=len(made.structs),
            per_cpu_offsets=kernel.per_cpu_offsets,
        )
        heap = check(made, but=["kmalloc-64"])
        assert harmless(heap) == [("heap.slub.freelist", 1)]

    def test_a_slab_of_no_known_cache(self):
        made = make_slabs(PLANS)
        frame = int(made.slabs["buffers"][3])
        made.structs[frame, 16:24].view("<u8")[0] = 4711
        heap = check(made, but=["buffers"])
        assert ("heap.slub.slab-unknown", 1) in harmless(heap)

    def test_a_slab_that_claims_more_objects_than_fit(self):
        made = make_slabs(PLANS, cpus=0)
        frame = int(made.slabs["kmalloc-64"][2])
        made.structs[frame, 40:48].view("<u8")[0] |= 0x7FFF << 16
        heap = check(made)
        assert harmless(heap) == [("heap.slub.slab-damaged", 1)]

    def test_a_list_of_caches_that_never_ends(self):
        made = make_slabs(PLANS)
        made.word(DIRECT_MAP + PAGE + 256 * 2 + 48)[0] = DIRECT_MAP + PAGE + 256 + 48
        heap = check(made)
        assert ("heap.slub.caches", 1) in harmless(heap)

    def test_a_cache_of_impossible_sizes(self):
        made = make_slabs(PLANS)
        made.memory[PAGE + 16 : PAGE + 20] = 0
        found, heap = found_in(made)
        assert ("heap.slub.cache-damaged", 1) in harmless(heap)
        assert found["buffers"].tolist() == made.allocated["buffers"].tolist()

    def test_a_kernel_without_slab_caches_has_no_heap(self):
        made = make_slabs(PLANS)
        made.kernel.symbols.addresses.clear()
        assert SlubHeap().find(made.kernel) is None

    @settings(max_examples=150, deadline=None)
    @given(
        seed=st.integers(0, 2**32 - 1),
        many=st.integers(1, 4000),
        where=st.sampled_from(["structs", "books", "slabs"]),
        key=st.sampled_from([0, KEY]),
    )
    def test_whatever_is_damaged_the_walk_ends(self, seed, many, where, key):
        random = np.random.default_rng(seed)
        made = make_slabs([Plan("a", 64, 200, random=key), Plan("b", 200, 60, order=1)], seed=seed)
        part = {
            "structs": made.structs.reshape(-1),
            "books": made.memory[PAGE : 34 * PAGE],
            "slabs": made.memory[64 * PAGE :],
        }[where]
        # Words that lead somewhere do more harm than noise.
        words = part.view("<u8")
        at = random.integers(0, words.size, many)
        somewhere = random.integers(0, made.memory.size, many).astype(np.uint64)
        words[at] = np.where(
            random.random(many) < 0.5,
            np.uint64(DIRECT_MAP) + somewhere,
            random.integers(0, 1 << 63, many, np.uint64),
        )
        try:
            heap = SlubHeap().find(made.kernel)
        except DumpError:
            return
        assert heap is not None
        slots = heap.counters["slots"]
        assert len(heap.objects) <= slots + 2 * len(made.structs) <= made.memory.size
        assert STRUCT * len(made.structs) == made.structs.size
