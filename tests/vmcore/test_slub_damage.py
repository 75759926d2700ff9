"""A real kernel's books, damaged at random: the walk ends soon, and without a crash."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmemleak_core.dump import Machine
from kmemleak_core.dumps import open_dump
from kmemleak_core.errors import KmemleakError
from kmemleak_core.heaps.slub import read_memory
from kmemleak_core.image import MemoryImage, Segment
from kmemleak_core.linux.kernel import open_kernel
from kmemleak_core.physical import PhysicalMemory, PhysicalRange

#: Variables that lead to books.
VARIABLES = (
    "slab_caches vmap_area_list vmap_area_cachep pcpu_chunk_lists pcpu_nr_slots pcpu_first_chunk "
    "pcpu_reserved_chunk pcpu_base_addr contig_page_data"
)


@pytest.fixture(scope="module")
def kernel(vmcores):
    """Return a kernel whose memory can be written to."""
    kernel = open_kernel(open_dump(vmcores("snap1")))
    kept = [(r.data.ctypes.data, r.address, r.data.copy()) for r in kernel.physical.ranges]
    segments = []
    for segment in kernel.image.segments:
        at = segment.data.ctypes.data
        begin, _, data = next(k for k in kept if k[0] <= at < k[0] + k[2].size)
        segments.append(Segment(segment.address, data[at - begin : at - begin + segment.data.size]))
    assert kernel.dump.machine is not None
    physical = PhysicalMemory(PhysicalRange(address, data) for _, address, data in kept)
    kernel.dump.machine = Machine(physical, kernel.dump.machine.info)
    kernel.dump.image = MemoryImage(segments)
    return kernel


@pytest.fixture(scope="module")
def places(kernel):
    """Return words by whose damage most harm is done, and what they could be damaged to."""
    memory = read_memory(kernel)
    variables = [kernel.symbols.address(name) for name in VARIABLES.split()]
    chunks = [kernel.image.word(a) for a in variables[5:7]]
    structs = memory.pages.address[np.flatnonzero(memory.pages.slab)]
    groups = [
        [(int(a), 64) for a in structs],
        [(int(a), 200) for a in memory.caches.address],
        [(int(a), 72) for a in memory.areas.struct],
        [(int(a), 64) for a in memory.areas.area],
        [(a, 8) for a in variables],
        [(a, 128) for a in chunks],
    ]
    values = [0, 1, 4096, 1 << 32, 1 << 47, 1 << 63, (1 << 64) - 1, kernel.direct_map]
    values += [int(a) for group in groups for a, _ in group[:5]]
    return groups, values


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32 - 1), many=st.sampled_from([1, 2, 5, 40]))
def test_whatever_the_books_say_they_are_read_to_an_end(kernel, places, seed, many):
    random = np.random.default_rng(seed)
    groups, values = places
    undo = []
    for _ in range(many):
        group = groups[random.integers(len(groups))]
        start, size = group[random.integers(len(group))]
        at = (start + int(random.integers(size))) & ~7
        segment = kernel.image.find(at)
        word = segment.data[at - segment.address :][:8].view("<u8")
        undo.append((word, int(word[0])))
        flipped = int(word[0]) ^ 1 << int(random.integers(64))
        word[0] = values[random.integers(len(values))] if random.random() < 0.7 else flipped
    try:
        memory = read_memory(kernel)
        if memory is not None:
            heap, roots = memory.heap(), memory.roots()
            assert heap.counters["slots"] < 1 << 20
            assert len(heap.objects) < 1 << 20
            assert all(r.size < 1 << 40 for r in roots.ranges)
    except KmemleakError:
        pass
    finally:
        for word, value in reversed(undo):
            word[0] = value
