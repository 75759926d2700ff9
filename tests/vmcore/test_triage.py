"""Which leaks of a real kernel count: by their backtraces, caches and modules."""

from __future__ import annotations

import pytest

from kmemleak_core import scan
from kmemleak_core.suppressions import Suppressions


@pytest.fixture(scope="module")
def report(vmcores):
    return scan(vmcores("snap1"), verdict="kernel")


def test_a_function_s_leaks_are_suppressed_and_its_like_are_left(report):
    frames = report.groups[0].origin.frames
    assert frames
    known = Suppressions.parse(report.report("suppressions", limit=1))
    left = report.suppress(known)
    assert left.suppressions[0].count >= report.groups[0].count
    assert len(left.leaks) + left.summary.suppressed_objects == len(report.leaks) == 41
    assert all(group.origin.frames != frames for group in left.groups)


def test_the_printed_lines_suppress_everything(report):
    known = Suppressions.parse(report.report("suppressions", limit=0))
    assert len(report.suppress(known).leaks) == 0


def test_a_cache_s_leaks_are_suppressed_by_its_name(report):
    kind = next(group.origin.kind for group in report.groups if group.origin.kind)
    left = report.suppress(Suppressions.parse(f"type:{kind}"))
    assert all(left.provenance.kind_of(row) != kind for row in range(len(left.leaks)))
    assert left.suppressions[0].count > 0


def test_the_kernel_s_own_words_are_of_what_is_left(report):
    known = Suppressions.parse(report.report("suppressions", limit=1))
    left = report.suppress(known)
    whole = report.report("kmemleak", limit=0)
    told = left.report("kmemleak", limit=0)
    assert told.count("unreferenced object") == len(left.leaks)
    records = whole.split("unreferenced object ")[1:]
    assert [r for r in records if r in told] == told.split("unreferenced object ")[1:]


def test_filters_and_groups_go_by_functions_caches_and_modules(report):
    frames = report.groups[0].origin.frames
    function = frames[-1].split("+")[0]
    document = report.to_dict(functions=(function,))
    assert document["leaks"]
    assert all(any(function in f for f in g["backtrace"]) for g in document["groups"])
    assert len(document["leaks"]) + document["hidden"]["objects"] == 41
    # What has no kind, or no backtrace, is grouped by size and shape.
    kinds = [g.origin.kind for g in report.regroup("kind").groups if g.origin.kind]
    assert len(set(kinds)) == len(kinds)
    traces = [g.origin.frames for g in report.regroup("trace").groups if g.origin.frames]
    assert len(set(traces)) == len(traces)
    kind = kinds[0]
    assert {g["kind"] for g in report.to_dict(types=(kind,))["groups"]} == {kind}


def test_an_earlier_dump_of_the_same_kernel_is_a_baseline(report, vmcores):
    later = scan(vmcores("snap2"), verdict="kernel").against(report.baseline())
    document = later.to_dict()
    known = document["baseline"]["known_objects"]
    assert 0 < known < len(later.leaks)
    assert len(document["leaks"]) + known == len(later.leaks)
    for group in document["groups"]:
        assert group["earlier_objects"] < group["objects"]
    assert report.against(report.baseline()).counted().objects == 0
