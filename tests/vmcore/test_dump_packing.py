"""LZO1X and Snappy: any stream of instructions gives what the formats' descriptions say."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmemleak_core._unpack_pages import unpack_pages

RAW, LZO, SNAPPY = 0, 2, 4


def unpack(stream: bytes, method: int, room: int) -> bytes | None:
    out = np.zeros((1, room), np.uint8)
    good = np.zeros(1, np.uint8)
    # Bytes behind the stream that must not be read as if they were part of it.
    data = np.frombuffer(stream + b"\x11\0\0" * 3, np.uint8)
    size = np.array([len(stream)], np.uint32)
    unpack_pages(data, np.zeros(1, np.uint64), size, method, out, good)
    return out.tobytes() if good[0] else None


class LzoWriter:
    """Writes instructions at random and keeps what they stand for."""

    def __init__(self, choose: random.Random) -> None:
        self.choose = choose
        self.stream = bytearray()
        self.made = bytearray()
        self.state = 0
        count = choose.randrange(0, 239)
        if count:
            self.stream.append(count + 17)
            self.literals(count)
            self.state = min(count, 4)

    def literals(self, count: int) -> None:
        data = self.choose.randbytes(count)
        self.stream += data
        self.made += data

    def length(self, code: int, value: int, most: int) -> None:
        """Write an instruction whose length may need more bytes."""
        if 0 < value <= most:
            self.stream.append(code | value)
            return
        self.stream.append(code)
        value -= most
        while value > 255:
            self.stream.append(0)
            value -= 255
        self.stream.append(value)

    def run(self) -> None:
        count = self.choose.randrange(4, 700)
        self.length(0, count - 3, 15)
        self.literals(count)
        self.state = 4

    def copy(self) -> None:
        most = min(len(self.made), 49151)
        kind = self.choose.choice(("short", "near", "middle", "far"))
        trailing = self.choose.randrange(4)
        least = {"short": 2049 if self.state == 4 else 1, "far": 16385}.get(kind, 1)
        if most < least or (kind == "short" and self.state == 0):
            return
        if kind == "short":
            distance = self.choose.randint(least, min(most, least + 1023))
            size = 3 if self.state == 4 else 2
            operand = distance - least
            self.stream += bytes([(operand & 3) << 2 | trailing, operand >> 2])
        elif kind == "near":
            distance = self.choose.randint(1, min(most, 2048))
            size = self.choose.randint(3, 8)
            operand = distance - 1
            self.stream += bytes([(size - 1) << 5 | (operand & 7) << 2 | trailing, operand >> 3])
        elif kind == "middle":
            distance = self.choose.randint(1, min(most, 16384))
            size = self.choose.randint(3, 600)
            self.length(32, size - 2, 31)
            self.stream += struct.pack("<H", distance - 1 << 2 | trailing)
        else:
            distance = self.choose.randint(16385, most)
            size = self.choose.randint(3, 300)
            operand = distance - 16384
            self.length(16 | (operand >> 14) << 3, size - 2, 7)
            self.stream += struct.pack("<H", (operand & 16383) << 2 | trailing)
        for _ in range(size):
            self.made.append(self.made[-distance])
        self.literals(trailing)
        self.state = trailing

    def write(self, instructions: int) -> None:
        for _ in range(instructions):
            if self.state == 0 and self.choose.random() < 0.5:
                self.run()
            elif self.made:
                self.copy()
        self.stream += b"\x11\0\0"


class SnappyWriter:
    """Writes elements at random and keeps what they stand for."""

    def __init__(self, choose: random.Random) -> None:
        self.choose = choose
        self.elements = bytearray()
        self.made = bytearray()

    def literals(self) -> None:
        data = self.choose.randbytes(self.choose.choice([1, 5, 60, 61, 256, 257, 3000]))
        more = (len(data) - 1).bit_length() + 7 >> 3
        # More bytes for the length than it needs are allowed.
        more = min(4, more + self.choose.randrange(2)) or 1
        if len(data) <= 60:
            self.elements.append(len(data) - 1 << 2)
        else:
            self.elements.append(59 + more << 2)
            self.elements += (len(data) - 1).to_bytes(more, "little")
        self.elements += data
        self.made += data

    def copy(self) -> None:
        kind = self.choose.randint(1, 3)
        distance = self.choose.randint(1, min(len(self.made), 2047 if kind == 1 else 65535))
        size = self.choose.randint(4, 11) if kind == 1 else self.choose.randint(1, 64)
        if kind == 1:
            self.elements.append(distance >> 8 << 5 | size - 4 << 2 | 1)
            self.elements.append(distance & 255)
        else:
            self.elements.append(size - 1 << 2 | kind)
            self.elements += distance.to_bytes(2 if kind == 2 else 4, "little")
        for _ in range(size):
            self.made.append(self.made[-distance])

    def write(self, elements: int) -> bytes:
        for _ in range(elements):
            if not self.made or self.choose.random() < 0.4:
                self.literals()
            else:
                self.copy()
        head, rest = bytearray(), len(self.made)
        while rest > 127:
            head.append(rest & 127 | 128)
            rest >>= 7
        return bytes(head) + bytes([rest]) + bytes(self.elements)


seeds = st.integers(0, 1 << 32)


@given(seeds, st.integers(1, 120))
@settings(deadline=None)
def test_any_lzo_stream_gives_what_its_instructions_say(seed, instructions):
    writer = LzoWriter(random.Random(seed))
    writer.write(instructions)
    if len(writer.stream) <= len(writer.made):
        assert unpack(bytes(writer.stream), LZO, len(writer.made)) == bytes(writer.made)


@given(seeds, st.integers(1, 60))
@settings(deadline=None)
def test_any_snappy_stream_gives_what_its_elements_say(seed, elements):
    writer = SnappyWriter(random.Random(seed))
    stream = writer.write(elements)
    if len(stream) <= len(writer.made):
        assert unpack(stream, SNAPPY, len(writer.made)) == bytes(writer.made)


@given(seeds, st.data())
@settings(deadline=None)
def test_a_damaged_stream_gives_a_page_or_none(seed, data):
    # What is written and read stays within bounds: the sanitizers' build sees to it.
    for method in (LZO, SNAPPY):
        choose = random.Random(seed)
        if method == LZO:
            lzo = LzoWriter(choose)
            lzo.write(20)
            stream, made = lzo.stream, lzo.made
        else:
            snappy = SnappyWriter(choose)
            stream, made = bytearray(snappy.write(20)), snappy.made
        for _ in range(data.draw(st.integers(1, 4))):
            stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
        stream = stream[: data.draw(st.integers(0, len(stream)))]
        out = unpack(bytes(stream), method, max(1, len(made)))
        assert out is None or len(out) == max(1, len(made))


@pytest.mark.parametrize(
    ("method", "stream"),
    [
        (LZO, b"\x11\0\0"),  # nothing but the end
        (LZO, b"\x16abcde"),  # no end
        (LZO, b"\x16abcde\x40\xff\x11\0\0"),  # copies from before the beginning
        (LZO, b"\0" * 16),  # a length that never ends
        (SNAPPY, b"\x10\x3cabc"),
        (SNAPPY, b"\xff" * 16),
        (RAW, b"shorter than it"),
    ],
)
def test_streams_of_nonsense_are_damaged(method, stream):
    assert unpack(stream, method, 16) is None


def test_more_than_a_page_is_damaged():
    assert unpack(b"\x16abcde\x11\0\0", LZO, 9) is None
    assert unpack(b"\x1eabcdefghijklm\x11\0\0"[:14], LZO, 12) is None


def test_columns_must_fit_together():
    out, good = np.zeros((2, 16), np.uint8), np.zeros(2, np.uint8)
    data, one = np.zeros(16, np.uint8), np.zeros(1, np.uint64)
    with pytest.raises(ValueError, match="lengths"):
        unpack_pages(data, one, np.zeros(2, np.uint32), LZO, out, good)
    with pytest.raises(ValueError, match="method"):
        unpack_pages(data, np.zeros(2, np.uint64), np.zeros(2, np.uint32), 7, out, good)
