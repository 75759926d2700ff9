"""Scanning words for pointers, beside the read limit and what a user would do instead.

The words lie apart from the objects, as a data segment does: what is timed is filtering, looking
up and writing the targets down, and a target's share of the words is all that differs.
"""

from __future__ import annotations

import numpy as np
import pytest

import kmemleak_core as km
from kmemleak_core._index import NO_TARGET, ROWS, AddressIndex
from kmemleak_core._scan import extract_references

from . import alternatives
from .measuring import OURS, huge, measure, scaled
from .synthetic import fill_words, lay_out

#: Where the words lie, how many there are, and how many of them a loop in Python is given.
WORDS_AT = 0x1000_0000
WORDS, FEW_WORDS = scaled(1 << 25), scaled(1 << 20)
SHARES = [0.001, 0.05, 0.5]
SIZES = [1_000_000, 10_000_000, huge(100_000_000, 6)]
#: What the loops can take in seconds, not hours.
SMALL = 100_000


def work_of(share):
    return f"scan, {100 * share:g} % pointers"


def rows_of(targets):
    """Turn targets into rows, −1 for none."""
    return np.where(targets == NO_TARGET, -1, (targets & np.uint32(ROWS)).astype(np.int64))


def scan(index, words):
    """Return a call that scans words by the engine."""
    view = km.MemoryImage.from_segments([(WORDS_AT, words)]).engine
    start, length = np.array([[WORDS_AT], [words.nbytes]], dtype=np.uint64)
    nobody = np.array([-1], dtype=np.int64)
    return lambda: extract_references(view, index, start, length, nobody, step=8)


def make_words(layout, share, count):
    words = np.empty(count, dtype=np.uint64)
    return words, fill_words(words, layout, share)


# These are fixtures so that pytest runs what needs the same ones in a row.
@pytest.fixture(scope="module", params=SIZES)
def size(request):
    return request.param


@pytest.fixture(scope="module")
def layout(size):
    return lay_out(scaled(size))


@pytest.fixture(scope="module")
def index(layout):
    return AddressIndex(layout.address, layout.size)


@pytest.fixture(scope="module", params=SHARES)
def share(request):
    return request.param


@pytest.fixture(scope="module")
def words(layout, share):
    return make_words(layout, share, WORDS)


def bench_scan(benchmark, size, share, index, words):
    words, pointers = words
    _, targets, counters = measure(
        benchmark,
        scan(index, words),
        work=work_of(share),
        size=size,
        units=words.size,
        memory=words,
        rounds=9,
    )
    assert targets.size == counters["candidates"] == pointers
    benchmark.extra_info["pointers"] = pointers


def bench_scan_numpy(benchmark, size, share, layout, index, words):
    words, _ = words
    end = layout.address + layout.size
    found = measure(
        benchmark,
        lambda: alternatives.numpy_scan(layout.address, end, words),
        work=work_of(share),
        size=size,
        units=words.size,
        tool="numpy",
        rounds=1 if share > 0.1 else 3,
    )
    assert (found == rows_of(scan(index, words)()[1])).all()


def bench_index(benchmark, size, layout):
    index = measure(
        benchmark,
        lambda: AddressIndex(layout.address, layout.size),
        work="build an index",
        size=size,
        units=layout.address.size,
    )
    assert len(index) == layout.address.size
    benchmark.extra_info["bytes an object"] = round(index.nbytes / len(index), 1)


# The same for what is written as a loop, on fewer objects and fewer words.


@pytest.fixture(scope="module")
def few_objects():
    return lay_out(scaled(SMALL))


@pytest.fixture(scope="module", params=SHARES)
def few_words(request, few_objects):
    return request.param, *make_words(few_objects, request.param, FEW_WORDS)


def bounds(layout):
    return layout.address.tolist(), (layout.address + layout.size).tolist()


def in_bisect(layout, words):
    start, end = bounds(layout)
    return lambda: alternatives.bisect_scan(start, end, words)


def in_dict(layout, words):
    rows = {address: row for row, address in enumerate(layout.address.tolist())}
    return lambda: alternatives.dict_scan(rows, words)


def in_tree(layout, words):
    tree = alternatives.make_tree(*bounds(layout))
    return lambda: alternatives.tree_scan(tree, words)


LOOPS = {OURS: None, "bisect": in_bisect, "dict": in_dict, "intervaltree": in_tree}


@pytest.mark.parametrize("tool", LOOPS)
def bench_scan_in_python(benchmark, few_objects, few_words, tool):
    share, words, _ = few_words
    ours = scan(AddressIndex(few_objects.address, few_objects.size), words)
    found = measure(
        benchmark,
        ours if tool == OURS else LOOPS[tool](few_objects, words.tolist()),
        work=work_of(share),
        size=SMALL,
        units=words.size,
        tool=tool,
        rounds=20 if tool == OURS else 1,
    )
    targets = ours()[1]
    if tool == "dict":
        targets = targets[targets <= ROWS]  # it finds pointers to a start alone
    if tool != OURS:
        assert found == rows_of(targets).tolist()


@pytest.mark.parametrize("tool", [OURS, "dict", "intervaltree"])
def bench_index_in_python(benchmark, few_objects, tool):
    start, end = bounds(few_objects)
    build = {
        OURS: lambda: AddressIndex(few_objects.address, few_objects.size),
        "dict": lambda: dict(zip(start, range(len(start)), strict=True)),
        "intervaltree": lambda: alternatives.make_tree(start, end),
    }[tool]
    index = measure(
        benchmark,
        build,
        work="build an index",
        size=SMALL,
        units=len(start),
        tool=tool,
        rounds=20 if tool == OURS else 1,
    )
    assert len(index) == len(start)
