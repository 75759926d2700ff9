"""Memory that was made up: nothing that it holds crashes or delays those who look for types."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from kmemleak_core.dump import Dump, MappedFile
from kmemleak_core.image import MemoryImage, Segment
from kmemleak_core.objects import ObjectTable
from kmemleak_core.recognise import Types
from kmemleak_core.roots import Roots

HEAP, DATA = 0x10000, 0x700000
#: Files that make every recogniser look.
LIBRARIES = ("libstdc++.so.6", "libglib-2.0.so.0", "libgobject-2.0.so.0", "libpython3.so")


def process(
    heap: NDArray[np.uint64], data: NDArray[np.uint64], sizes: list[int] | None = None
) -> Types:
    """Return what tells the types of objects that lie one behind the other."""
    sizes = sizes or [64] * (heap.size // 8)
    starts = HEAP + np.cumsum([0, *sizes[:-1]], dtype=np.uint64)
    image = MemoryImage(
        [
            Segment(HEAP, heap.view(np.uint8)),
            Segment(DATA, data.view(np.uint8), "rw-", "file", f"/lib/{LIBRARIES[0]}"),
        ]
    )
    files = tuple(
        MappedFile(DATA + i * 0x100, max(data.nbytes, 0x100), 0, f"/nowhere/{name}")
        for i, name in enumerate(LIBRARIES)
    )
    objects = ObjectTable.from_arrays(starts, np.array(sizes, np.uint64))
    roots = Roots.from_ranges([(DATA, data.nbytes, "data", "/lib/libglib-2.0.so.0")])
    return Types(Dump(image, files=files, architecture="x86_64"), objects, roots)


def kinds(types: Types) -> list[str]:
    found = types.all
    assert found is not None
    assert found.kind is not None
    return [found.kind_of(row) for row in range(found.kind.size)]


WORDS = st.one_of(
    st.integers(0, 16),
    st.integers(0, 40).map(lambda i: HEAP + 8 * i),
    st.integers(0, 40).map(lambda i: HEAP + 64 * i),
    st.integers(0, 63).map(lambda i: DATA + 8 * i),
    st.integers(0, (1 << 64) - 1),
    st.sampled_from([(1 << 64) - 1, (1 << 64) - 8, 1 << 63, (1 << 63) - 8]),
)


@given(
    st.lists(WORDS, min_size=8, max_size=200),
    st.lists(WORDS, min_size=1, max_size=64),
    st.integers(2, 12),
)
def test_any_words_give_types_or_none(heap: list[int], data: list[int], width: int) -> None:
    words = np.array(heap[: len(heap) // width * width] or [0] * width, np.uint64)
    types = process(words, np.array(data, np.uint64), [8 * width] * (words.size // width))
    found = types.all
    assert found is None or (found.kind is not None and int(found.kind.max()) < len(found.kinds))
    leaks = np.arange(0, len(types.context.objects), 2)
    some = types.of(leaks)
    assert some is None or (some.kind is not None and some.kind.size == leaks.size)


class TestVirtualTables:
    """A table, its type_info, that one's table and type_info, and their names, as one likes."""

    OBJECTS = 4

    def made(self, name: bytes, meta: bytes, **other: int) -> list[str]:
        # Words: 0 distance, 1 type_info, 2 a function | 4 its table, 5 its name | 8 distance,
        # 9 type_info of the table, 10 function | 12 table, 13 name | 16 the one name, 32 the other
        at = lambda word: DATA + 8 * word  # noqa: E731
        data = np.zeros(4096, np.uint64)
        words = {1: at(4), 2: at(2), 4: at(10), 5: at(16), 9: at(12), 12: at(10), 13: at(32)}
        for word, value in words.items():
            data[word] = other.get(f"word{word}", value)
        text = data.view(np.uint8)
        text[8 * 16 : 8 * 16 + len(name)] = np.frombuffer(name, np.uint8)
        if meta:
            text[8 * 32 : 8 * 32 + len(meta)] = np.frombuffer(meta, np.uint8)
        heap = np.zeros(8 * self.OBJECTS, np.uint64)
        heap[::8] = other.get("table", at(2))
        return kinds(process(heap, data))

    META = b"N10__cxxabiv117__class_type_infoE\0"

    def test_a_right_one_tells_its_class(self) -> None:
        assert self.made(b"3Foo\0", self.META) == ["Foo"] * self.OBJECTS

    def test_the_name_of_what_is_local_to_a_file_begins_with_a_mark(self) -> None:
        assert self.made(b"*3Foo\0", self.META) == ["Foo"] * self.OBJECTS

    def test_a_part_of_an_object_is_none(self) -> None:
        """The word before the type_info tells how far it is from the whole object."""
        assert self.made(b"3Foo\0", self.META, table=DATA + 8 * 10 + 8 * 2) == [""] * self.OBJECTS

    @pytest.mark.parametrize(
        ("name", "meta"),
        [
            (b"3Foo\0", b"N10__cxxabiv119__pointer_type_infoE\0"),
            (b"3Foo\0", b"3Foo\0"),
            (b"hello world\0", META),
            (b"\x1b[31m\0", META),
            (b"\0", META),
            (b"A" * 8000, META),
            (b"9" * 4000 + b"\0", META),
        ],
    )
    def test_what_is_no_class_is_left_alone(self, name: bytes, meta: bytes) -> None:
        found = self.made(name, meta)
        assert all(len(kind) <= 240 and kind.isprintable() for kind in found)
        assert "Foo" not in found

    @pytest.mark.parametrize(
        "words",
        [
            {"word9": DATA + 8 * 4},  # a type_info of classes that is its own class
            {"word4": DATA + 8 * 4},
            {"word4": 0},
            {"word5": 0},
            {"word5": (1 << 64) - 1},
            {"word5": DATA + 4096 * 8 - 2},
            {"word9": (1 << 64) - 8},
            {"word13": DATA + 8 * 4095},
            {"table": DATA},
            {"table": DATA + 4096 * 8},
        ],
    )
    def test_chains_that_lead_nowhere_end(self, words: dict[str, int]) -> None:
        assert self.made(b"3Foo\0", self.META, **words) == [""] * self.OBJECTS


class TestLinks:
    def test_a_long_list_is_followed(self) -> None:
        n = 50_000
        heap = np.zeros(8 * n, np.uint64)
        start = np.arange(n, dtype=np.uint64) * np.uint64(64) + np.uint64(HEAP)
        heap[0::8], heap[1::8] = np.roll(start, -1), np.roll(start, 1)
        heap[0], heap[8 * (n - 1)] = start[1], DATA
        heap[1] = DATA
        data = np.array([start[0], start[-1], n], np.uint64)
        assert set(kinds(process(heap, data))) == {"std::list node"}
        # The container does not count as many: it is some other list.
        data[2] = n - 1
        assert set(kinds(process(heap, data))) == {""}

    def test_a_ring_without_a_container_is_no_list(self) -> None:
        n = 1000
        heap = np.zeros(8 * n, np.uint64)
        start = np.arange(n, dtype=np.uint64) * np.uint64(64) + np.uint64(HEAP)
        heap[0::8], heap[1::8] = np.roll(start, -1), np.roll(start, 1)
        assert set(kinds(process(heap, np.zeros(8, np.uint64)))) == {""}

    def test_a_chain_of_nodes_that_comes_back_to_itself_ends(self) -> None:
        heap = np.zeros(8 * 20, np.uint64)
        heap[8::8] = HEAP + 64
        # Buckets in the first object; the first node leads to itself.
        data = np.array([HEAP, 7, HEAP + 64, 5, 0x3F800000, 0], np.uint64)
        assert set(kinds(process(heap, data))) == {""}

    def test_maps_of_deques_that_overlap_are_bounded(self) -> None:
        n = 4000
        heap = np.full(8 * n, HEAP, np.uint64)
        one = [HEAP, 8 * n, HEAP, HEAP, HEAP + 512, HEAP]
        two = [HEAP, HEAP, HEAP + 512, HEAP + 64 * n - 8]
        data = np.array((one + two) * 2000, np.uint64)
        assert len(kinds(process(heap, data, [64 * n]))) == 1


class TestPython:
    def test_a_type_that_is_its_own_and_nothing_else_is_no_interpreter(self) -> None:
        data = np.zeros(64, np.uint64)
        data[1] = DATA
        heap = np.zeros(64, np.uint64)
        heap[0::8], heap[1::8] = 1, DATA
        assert set(kinds(process(heap, data))) == {""}

    def test_many_types_of_their_own_are_bounded(self) -> None:
        n = 20_000
        data = np.zeros(2 * n, np.uint64)
        data[1::2] = np.arange(n, dtype=np.uint64) * np.uint64(16) + np.uint64(DATA)
        heap = np.zeros(64, np.uint64)
        assert set(kinds(process(heap, data))) == {""}
