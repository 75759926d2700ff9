"""The word filter of each level, and numpy's, on memory of which few or many words pass.

The index holds two small objects far apart. A word passes that lies between them, and is then
found to hit neither: nothing is written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from kmemleak_core import _scan
from kmemleak_core._index import AddressIndex
from kmemleak_core._scan import ImageView, extract_references, simd_levels

from .conftest import SMOKE

BYTES = 1 << 18 if SMOKE else 1 << 26
LOW, SIZE = 0x5000_0000, 1 << 20
SHARES = [0.001, 0.05, 0.5]


@dataclass(frozen=True)
class Form:
    """How the words lie in memory, and what is done to each."""

    word_size: int = 8
    step: int = 8
    swapped: bool = False
    mask: int = 2**64 - 1


FORMS = {
    "8-byte": Form(),
    "8-byte-swapped": Form(swapped=True),
    "8-byte-masked": Form(mask=0x0000_FFFF_FFFF_FFFF),
    "8-byte-swapped-masked": Form(swapped=True, mask=0x0000_FFFF_FFFF_FFFF),
    "8-byte-step-4": Form(step=4),
    "8-byte-step-1": Form(step=1),
    "4-byte": Form(word_size=4, step=4),
    "4-byte-swapped": Form(word_size=4, step=4, swapped=True),
    "4-byte-step-1": Form(word_size=4, step=1),
}


def make_memory(form: Form, share: float) -> np.ndarray:
    """Fill memory with small numbers; a share of the aligned words points between the objects."""
    random = np.random.default_rng(11)
    count = BYTES // form.word_size
    words = random.integers(1 << 16, 1 << 28, count, dtype=np.uint64)
    passing = random.random(count) < share
    words[passing] = LOW + random.integers(8, SIZE - 8, np.count_nonzero(passing))
    words = words.astype(f"u{form.word_size}")
    return words.byteswap() if form.swapped else words


def filter_with_numpy(memory: np.ndarray, form: Form) -> tuple[np.ndarray, np.ndarray]:
    """Return the places and values of the words that pass, in order, a shift after the other."""
    data = memory.view(np.uint8)
    places, values = [], []
    for shift in range(0, form.word_size, form.step):
        count = (data.size - shift) // form.word_size
        words = np.frombuffer(data, memory.dtype, count, shift)
        if form.swapped:
            words = words.byteswap()
        if form.mask != 2**64 - 1:
            words = words & words.dtype.type(form.mask)
        near = np.flatnonzero(words - words.dtype.type(LOW) < SIZE)
        places.append(near * form.word_size + shift)
        values.append(words[near])
    if len(places) == 1:
        return places[0], values[0]
    order = np.argsort(np.concatenate(places), kind="stable")
    return np.concatenate(places)[order], np.concatenate(values)[order]


@pytest.mark.parametrize("level", simd_levels)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", FORMS)
def bench_filter_engine(benchmark, name, share, level):
    form = FORMS[name]
    benchmark.group = f"filter {name} words, {share:.1%} pass"
    memory = make_memory(form, share)
    address = np.array([LOW, LOW + SIZE - 8], dtype=np.uint64)
    index = AddressIndex(address, np.array([8, 8], dtype=np.uint64))
    view = ImageView([(0x10000, memory.view(np.uint8))], form.word_size, form.swapped)
    start, size = np.array([0x10000], dtype=np.uint64), np.array([BYTES], dtype=np.uint64)
    owner = np.array([-1], dtype=np.int64)
    _scan._choose_level(level)
    try:
        _, targets, counters = benchmark(
            extract_references, view, index, start, size, owner, step=form.step, mask=form.mask
        )
    finally:
        _scan._choose_level("")
    assert counters["candidates"] == filter_with_numpy(memory, form)[0].size >= targets.size
    benchmark.extra_info["bytes"] = BYTES


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", FORMS)
def bench_filter_numpy(benchmark, name, share):
    form = FORMS[name]
    benchmark.group = f"filter {name} words, {share:.1%} pass"
    memory = make_memory(form, share)
    places, _ = benchmark.pedantic(filter_with_numpy, (memory, form), rounds=1 if SMOKE else 3)
    assert places.size
    benchmark.extra_info["bytes"] = BYTES
