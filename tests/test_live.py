"""Live memory: what cannot be read is missing, what is cut in pieces loses no word."""

from __future__ import annotations

import ctypes
import mmap
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kmemleak_core as km
from kmemleak_core import live_scan
from kmemleak_core.errors import FaultError

PAGE = mmap.PAGESIZE


def window(memory, *ranges):
    """Return what a memory gives of (start, size) ranges."""
    start, size = np.array(ranges, dtype=np.uint64).T
    return memory.window(np.ascontiguousarray(start), np.ascontiguousarray(size))


def parts(image):
    return [(s.address, bytes(s.data)) for s in image.segments]


def plain(memory, **options):
    """Return a detector that reports at the first scan."""
    return km.Kmemleak(memory, min_age=0, checksums=False, confirm=False, **options)


# Buffers.


def test_a_buffer_is_scanned_as_it_is_now():
    words = np.zeros(512, dtype=np.uint64)
    detector = plain(km.MemoryImage.from_segments([(0x1000, words)]))
    detector.add_root(0x1000, 8)
    detector.alloc(0x1100, 64)
    words[0] = 0x1100
    assert detector.scan().unreferenced == 0
    words[0] = 0
    assert detector.scan().unreferenced == 1


def test_a_buffer_is_written_in_place():
    buffer = bytearray(b"." * 16)
    memory = km.BufferMemory(km.MemoryImage.from_segments([(0x1000, buffer)]))
    memory.write(0x1004, b"here")
    assert buffer == b"....here........"


@pytest.mark.parametrize(("address", "data"), [(0xFFF, b"ab"), (0x100F, b"ab"), (0x5000, b"a")])
def test_writing_outside_a_buffer_is_a_fault(address, data):
    buffer = bytearray(16)
    memory = km.BufferMemory(km.MemoryImage.from_segments([(0x1000, buffer)]))
    with pytest.raises(FaultError):
        memory.write(address, data)
    assert buffer == bytes(16)


def test_writing_to_a_constant_buffer_is_a_fault():
    memory = km.BufferMemory(km.MemoryImage.from_segments([(0x1000, bytes(16))]))
    with pytest.raises(FaultError):
        memory.write(0x1000, b"a")


def test_an_object_outside_all_buffers_is_missing():
    detector = plain(km.MemoryImage.from_segments([(0x1000, bytearray(64))]))
    detector.alloc(0x1020, 64, 0)
    assert detector.scan().missing_bytes == 32


# This process.


class Pages:
    """Some pages of this process, of which single ones can be taken away."""

    def __init__(self, count: int) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = ctypes.c_void_p
        self.libc.mmap.argtypes = (
            [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
        )
        self.libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self.libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        self.size = count * PAGE
        self.base = self.libc.mmap(None, self.size, 3, mmap.MAP_PRIVATE | mmap.MAP_ANON, -1, 0)
        assert self.base != ctypes.c_void_p(-1).value

    def page(self, number: int) -> int:
        return self.base + number * PAGE

    def fill(self, number: int, byte: bytes) -> None:
        ctypes.memset(self.page(number), byte[0], PAGE)

    def put(self, address: int, value: int) -> None:
        ctypes.c_uint64.from_address(address).value = value

    def protect(self, number: int, permissions: int) -> None:
        assert self.libc.mprotect(self.page(number), PAGE, permissions) == 0

    def unmap(self, number: int) -> None:
        assert self.libc.munmap(self.page(number), PAGE) == 0


@contextmanager
def some_pages(count):
    pages = Pages(count)
    try:
        yield pages
    finally:
        pages.libc.munmap(pages.base, pages.size)


@pytest.fixture
def pages():
    with some_pages(5) as pages:
        for number in range(5):
            pages.fill(number, b"abcde"[number : number + 1])
        yield pages


def test_unmapped_and_protected_pages_are_missing(pages):
    pages.unmap(1)
    pages.protect(3, 0)
    image = window(km.ProcessMemory(), (pages.page(0) + 8, 5 * PAGE - 16))
    assert parts(image) == [
        (pages.page(0) + 8, b"a" * (PAGE - 8)),
        (pages.page(2), b"c" * PAGE),
        (pages.page(4), b"e" * (PAGE - 8)),
    ]


def test_nothing_at_all_can_be_missing(pages):
    for number in range(5):
        pages.unmap(number)
    assert parts(window(km.ProcessMemory(), (pages.base, pages.size))) == []


@pytest.mark.parametrize("address", [0, 8, 1 << 47, 1 << 63, (1 << 64) - 2 * PAGE])
def test_addresses_that_no_process_has_are_missing(address):
    assert parts(window(km.ProcessMemory(), (address, PAGE))) == []


def test_ranges_at_the_end_of_the_address_space_overlap_without_harm():
    top = (1 << 64) - 8192
    assert parts(window(km.ProcessMemory(), (top, 8190), (top + 100, 50), (top + 99, 8))) == []


def test_what_an_unreadable_page_holds_is_counted(pages):
    detector = plain(km.ProcessMemory())
    detector.alloc(pages.page(0), 3 * PAGE, 0)
    pages.protect(1, 0)
    counters = detector.scan()
    assert counters.missing_bytes == PAGE
    assert counters.words == 2 * PAGE // 8


def test_a_pointer_behind_an_unreadable_page_is_found(pages):
    detector = plain(km.ProcessMemory())
    detector.alloc(pages.page(0), 3 * PAGE, 0)
    detector.alloc(pages.page(4), 64)
    pages.put(pages.page(2), pages.page(4))
    pages.unmap(1)
    assert detector.scan().unreferenced == 0
    pages.put(pages.page(2), 0)
    assert detector.scan().unreferenced == 1


def test_a_page_that_is_unmapped_during_the_scan_is_missing(pages):
    detector = plain(km.ProcessMemory())
    detector.alloc(pages.page(0), 2 * PAGE, 0)

    def unmap():
        pages.unmap(1)
        return (), ()

    # Roots are asked for after the objects were copied, and before anything is read.
    detector.add_roots_callback(unmap)
    assert detector.scan().missing_bytes == PAGE


def test_a_leak_on_an_unmapped_page_is_reported_without_content(pages):
    detector = plain(km.ProcessMemory())
    detector.alloc(pages.page(1), 64)
    detector.alloc(pages.page(2), 64)
    pages.unmap(1)
    assert detector.scan().new_leaks == 2
    first, second = detector.read().split("unreferenced object ")[1:]
    assert "hex dump (first 0 bytes)" in first or "hex dump" not in first
    assert "63 63 63" in second


def test_a_leak_that_is_unmapped_between_two_scans_keeps_its_checksum(pages):
    detector = km.Kmemleak(km.ProcessMemory(), min_age=0)
    detector.alloc(pages.page(1), 64)
    assert detector.scan().new_leaks == 0
    pages.unmap(1)
    assert detector.scan().new_leaks == 1


def test_this_process_is_written_to(pages):
    memory = km.ProcessMemory()
    memory.write(pages.page(1) - 2, b"1234")
    assert ctypes.string_at(pages.page(1) - 3, 6) == b"a1234b"


def test_erase_clears_the_pointer_that_holds_an_object(pages):
    detector = plain(km.ProcessMemory())
    detector.add_root(pages.base, 8)
    detector.alloc(pages.page(1), 64)
    pages.put(pages.base, pages.page(1))
    assert detector.scan().unreferenced == 0
    detector.erase(pages.base)
    assert detector.scan().unreferenced == 1


@pytest.mark.parametrize("how", ["read-only", "protected", "unmapped"])
def test_writing_where_this_process_cannot_is_a_fault(pages, how):
    if how == "unmapped":
        pages.unmap(1)
    else:
        pages.protect(1, 1 if how == "read-only" else 0)
    with pytest.raises(FaultError):
        km.ProcessMemory().write(pages.page(1), b"1234")


# A callback.


def reader(content, base=0x1000, at_most=1 << 30):
    """Return a callback that reads bytes, a few at a time."""

    def read(address, size):
        offset = address - base
        if not 0 <= offset < len(content):
            raise FaultError(address, "nothing there")
        return content[offset : offset + min(size, at_most)]

    return read


@pytest.mark.parametrize("at_most", [1, 7, 64, 100])
def test_short_reads_are_continued(at_most):
    content = bytes(range(100))
    memory = km.CallbackMemory(reader(content, at_most=at_most))
    assert parts(window(memory, (0x1000, 100))) == [(0x1000, content)]


@pytest.mark.parametrize("fault", ["raises", "returns nothing"])
def test_a_fault_of_the_callback_is_missing_up_to_the_next_page(fault):
    def read(address, size):
        if 0x2000 <= address < 0x3000:
            if fault == "raises":
                raise FaultError(address, "no")
            return b""
        return b"x" * min(size, 0x1000 - address % 0x1000)

    memory = km.CallbackMemory(read)
    assert parts(window(memory, (0x1800, 0x2000))) == [
        (0x1800, b"x" * 0x800),
        (0x3000, b"x" * 0x800),
    ]


def test_a_callback_that_returns_too_much_is_cut():
    memory = km.CallbackMemory(lambda address, size: b"y" * (size + 100))
    assert parts(window(memory, (0x1000, 8))) == [(0x1000, b"y" * 8)]


def test_writing_needs_a_callback():
    with pytest.raises(FaultError):
        km.CallbackMemory(reader(b"")).write(0x1000, b"a")
    written = []
    memory = km.CallbackMemory(reader(b""), lambda address, data: written.append((address, data)))
    memory.write(0x1000, b"a")
    assert written == [(0x1000, b"a")]


@pytest.mark.parametrize("byteorder", ["little", "big"])
@pytest.mark.parametrize("word_size", [4, 8])
def test_words_are_read_in_their_size_and_byte_order(word_size, byteorder):
    content = bytearray(256)
    content[word_size : 2 * word_size] = (0x1080).to_bytes(word_size, byteorder)
    memory = km.CallbackMemory(
        lambda address, size: bytes(content[address - 0x1000 :][:size]),
        word_size=word_size,
        byteorder=byteorder,
    )
    detector = plain(memory)
    detector.add_root(0x1000, 64)
    detector.alloc(0x1080, 16)
    counters = detector.scan()
    assert counters.words == (64 + 16) // word_size
    assert counters.unreferenced == 0
    content[word_size] ^= 1
    content[2 * word_size - 1] ^= 1
    assert detector.scan().unreferenced == 1


# Pieces.

BASE, LENGTH = 0x10000, 1024


@st.composite
def memories(draw):
    """Draw memory full of pointers at any offset, and objects that do not overlap."""
    objects, at = [], 64 + draw(st.integers(0, 9))
    while at < LENGTH and len(objects) < 12:
        size = min(draw(st.integers(1, 400)), LENGTH - at)
        objects.append((BASE + at, size, draw(st.sampled_from([0, 1, 1, 1, 2]))))
        at += size + draw(st.integers(0, 20))
    word_size = draw(st.sampled_from([4, 8]))
    byteorder = draw(st.sampled_from(["little", "big"]))
    content = bytearray(LENGTH)
    for _ in range(draw(st.integers(0, 40))):
        address, size, _ = draw(st.sampled_from(objects))
        value = address + draw(st.integers(0, size))
        place = draw(st.integers(0, LENGTH - word_size))
        content[place : place + word_size] = value.to_bytes(word_size, byteorder)
    return content, objects, word_size, byteorder


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    memories(),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([8, 16, 64, 256]),
    st.sampled_from(["buffer", "callback", "process"]),
)
def test_memory_cut_in_pieces_loses_no_word(monkeypatch, memory, alignment, piece, kind):
    content, objects, word_size, byteorder = memory
    if kind == "process" and (word_size != 8 or byteorder != "little"):
        kind = "callback"
    base = BASE
    if kind == "process":
        # The same at the address where the bytes really are: pointers move along.
        anchor = (ctypes.c_char * (LENGTH + 8)).from_buffer(bytearray(LENGTH + 8))
        base = -(-ctypes.addressof(anchor) // 8) * 8
        content = bytearray(content)
        for place in range(LENGTH - 7):
            value = int.from_bytes(content[place : place + 8], "little")
            if BASE <= value <= BASE + LENGTH:
                content[place : place + 8] = (value - BASE + base).to_bytes(8, "little")
        ctypes.memmove(base, bytes(content), LENGTH)
        objects = [(address - BASE + base, size, wanted) for address, size, wanted in objects]
    image = km.MemoryImage.from_segments(
        [(base, content)], word_size=word_size, byteorder=byteorder
    )
    table = km.ObjectTable.from_arrays(
        *(np.array(column) for column in zip(*[(a, s) for a, s, _ in objects], strict=True)),
        min_count=np.array([wanted for _, _, wanted in objects], dtype=np.int32),
    )
    roots = km.Roots.from_ranges([(base, 64)])
    expected = km.scan_image(image, table, roots, alignment=alignment)
    live = {
        "buffer": lambda: image,
        "process": km.ProcessMemory,
        "callback": lambda: km.CallbackMemory(
            reader(bytes(content), base, at_most=100), word_size=word_size, byteorder=byteorder
        ),
    }[kind]()
    monkeypatch.setattr(live_scan, "PIECE", piece)
    detector = plain(live, alignment=alignment)
    detector.add_root(base, 64)
    for address, size, wanted in objects:
        detector.alloc(address, size, wanted)
    counters = detector.scan()
    counts = [detector.find(address).count for address, _, _ in objects]
    assert counts == expected.count.tolist()
    assert counters.unreferenced == np.count_nonzero(expected.white)
    assert counters.missing_bytes == 0


@pytest.mark.parametrize("alignment", [1, 2, 4, 8])
@pytest.mark.parametrize("shift", [0, 1, 3, 8])
def test_a_word_across_the_cut_of_a_large_object_counts_once(alignment, shift):
    buffer = bytearray(2 * live_scan.PIECE + 128)
    detector = plain(km.MemoryImage.from_segments([(0x100000, buffer)]), alignment=alignment)
    cut = 0x100000 + live_scan.PIECE
    detector.alloc(0x100000 + shift, 2 * live_scan.PIECE, 0)
    leak = 0x100000 + 2 * live_scan.PIECE + 64
    detector.alloc(leak, 8, 2)
    for begin in range(cut - 8, cut + 1, alignment):
        buffer[begin - 0x100000 : begin - 0x100000 + 8] = leak.to_bytes(8, "little")
        detector.scan()
        assert detector.find(leak).count == 1
        buffer[begin - 0x100000 : begin - 0x100000 + 8] = bytes(8)


def test_checksums_are_right_wherever_an_object_lies():
    # Two segments that touch, a third one apart, and objects in, across and outside of them.
    content = bytes(range(256)) * 2
    image = km.MemoryImage.from_segments(
        [(0x1000, content[:100]), (0x1064, content[100:300]), (0x2000, content[300:])]
    )
    detector = plain(image)
    detector.checksums = True
    inside = {0x1000: 10, 0x105F: 10, 0x1070: 0, 0x1080: 64, 0x2000: 20, 0x20D0: 4}
    missing = {0xFF0: 16, 0x1180: 40, 0x3000: 8}
    for address, size in (inside | missing).items():
        detector.alloc(address, size)
    detector.scan()
    flat = content[:300] + bytes(0x2000 - 0x1000 - 300) + content[300:]
    for address, size in inside.items():
        expected = zlib.crc32(flat[address - 0x1000 :][:size], 0xFFFFFFFF) ^ 0xFFFFFFFF
        assert detector.find(address).checksum == expected
    for address in missing:
        assert detector.find(address).checksum == 0


def test_a_span_of_an_absurd_size_ends_after_as_many_faults_as_a_piece_can_have():
    asked = []

    def read(address, size):
        asked.append(address)
        raise FaultError(address)

    image = window(km.CallbackMemory(read), (0x1000, 1 << 60))
    assert image.nbytes == 0
    assert len(asked) <= 1 + (1 << 20) // 4096


def test_a_span_of_an_absurd_size_is_copied_in_bounded_memory():
    def read(address, size):
        return bytes(min(size, 1 << 20))

    image = window(km.CallbackMemory(read), (0x1000, 1 << 60))
    assert image.nbytes == 64 << 20
