"""The verdict on real kernels' dumps, from the dump alone: exactly the kernel's own report."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from kmemleak_core.dumps import open_dump
from kmemleak_core.linux.comparison import Comparison, Reason, compare
from kmemleak_core.linux.kernel import Kernel, open_kernel
from kmemleak_core.linux.kmemleak import KernelHeap, find_kmemleak
from kmemleak_core.linux.kmemleak_report import kernel_records, report_layout
from kmemleak_core.linux.roots import kernel_roots
from kmemleak_core.linux.verdict import (
    AS_KERNEL,
    AS_NOW,
    Rules,
    Verdict,
    births_and_ages,
    find_verdict,
    stored_reported,
    stored_white,
)
from kmemleak_core.report.kernel_layouts import LAYOUTS, format_record
from kmemleak_core.roots import Roots
from kmemleak_core.scan import ScanOptions

from ..test_scan_vmcore import number, rows
from .conftest import SNAPSHOTS


@dataclass
class Case:
    name: str
    folder: Path
    kernel: Kernel
    found: KernelHeap
    now: Verdict
    rules: Verdict

    def verdict(self, rules: Rules) -> Verdict:
        return find_verdict(self.kernel, self.found, rules, base=self.now.base)

    def addresses(self, verdict: Verdict) -> list[int]:
        return self.found.objects.address[verdict.rows].tolist()

    def comparison(self) -> Comparison:
        return compare(self.kernel, self.found, self.now, self.rules)


@pytest.fixture(scope="module", params=SNAPSHOTS)
def case(request, shared_data, vmcores):
    kernel = open_kernel(open_dump(vmcores(request.param)))
    found = find_kmemleak(kernel)
    assert found is not None
    now = find_verdict(kernel, found, AS_NOW)
    rules = find_verdict(kernel, found, AS_KERNEL, base=now.base)
    return Case(request.param, shared_data / "vmcore" / request.param, kernel, found, now, rules)


def expected(case: Case) -> list[int]:
    return [number(row["address"]) for row in rows(case.folder / "expected.csv")]


class TestAsKernel:
    def test_the_kernels_text_byte_for_byte(self, case):
        records = kernel_records(case.kernel, case.found, case.rules.rows.tolist())
        layout = report_layout(case.kernel)
        text = "".join(f"{line}\n" for r in records for line in format_record(r, layout))
        told = (case.folder / "kernel_report.txt").read_text("latin-1")
        assert text == told

    def test_the_layout_is_told_by_the_kernels_own_format_strings(self, case):
        assert replace(report_layout(case.kernel), name="6.1") == LAYOUTS["6.1"]

    def test_the_kernels_addresses_in_its_order(self, case):
        assert case.addresses(case.rules) == expected(case)

    def test_without_the_checksum_round_they_come_out_too(self, case):
        # That round turns whatever changed gray, and so could hide a scanner's mistakes.
        assert case.addresses(case.verdict(replace(AS_KERNEL, checksums=False))) == expected(case)

    def test_every_colour_is_the_one_that_the_kernel_stored(self, case):
        older = ~births_and_ages(case.kernel, case.found)[0]
        assert np.array_equal(case.rules.white[older], stored_white(case.found)[older])

    def test_every_count_is_the_one_that_the_kernel_stored(self, case):
        older = ~births_and_ages(case.kernel, case.found)[0] & (case.found.objects.min_count > 0)
        stored = case.found.records.count[case.found.row]
        assert np.array_equal(case.rules.count[older], stored[older])

    def test_colours_without_the_checksum_round_differ_in_what_it_took_alone(self, case):
        verdict = case.verdict(replace(AS_KERNEL, checksums=False))
        older = ~births_and_ages(case.kernel, case.found)[0]
        differ = older & (verdict.white != stored_white(case.found))
        assert np.array_equal(differ, case.rules.modified)

    def test_the_scan_for_the_report_has_these_leaks_alone(self, case):
        assert np.array_equal(case.rules.scan.white, case.rules.reported)
        assert len(case.rules.scan.leaks) == len(expected(case))
        assert "registers" not in case.rules.scan.roots.kinds

    def test_with_little_memory_the_same_comes_out(self, case):
        verdict = find_verdict(case.kernel, case.found, AS_KERNEL, low_memory=True)
        assert np.array_equal(verdict.count, case.rules.count)
        assert np.array_equal(verdict.reported, case.rules.reported)


#: White objects of the image as it stands, and those that the kernel's rules spare, by reason.
NOW = {
    "snap1": (48, {Reason.BORN_LATER: 7}),
    "snap2": (82, {Reason.BORN_LATER: 14, Reason.FIRST_WHITE: 1}),
    "big": (1278, {Reason.BORN_LATER: 8, Reason.IN_NEWER: 1}),
}


class TestAsNow:
    def test_all_that_nothing_refers_to_is_a_leak(self, case):
        assert np.count_nonzero(case.now.reported) == NOW[case.name][0]

    def test_where_the_verdicts_differ_has_a_reason(self, case):
        comparison = case.comparison()
        assert comparison.differences == NOW[case.name][1]
        differ = case.now.reported != case.rules.reported
        assert np.array_equal(comparison.now_and_kernel != Reason.AGREED, differ)

    def test_the_kernels_own_report_holds_no_surprise(self, case):
        comparison = case.comparison()
        assert comparison.surprises == {}
        assert comparison.colours[1] == 0
        assert comparison.colours[0] > 40_000

    def test_the_kernels_own_counts_and_flags_decide_nothing(self, case):
        found = case.found
        records = replace(
            found.records,
            count=np.zeros_like(found.records.count),
            flags=found.records.flags & ~np.uint32(2),
        )
        other = replace(found, records=records)
        for rules, mine in ((AS_NOW, case.now), (AS_KERNEL, case.rules)):
            verdict = find_verdict(case.kernel, other, rules, base=case.now.base)
            assert np.array_equal(verdict.reported, mine.reported)


@pytest.fixture(scope="module")
def snap1(shared_data, vmcores):
    kernel = open_kernel(open_dump(vmcores("snap1")))
    found = find_kmemleak(kernel)
    assert found is not None
    return kernel, found, kernel_roots(kernel, found)


@pytest.fixture(scope="module")
def mistaken(snap1):
    """Return how many leaks a mistake reports too many, and how many it misses."""
    kernel, found, all_roots = snap1
    truth = stored_reported(kernel, found)

    def cost(
        *, roots: Roots = all_roots, options: ScanOptions | None = None, **columns: object
    ) -> tuple[int, int]:
        objects = copy.copy(found.objects)
        for name, value in columns.items():
            setattr(objects, name, value)
        other = replace(found, heap=replace(found.heap, objects=objects))
        # The checksum round hides mistakes.
        rules = replace(AS_KERNEL, checksums=False)
        reported = find_verdict(kernel, other, rules, roots=roots, options=options).reported
        extra, missing = reported & ~truth, truth & ~reported
        return int(np.count_nonzero(extra)), int(np.count_nonzero(missing))

    return cost


class TestEachRuleMatters:
    def test_without_a_mistake(self, mistaken):
        assert mistaken() == (0, 0)

    def test_pointers_to_starts_only(self, mistaken):
        extra, missing = mistaken(options=ScanOptions(interior=False))
        assert extra > 40_000
        assert missing == 0

    def test_no_data_nor_bss(self, snap1, mistaken):
        kernel, found, _ = snap1
        sections = [kernel.symbols.address(n) for n in ("_sdata", "__bss_start")]
        chosen = np.isin(found.objects.address, np.array(sections, np.uint64))
        assert np.count_nonzero(chosen) == 2
        # Black objects are not scanned.
        changed = np.where(chosen, -1, found.objects.min_count).astype(np.int32)
        extra, missing = mistaken(min_count=changed)
        assert extra > 300
        assert missing == 0

    def test_no_static_per_cpu_areas(self, snap1, mistaken):
        extra, missing = mistaken(roots=snap1[2].without({"percpu"}))
        assert extra > 50
        assert missing == 0

    def test_no_scan_areas(self, mistaken):
        extra, missing = mistaken(area_offsets=None)
        assert extra == 0
        assert missing >= 5

    def test_one_reference_is_enough_for_vmalloc(self, snap1, mistaken):
        extra, missing = mistaken(min_count=np.minimum(snap1[1].objects.min_count, 1))
        assert extra == 0
        assert missing >= 5

    def test_black_and_unscanned_objects_are_scanned(self, snap1, mistaken):
        objects = snap1[1].objects
        columns = {"flags": objects.flags & 0, "min_count": np.maximum(objects.min_count, 0)}
        assert mistaken(**columns) == (0, 1)

    def test_physical_objects_are_scanned_where_they_are_mapped(self, snap1):
        kernel, _, roots = snap1
        physical = [r for r in roots.ranges if r.kind == "phys"]
        assert physical
        assert all(kernel.image.view(r.address, r.size).size == r.size for r in physical)


def test_surplus_references_to_a_vm_struct_hold_blocks_of_the_big_guest(case):
    objects = copy.copy(case.found.objects)
    objects.excess_ref = None
    other = replace(case.found, heap=replace(case.found.heap, objects=objects))
    verdict = find_verdict(case.kernel, other, replace(AS_KERNEL, checksums=False))
    found, told = set(case.addresses(verdict)), set(expected(case))
    assert told <= found
    assert (found > told) == (case.name == "big")


def test_objects_born_since_hide_a_leak_of_the_big_guest(case):
    scanned = case.verdict(replace(AS_KERNEL, births=False))
    hidden = set(expected(case)) - set(case.addresses(scanned))
    assert len(hidden) == (1 if case.name == "big" else 0)
