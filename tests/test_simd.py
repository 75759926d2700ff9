"""Every level of the word filter finds the words that a plain loop over the bytes finds."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kmemleak_core
from kmemleak_core import _scan
from kmemleak_core._index import AddressIndex
from kmemleak_core._scan import ImageView, scan_words, simd_levels

from .builders.programs import compile_c

HEADERS = Path(kmemleak_core.__file__).parent
SOURCE = Path(__file__).with_name("simd_check.c").read_text()
TOP = 2**64 - 1
MASKS = [TOP, TOP, 0x0000FFFFFFFFFFFF, 0xFFFFFFF8, 0xFF000000, 0]
LOWS = [0, 1, 0x1000, 2**31, 2**32 - 8, 2**32 - 1, 0x7F00_0000_0000, 2**63, TOP - 7, TOP]
SPANS = [0, 1, 7, 4096, 2**31, 2**32 - 1, 2**63 - 1, 2**63, TOP - 1, TOP]


class Filter(ctypes.Structure):
    """kml_filter of _simd.h."""

    _fields_ = [
        ("low", ctypes.c_uint64),
        ("span", ctypes.c_uint64),
        ("mask", ctypes.c_uint64),
        ("step", ctypes.c_uint32),
        ("word_size", ctypes.c_int),
        ("swapped", ctypes.c_int),
    ]


class Harness:
    """Calls the filter on memory that ends where nothing may be read."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library))
        self.library.filter_by_name.restype = ctypes.c_size_t
        self.library.slack_of_results.restype = ctypes.c_size_t
        page = mmap.PAGESIZE
        self.memory = mmap.mmap(-1, 3 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        libc = ctypes.CDLL(None, use_errno=True)
        forbid = libc.mprotect(ctypes.c_void_p(start + 2 * page), page, 0)
        assert forbid == 0, os.strerror(ctypes.get_errno())
        self.end = start + 2 * page

    def run(self, level: str, wanted: Filter, data: bytes, count: int) -> list[tuple[int, int]]:
        """Return position and value of each word of `data` that a level lets pass."""
        room = count + self.library.slack_of_results()
        values = (ctypes.c_uint64 * (room + 1))()
        positions = (ctypes.c_uint32 * (room + 1))()
        values[room] = positions[room] = 0xCAFE
        place = self.end - len(data)
        ctypes.memmove(place, data, len(data))
        found = self.library.filter_by_name(
            level.encode(),
            ctypes.byref(wanted),
            ctypes.c_void_p(place),
            ctypes.c_size_t(count),
            values,
            positions,
        )
        assert values[room] == positions[room] == 0xCAFE, "written past the slack"
        return list(zip(positions[:found], values[:found], strict=True))


@pytest.fixture(scope="module")
def harness(tmp_path_factory) -> Harness:
    flags = ["-shared", "-fPIC", "-Wall", "-Wextra", f"-I{HEADERS}"]
    return Harness(compile_c(tmp_path_factory.mktemp("simd"), "simd.so", SOURCE, *flags))


def order_of(swapped: bool) -> str:
    return {"little": "big", "big": "little"}[sys.byteorder] if swapped else sys.byteorder


def model(wanted: Filter, data: bytes, count: int) -> list[tuple[int, int]]:
    """Do as the filter does, word by word."""
    kept = []
    for i in range(count):
        word = data[i * wanted.step : i * wanted.step + wanted.word_size]
        value = int.from_bytes(word, order_of(wanted.swapped)) & wanted.mask
        if (value - wanted.low) % 2**64 <= wanted.span:
            kept.append((i, value))
    return kept


@st.composite
def runs(draw, word_size: int, step: int, swapped: bool):
    """Draw a filter and a run whose words lie near the range's two ends, on either side."""
    low, span = draw(st.sampled_from(LOWS)), draw(st.sampled_from(SPANS))
    wanted = Filter(low, span, draw(st.sampled_from(MASKS)), step, word_size, swapped)
    count = draw(st.integers(0, 64) | st.integers(0, 512))
    length = (count - 1) * step + word_size if count else 0
    data = bytearray(draw(st.sampled_from([0, 0xFF])).to_bytes(1, "little") * length)
    places = st.integers(0, max(length - word_size, 0))
    for at in draw(st.lists(places, max_size=12)) if count else []:
        value = draw(st.sampled_from([low, low + span])) + draw(st.integers(-1, 1))
        word = (value % 2 ** (8 * word_size)).to_bytes(word_size, order_of(swapped))
        data[at : at + word_size] = word
    return wanted, bytes(data), count


every_form = pytest.mark.parametrize(
    ("word_size", "step", "swapped"),
    [(w, s, b) for w in (8, 4) for s in (8, 4, 2, 1) for b in (False, True)],
)
every_level = pytest.mark.parametrize("level", simd_levels)


@every_level
@every_form
def test_a_level_finds_what_the_model_finds(harness, level, word_size, step, swapped):
    @settings(deadline=None, max_examples=30)
    @given(case=runs(word_size, step, swapped))
    def check(case):
        wanted, data, count = case
        assert harness.run(level, wanted, data, count) == model(wanted, data, count)

    check()


@every_level
@every_form
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_runs_of_any_length_end_at_their_last_word(harness, level, word_size, step, swapped, share):
    # The harness puts the run before memory that may not be read: a load too far is a crash.
    random = np.random.default_rng(step)
    for count in [*range(65), 127, 255, 511, 512]:
        length = (count - 1) * step + word_size if count else 0
        words = np.zeros(length // word_size + 1, dtype=f"u{word_size}")
        words[random.random(words.size) < share] = 0x1234_5678
        data = (words.byteswap() if swapped else words).tobytes()[:length]
        wanted = Filter(0x1234_0000, 0xFFFF, TOP, step, word_size, swapped)
        assert harness.run(level, wanted, data, count) == model(wanted, data, count)


@every_level
@pytest.mark.parametrize("word_size", [8, 4])
def test_a_range_of_all_values_lets_every_word_pass(harness, level, word_size):
    data = bytes(range(256)) * 2
    for low in LOWS:
        wanted = Filter(low, TOP, TOP, word_size, word_size, False)
        found = harness.run(level, wanted, data, len(data) // word_size)
        assert len(found) == len(data) // word_size


@every_level
@pytest.mark.parametrize(
    ("low", "span", "passing"),
    [
        (2**64 - 1, 1, [0]),
        (2**64 - 1, 2**32, [0, 1, 5, 2**32 - 1]),
        (2**32 - 1, 2**63, [2**32 - 1]),
        (2**32, TOP - 1, [0, 1, 5]),
        (2**32 + 2, TOP - 1, [0, 1, 5, 2**32 - 1]),
        (5, TOP - 1, [0, 1, 5, 2**32 - 1]),
        (6, TOP - 1, [0, 1, 2**32 - 1]),
        (2, TOP - 1, [0, 5, 2**32 - 1]),
        (2**32, 0, []),
    ],
)
def test_narrow_words_meet_ranges_beyond_32_bits(harness, level, low, span, passing):
    # A span of 2**64 - 2 leaves one value out: the one before low.
    words = [0, 1, 5, 2**32 - 1] * 16
    data = np.array(words, dtype=np.uint32).tobytes()
    wanted = Filter(low, span, TOP, 4, 4, False)
    found = harness.run(level, wanted, data, len(words))
    assert [value for _, value in found] == [w for w in words if w in passing]


@every_level
@every_form
@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_a_scan_finds_the_words_that_point_into_an_object(level, word_size, step, swapped, data):
    low, size = data.draw(st.sampled_from([(0x1000, 1), (0x1000, 0x800), (2**32 - 64, 32)]))
    mask = data.draw(st.sampled_from([TOP, 0x0000FFFFFFFFFFFF, 0xFFFFFFF8]))
    start = 0x100000 + data.draw(st.integers(0, 9))
    count = data.draw(st.integers(1, 80))
    memory = bytearray(count * word_size)
    for i in data.draw(st.lists(st.integers(0, count - 1), max_size=20)):
        value = low + data.draw(st.sampled_from([-1, 0, 1, size - 1, size])) | 0xA5 << 56
        word = (value % 2 ** (8 * word_size)).to_bytes(word_size, order_of(swapped))
        memory[i * word_size : (i + 1) * word_size] = word
    view = ImageView(
        [(start, np.frombuffer(memory, dtype=np.uint8))], word_size, order_of(swapped) == "big"
    )
    index = AddressIndex(np.array([low], dtype=np.uint64), np.array([size], dtype=np.uint64))
    range_of = [np.array([x], dtype=np.uint64) for x in (start, len(memory))]
    owner = np.array([-1], dtype=np.int64)
    _scan._choose_level(level)
    try:
        places, values, _, _ = scan_words(view, index, *range_of, owner, step=step, mask=mask)
    finally:
        _scan._choose_level("")
    expected = []
    for at in range(-(-start // step) * step, start + len(memory) - word_size + 1, step):
        word = memory[at - start : at - start + word_size]
        value = int.from_bytes(word, order_of(swapped)) & mask
        if low <= value < low + size:
            expected.append((at, value))
    assert list(zip(places.tolist(), values.tolist(), strict=True)) == expected


def test_random_runs_agree_on_every_level(tmp_path):
    program = compile_c(tmp_path, "simd_check", SOURCE, f"-I{HEADERS}")
    done = subprocess.run([str(program), "100000"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.split()[: len(simd_levels)] == list(simd_levels)


def imported_with(level: str) -> subprocess.CompletedProcess[str]:
    code = "from kmemleak_core import _scan; print(_scan.simd_level)"
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KMEMLEAK_SIMD": level},
        capture_output=True,
        text=True,
    )


@every_level
def test_the_environment_names_the_level(level):
    assert imported_with(level).stdout.split() == [level]


def test_the_best_level_is_chosen_unless_one_is_named():
    assert imported_with("").stdout.split() == [simd_levels[0]]
    assert simd_levels[-1] == "scalar"


@pytest.mark.parametrize("name", ["sse9", "AVX2", "scalar ", "neon-avx2"])
def test_a_level_that_the_processor_lacks_is_an_error_that_lists_the_others(name):
    with pytest.raises(ValueError, match=f"{name}: this processor has .*{', '.join(simd_levels)}"):
        _scan._choose_level(name)
    done = imported_with(name)
    assert done.returncode != 0
    assert f"KMEMLEAK_SIMD={name}: this processor has" in done.stderr
