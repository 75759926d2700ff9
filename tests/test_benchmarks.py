"""What the benchmarks make of their figures: verdicts, ratios, comparisons, a page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.compare import best, slower
from bench.instructions import LIMITS, own_instructions
from bench.report import MARKS, replace_figures, rows
from bench.run import Measurement, Run, read_run
from bench.synthetic import BASE, fill_words, lay_out, make_list
from bench.targets import TARGETS, Target

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def measured(seconds, tool="ours", work="work", size=100, bandwidth=1.0, **extra):
    return Measurement(f"{work}-{size}-{tool}", seconds, work, size, tool, 10, bandwidth, extra)


def run_of(*measurements):
    return Run(tuple(measurements))


@pytest.mark.parametrize(
    ("value", "higher", "verdict"),
    [
        (80, True, "pass"),
        (70, True, "floor"),
        (59, True, "miss"),
        (80, False, "pass"),
        (100, False, "floor"),
        (101, False, "miss"),
    ],
)
def test_a_figure_passes_reaches_the_floor_or_misses(value, higher, verdict):
    target = Target("", "", 80, 60 if higher else 100, lambda run: None, higher)
    assert target.judge(value) == verdict


def test_every_target_has_a_row_even_if_nothing_was_measured():
    table = rows(run_of())
    assert len(table) == len(TARGETS)
    assert {cells[3] for cells in table} == {"not measured"}


def test_an_alternative_is_set_beside_us_at_the_largest_size_that_both_were_given():
    run = run_of(
        measured(1, size=10),
        measured(2, size=100),
        measured(3, size=1000),
        measured(10, "slow", size=10),
        measured(20, "slow", size=100),
        measured(5, "elsewhere", work="other"),
    )
    ((theirs, ours),) = run.alternatives("work", 1000)
    assert (theirs.size, theirs.seconds, ours.seconds) == (100, 20, 2)


def test_a_machine_that_reads_slower_too_is_no_regression():
    old = run_of(measured(1.0, bandwidth=40))
    assert not slower(old, run_of(measured(2.0, bandwidth=20)))
    assert slower(old, run_of(measured(2.0, bandwidth=40))) == {"work-100-ours": 1.0}


def test_reading_that_looks_faster_alone_is_no_regression():
    assert not slower(run_of(measured(1.0, bandwidth=20)), run_of(measured(1.0, bandwidth=40)))


def test_others_may_become_slower():
    assert not slower(run_of(measured(1, "numpy")), run_of(measured(9, "numpy")))


def test_the_better_of_two_measurements_counts():
    again = best(run_of(measured(3.0), measured(1.0, size=5)), run_of(measured(2.0)))
    assert [one.seconds for one in again.measurements] == [2.0, 1.0]


def test_lists_and_walk_are_put_together_ours_and_others(tmp_path):
    entries = [
        ("lists, a graph", "ours", 1.0),
        ("walk, a graph", "ours", 0.5),
        ("lists, a graph", "numpy", 7.0),
        ("walk, a graph", "scipy", 2.0),
    ]
    content = {
        "machine_info": {"machine": "x", "release": "1", "python_version": "3"},
        "datetime": "2020-01-01T00:00:00",
        "benchmarks": [
            {
                "name": "bench",
                "fullname": f"bench-{i}",
                "group": None,
                "stats": {"min": seconds},
                "extra_info": {"work": work, "tool": tool, "size": 10, "units": 10},
            }
            for i, (work, tool, seconds) in enumerate(entries)
        ],
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content))
    run = read_run(path)
    ((theirs, ours),) = run.alternatives("lists and walk, a graph", 10)
    assert (theirs.tool, theirs.seconds, ours.seconds) == ("numpy and scipy", 9.0, 1.5)


def test_only_what_is_between_the_marks_of_a_page_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    replace_figures(page, run_of())
    replace_figures(page, run_of())
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert text.count("| not measured |") == len(TARGETS)


def test_the_page_has_its_marks():
    assert all(PAGE.read_text(encoding="utf-8").count(mark) == 1 for mark in MARKS)


def test_instruction_counts_have_limits_above_zero():
    assert all(entry["limit"] > 0 for entry in json.loads(LIMITS.read_text()).values())


def test_a_functions_own_instructions_are_those_it_does_not_call():
    dump = "\n".join(
        [
            "fn=(1) kml_resolve_some",
            "12 100",
            "cfn=(2) other",
            "calls=1 40",
            "13 5000",
            "+1 20",
            "fn=(2)",
            "40 5000",
            "fn=(1)",
            "* 3",
            "totals: 5123",
        ]
    )
    assert own_instructions(dump, "kml_resolve") == 123


def test_synthetic_objects_do_not_overlap_and_pointers_hit_them():
    layout = lay_out(1000)
    assert (layout.address[1:] >= (layout.address + layout.size)[:-1]).all()
    assert (layout.address % 16 == 0).all()
    words = np.empty(5000, dtype=np.uint64)
    written = fill_words(words, layout, 0.5)
    pointers = words[words >= BASE]
    row = np.searchsorted(layout.address, pointers, side="right") - 1
    assert pointers.size == written
    assert (pointers < (layout.address + layout.size)[row]).all()


def test_a_synthetic_list_leads_through_every_object_once():
    heap = make_list(500)
    row, seen = int(np.searchsorted(heap.objects.address, heap.roots.word_array()[0])), []
    while row < 500 and len(seen) <= 500:
        seen.append(row)
        value = heap.words[int(heap.objects.address[row] - BASE) // 8]
        if value < BASE:
            break
        row = int(np.searchsorted(heap.objects.address, value))
    assert sorted(seen) == list(range(500))
