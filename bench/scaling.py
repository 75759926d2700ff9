"""Plots what an object costs, from ten thousand objects to ten million, ours and what others take.

``python -m bench.scaling OUT.svg`` measures and plots; the figures go into a JSON file beside it.
One hundred million objects (index and lists alone; 12 GB) where KMEMLEAK_BENCH_HUGE is set and
there is room.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import kmemleak_core as km
from kmemleak_core._index import ROWS, AddressIndex
from kmemleak_core._mark import mark
from kmemleak_core._scan import extract_references
from kmemleak_core.heaps.slub import SlubHeap

from . import alternatives
from .bench_slub import make_kernel
from .measuring import HUGE, free_gigabytes
from .synthetic import BASE, POINTER_SHARE, SyntheticHeap, fill_words, lay_out, make_heap

SIZES = [10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000]
MOST = 100_000_000
#: Memory that these take.
GIGABYTES = 12
#: Objects beyond which another way takes minutes, or more memory than there is.
LIMITS = {"numpy": 3_000_000, "scipy": 3_000_000, "bisect": 300_000, "intervaltree": 100_000}
#: Nanoseconds an object, by what was done and how many objects there were.
Figures = dict[str, dict[int, float]]


def best(call: Callable[[], Any], patience: float = 1.0) -> float:
    """Return the least seconds that a call takes, of some within so many seconds."""
    times: list[float] = []
    while not times or (sum(times) < patience and len(times) < 20):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


def measure(count: int, figures: Figures) -> None:
    """Measure all that can take so many objects."""
    heap = make_heap(count)
    address, size = heap.objects.address, heap.objects.size
    index = AddressIndex(address, size)
    view = heap.image.engine
    offsets, targets, _ = extract_references(view, index, address, size, step=8)
    roots = index.lookup(heap.roots.word_array())
    rows, rows_of_roots = (found.astype(np.int64) & ROWS for found in (targets, roots))
    calls: dict[str, Callable[[], Any]] = {
        "index": lambda: AddressIndex(address, size),
        "lists": lambda: extract_references(view, index, address, size, step=8),
        "walk": lambda: mark(offsets, targets, heap.objects.min_count, roots),
        "whole scan": lambda: km.scan_image(heap.image, heap.objects, heap.roots, threads=1),
        "scipy": lambda: alternatives.walk_by_scipy(offsets, rows, count, rows_of_roots),
        **_in_python(heap),
    }
    for name, call in calls.items():
        if count <= LIMITS.get(name, MOST):
            figures.setdefault(name, {})[count] = best(call) / count * 1e9
    kernel = make_kernel(count).kernel
    figures.setdefault("slab objects", {})[count] = (
        best(lambda: SlubHeap().find(kernel)) / count * 1e9
    )


def _in_python(heap: SyntheticHeap) -> dict[str, Callable[[], Any]]:
    """Return the ways to find the same references by other means."""
    address, end = heap.objects.address, heap.objects.address + heap.objects.size
    ways: dict[str, Callable[[], Any]] = {
        "numpy": lambda: alternatives.numpy_references(address, end, heap.words, BASE)
    }
    if address.size <= LIMITS["bisect"]:
        starts, ends, words = address.tolist(), end.tolist(), heap.words.tolist()
        ways["bisect"] = lambda: alternatives.bisect_scan(starts, ends, words)
    if address.size <= LIMITS["intervaltree"]:
        tree = alternatives.make_tree(starts, ends)
        ways["intervaltree"] = lambda: alternatives.tree_scan(tree, words)
    return ways


def measure_most(figures: Figures) -> None:
    """Measure index and lists of the most objects: 2 GB of words stand for 20, over and over."""
    layout = lay_out(MOST)
    words = np.empty(1 << 28, dtype=np.uint64)
    fill_words(words, layout, POINTER_SHARE)
    image = km.MemoryImage.from_segments(
        [(at, words[: (layout.end - at) // 8]) for at in range(BASE, layout.end, words.nbytes)]
    )
    index = AddressIndex(layout.address, layout.size)
    for name, call in {
        "index": lambda: AddressIndex(layout.address, layout.size),
        "lists": lambda: extract_references(
            image.engine, index, layout.address, layout.size, step=8
        ),
    }.items():
        figures[name][MOST] = best(call) / MOST * 1e9


def plot(figures: Figures, out: Path) -> None:
    """Draw the figures: at the left our parts, at the right the lists, ours and others'."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    # Grey, and colours of middling lightness, on nothing: they can be read on black and on white.
    grey = "#808080"
    plt.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "kmemleak",
            "font.family": "sans-serif",
            "font.size": 11,
            **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), grey),
            **dict.fromkeys(("xtick.color", "ytick.color", "grid.color"), grey),
        }
    )
    panels = {
        "our parts": ["whole scan", "lists", "walk", "index", "slab objects"],
        "finding all references": ["intervaltree", "bisect", "numpy", "lists"],
    }
    colours = {
        "whole scan": "#d1495b",
        "lists": "#2a9d5c",
        "walk": "#3d85c6",
        "index": "#c27c1a",
        "slab objects": "#9b6fd0",
        "numpy": "#3d85c6",
        "bisect": "#c27c1a",
        "intervaltree": "#9b6fd0",
    }
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    for axis, (title, names) in zip(axes, panels.items(), strict=True):
        for name in names:
            sizes, costs = list(figures[name]), list(figures[name].values())
            axis.loglog(sizes, costs, "o-", color=colours[name], linewidth=2, markersize=4)
            label = "ours" if name == "lists" and axis is axes[1] else name
            axis.annotate(
                label,
                (sizes[-1], costs[-1]),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                color=colours[name],
            )
        axis.set_title(title)
        axis.set_xlabel("objects")
        axis.margins(x=0.22)
        axis.grid(True, alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("nanoseconds an object")
    figure.savefig(out, transparent=True, metadata={"Date": None})


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("out", type=Path, help="SVG file to write")
    parser.add_argument("--replot", action="store_true", help="do not measure again")
    asked = parser.parse_args()
    beside = asked.out.with_suffix(".json")
    figures: Figures = {}
    if asked.replot:
        for name, costs in json.loads(beside.read_text(encoding="utf-8")).items():
            figures[name] = {int(count): cost for count, cost in costs.items()}
    else:
        for count in SIZES:
            measure(count, figures)
            gc.collect()
            told = ", ".join(f"{n} {c[count]:.3g}" for n, c in figures.items() if count in c)
            print(f"{count:,} objects, ns each: {told}", flush=True)
        if HUGE and free_gigabytes() > GIGABYTES:
            measure_most(figures)
        for costs in figures.values():
            costs.update({count: round(cost, 1) for count, cost in costs.items()})
        beside.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    plot(figures, asked.out)


if __name__ == "__main__":
    main()
