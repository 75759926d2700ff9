"""Every known layout of glibc's arenas is recognised by looking, in either word size."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from kmemleak_core.coverage import Coverage
from kmemleak_core.dump import Dump
from kmemleak_core.heaps.glibc import GlibcHeap
from kmemleak_core.heaps.glibc.arenas import HEAP_ALIGNMENT, find_arenas
from kmemleak_core.heaps.glibc.layouts import BIN_PAIRS, Layout, layouts
from kmemleak_core.image import ByteOrder, MemoryImage, Segment

DATA = 0x4000_0000
LIBRARY = "/lib/libc.so.6"
HEAP_SIZE = 0x21000
HEAP_INFO = 32  # 24 in reality on i386: what matters is that the arena follows at a distance

LAYOUTS = [*layouts(8), *layouts(4)]


class Memory:
    """Words of one segment."""

    def __init__(self, address: int, size: int, word: int, byteorder: ByteOrder) -> None:
        self.address = address
        order = "<" if byteorder == "little" else ">"
        self.words: NDArray[np.uint64] = np.zeros(size // word, np.dtype(f"{order}u{word}"))
        self.word = word

    def put(self, address: int, value: int) -> None:
        self.words[(address - self.address) // self.word] = value

    def segment(self, kind: str, name: str = "") -> Segment:
        return Segment(self.address, self.words.view(np.uint8), "rw-", kind, name)  # type: ignore[arg-type]


def put_arena(
    memory: Memory, base: int, layout: Layout, top: int, after: int, system_mem: int
) -> None:
    for pair in range(BIN_PAIRS):
        place = base + layout.bins + pair * layout.header
        memory.put(place, place - layout.header)
        memory.put(place + layout.word, place - layout.header)
    memory.put(base + layout.top, top)
    memory.put(base + layout.next, after)
    memory.put(base + layout.tail, 1)
    memory.put(base + layout.tail + layout.word, system_mem)


def process(layout: Layout, byteorder: ByteOrder = "little") -> tuple[MemoryImage, int, int]:
    """Return a process with an unused main arena and a secondary one, and their addresses."""
    word = layout.word
    data = Memory(DATA, 0x3000, word, byteorder)
    main = DATA + 0x100
    heap = 3 * HEAP_ALIGNMENT[word]
    memory = Memory(heap, HEAP_SIZE, word, byteorder)
    arena = heap + HEAP_INFO
    end = arena + layout.tail + 3 * word
    first = layout.aligned_chunk(end)
    chunks = [first + 0x40 * k for k in range(4)]
    for chunk in chunks:
        memory.put(chunk + word, 0x40 | 1)
    limit = heap + HEAP_SIZE
    memory.put(chunks[-1] + word, (limit - chunks[-1]) & ~7 | 1)
    memory.put(heap, arena)
    memory.put(heap + 2 * word, HEAP_SIZE)
    memory.put(heap + 3 * word, HEAP_SIZE)
    put_arena(data, main, layout, main + layout.top, arena, 0)
    put_arena(memory, arena, layout, chunks[-1], main, HEAP_SIZE)
    image = MemoryImage(
        [data.segment("file", LIBRARY), memory.segment("anonymous")],
        word_size=word,
        byteorder=byteorder,
    )
    return image, main, arena


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: f"{8 * x.word}-bit {x.versions}")
def test_a_layout_is_told_from_all_others(layout: Layout, byteorder: ByteOrder) -> None:
    image, main, arena = process(layout, byteorder)
    coverage = Coverage()
    found = find_arenas(image, coverage)
    assert [(a.base, a.main) for a in found] == [(main, True), (arena, False)]
    assert all(a.layout == layout for a in found)
    assert found[1].system_mem == HEAP_SIZE
    assert len(coverage) == 0


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda x: f"{8 * x.word}-bit {x.versions}")
def test_a_secondary_heap_is_walked_in_every_layout(layout: Layout) -> None:
    image, _, arena = process(layout)
    heap = GlibcHeap().find(Dump(image, architecture="i386" if layout.word == 4 else "x86_64"))
    assert heap is not None
    first = layout.aligned_chunk(arena + layout.tail + 3 * layout.word) + layout.header
    assert heap.objects.address.tolist() == [first, first + 0x40, first + 0x80]
    assert heap.objects.size.tolist() == [0x40 - layout.word] * 3
    assert layout.versions.split()[0] in heap.allocator
    assert [c for c in heap.checks if not c.passed] == []


def test_the_ring_need_not_be_whole_to_find_an_arena_by_its_heap() -> None:
    layout = layouts(8)[1]
    image, main, arena = process(layout)
    heap, data = image.segments
    words = data.data.copy().view("<u8")
    words[(main + layout.next - DATA) // 8] = main
    first = Segment(DATA, words.view(np.uint8), "rw-", "file", LIBRARY)
    broken = MemoryImage([first, heap])
    assert [a.base for a in find_arenas(broken, Coverage())] == [main, arena]
