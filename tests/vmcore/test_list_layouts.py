"""kmemleak's records in the layouts of several releases, and damaged: small kernels made for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmemleak_core.errors import KmemleakError
from kmemleak_core.linux.comparison import compare
from kmemleak_core.linux.kmemleak import find_kmemleak
from kmemleak_core.linux.kmemleak_report import kernel_records
from kmemleak_core.linux.roots import kernel_roots
from kmemleak_core.linux.verdict import AS_KERNEL, AS_NOW, find_verdict
from kmemleak_core.report.kernel_layouts import format_record
from kmemleak_core.roots import Roots

from ..builders.kmemleak import (
    BASE,
    DEPOTS,
    OBJECTS,
    PER_CPU,
    RECORD,
    RECORDS,
    SIZE,
    Guest,
    Tracked,
)

A, B, C = OBJECTS, OBJECTS + 0x100, OBJECTS + 0x200
ALLOCATED, NO_SCAN, PHYS, PERCPU = 1, 4, 16, 32
TRACES = [(0xFFFFFFFF81000010, 0xFFFFFFFF81000020), (0xFFFFFFFF81000030,), ()]


def leaks(guest: Guest, rules=AS_NOW) -> list[int]:
    kernel = guest.build()
    found = find_kmemleak(kernel)
    assert found is not None
    verdict = find_verdict(kernel, found, rules)
    return found.objects.address[verdict.rows].tolist()


@pytest.mark.parametrize("depot", [None, *DEPOTS])
def test_backtraces_in_every_layout(depot):
    guest = Guest(
        [Tracked(a, trace=t) for a, t in zip((A, B, C), TRACES, strict=True)], depot=depot
    )
    found = find_kmemleak(guest.build())
    assert found is not None
    records = found.records
    assert [records.traces[i] if i >= 0 else () for i in records.trace.tolist()] == TRACES
    assert not list(found.heap.coverage)


def test_objects_come_in_the_lists_order_and_are_looked_up_by_address():
    found = find_kmemleak(Guest([Tracked(C), Tracked(A), Tracked(B)]).build())
    assert found is not None
    assert found.records.address.tolist() == [C, A, B]
    assert found.objects.address.tolist() == [A, B, C]
    assert found.row.tolist() == [1, 2, 0]
    assert found.objects.address[found.objects.allocation_order()].tolist() == [C, A, B]


def test_provenance_tells_who_when_and_where():
    guest = Guest(
        [
            Tracked(A, comm=b"one\0junk", pid=-1, jiffies=5, trace=TRACES[0]),
            Tracked(B, comm=b"one", min_count=2),
        ]
    )
    found = find_kmemleak(guest.build())
    assert found is not None
    known = found.heap.provenance
    assert known is not None
    assert [known.comms[i] for i in known.comm.tolist()] == ["one", "one"]
    assert known.pid.tolist() == [-1, 7]
    assert known.birth.tolist() == [5, 1000]
    assert [known.kinds[k] if k >= 0 else "" for k in known.kind.tolist()] == ["", "vmalloc"]
    assert known.traces[known.trace[0]] == TRACES[0]
    assert known.trace[1] == -1


def test_what_is_no_longer_allocated_is_no_object():
    found = find_kmemleak(Guest([Tracked(A, flags=0), Tracked(B)]).build())
    assert found is not None
    assert (len(found.records), found.objects.address.tolist()) == (2, [B])
    assert found.heap.counters["not_allocated"] == 1


class TestSpaces:
    def test_a_word_with_its_per_cpu_address_holds_a_per_cpu_object(self):
        per_cpu = Tracked(0x800, flags=ALLOCATED | PERCPU)
        assert leaks(Guest([per_cpu])) == [0x800]
        assert leaks(Guest([per_cpu], {PER_CPU[1] + 8: 0x810})) == []

    def test_each_processors_copy_of_it_is_scanned(self):
        guest = Guest(
            [Tracked(0x800, flags=ALLOCATED | PERCPU), Tracked(A), Tracked(B)],
            {PER_CPU[0] + 8: 0x800, PER_CPU[0] + 0x800: A, PER_CPU[1] + 0x808: B},
        )
        assert leaks(guest) == []

    def test_it_is_not_scanned_where_it_is_not_referred_to(self):
        guest = Guest(
            [Tracked(0x800, flags=ALLOCATED | PERCPU), Tracked(A)], {PER_CPU[0] + 0x800: A}
        )
        assert leaks(guest) == [0x800, A]

    def test_nor_if_it_is_not_to_be_scanned(self):
        guest = Guest(
            [Tracked(0x800, flags=ALLOCATED | PERCPU | NO_SCAN), Tracked(A)],
            {PER_CPU[0] + 8: 0x800, PER_CPU[0] + 0x800: A},
        )
        assert leaks(guest) == [A]

    @pytest.mark.parametrize(("checksum", "reported"), [(0, True), (1, False)])
    def test_its_checksum_is_over_all_copies(self, checksum, reported):
        per_cpu = Tracked(0x800, flags=ALLOCATED | PERCPU, checksum=checksum)
        assert (leaks(Guest([per_cpu]), AS_KERNEL) == [0x800]) == reported

    def test_its_record_says_so(self):
        kernel = Guest([Tracked(0x800, size=8, flags=ALLOCATED | PERCPU)]).build()
        found = find_kmemleak(kernel)
        assert found is not None
        (record,) = kernel_records(kernel, found, [0])
        assert format_record(record, "6.12")[:3] == [
            "unreferenced object (percpu) 0x00000800 (size 8):",
            '  comm "maker", pid 7, jiffies 1000',
            "  hex dump (first 8 bytes on cpu 0):",
        ]

    def test_a_physical_object_is_scanned_through_the_linear_mapping(self):
        physical = 0x0100_0000 + (A - BASE)  # the memory is mapped there
        guest = Guest([Tracked(physical, flags=ALLOCATED | PHYS, min_count=0), Tracked(B)], {A: B})
        assert leaks(guest) == []

    @pytest.mark.parametrize("change", [{"min_count": -1}, {"flags": ALLOCATED | PHYS | NO_SCAN}])
    def test_unless_it_is_black_or_not_to_be_scanned(self, change):
        one = Tracked(0x0100_0000 + (A - BASE), flags=ALLOCATED | PHYS, min_count=0)
        for name, value in change.items():
            setattr(one, name, value)
        assert leaks(Guest([one, Tracked(B)], {A: B})) == [B]

    def test_nor_outside_of_lowmem(self):
        guest = Guest(
            [Tracked(0x0100_0000 + (A - BASE), flags=ALLOCATED | PHYS, min_count=0), Tracked(B)],
            {A: B},
        )
        kernel = guest.build()
        guest.put(kernel.symbols.address("max_low_pfn"), 0x1000)
        found = find_kmemleak(kernel)
        assert found is not None
        assert "phys" not in kernel_roots(kernel, found).kinds


class TestRules:
    #: jiffies of an object, of which the last scan was at 10,000 and the minimum age is 1,250.
    @pytest.mark.parametrize(
        ("jiffies", "reported"), [(8750, True), (8751, False), (10_000, False), (10_001, False)]
    )
    def test_age_as_of_the_last_scan(self, jiffies, reported):
        guest = Guest([Tracked(A, jiffies=jiffies)])
        assert leaks(guest, AS_KERNEL) == [A] * reported
        assert leaks(guest) == [A]

    def test_what_was_born_later_holds_nothing(self):
        newer = Tracked(B, jiffies=10_001, min_count=0)
        guest = Guest([Tracked(A), newer], {B: A})
        assert (leaks(guest, AS_KERNEL), leaks(guest)) == ([A], [])

    def test_what_was_modified_is_spared_and_what_it_refers_to(self):
        guest = Guest([Tracked(A, checksum=1), Tracked(B), Tracked(C)], {A: B})
        kernel = guest.build()
        found = find_kmemleak(kernel)
        assert found is not None
        now = find_verdict(kernel, found, AS_NOW)
        rules = find_verdict(kernel, found, AS_KERNEL, base=now.base)
        assert (now.reported.tolist(), rules.reported.tolist()) == (
            [True, True, True],
            [False, False, True],
        )
        reasons = compare(kernel, found, now, rules).differences
        assert {reason.name: n for reason, n in reasons.items()} == {
            "MODIFIED": 1,
            "BEHIND_MODIFIED": 1,
        }

    def test_a_kernel_that_never_scanned_has_reported_nothing(self):
        guest = Guest([Tracked(A)], last_scan=0)
        assert (leaks(guest, AS_KERNEL), leaks(guest)) == ([], [A])

    def test_what_changed_between_two_scans_is_told_by_the_stored_count_alone(self):
        guest = Guest([Tracked(A, size=8, count=1, flags=3, checksum=0x6D6)], {A: 0})
        kernel = guest.build()
        found = find_kmemleak(kernel)
        assert found is not None
        from kmemleak_core.linux.checksums import crc32

        guest.put(A, 5)
        found.records.checksum[0] = crc32(kernel.image.view(A, 8))
        rules = find_verdict(kernel, found, AS_KERNEL)
        assert rules.reported.tolist() == [True]
        surprises = compare(kernel, found, rules, rules).surprises
        assert {reason.name: n for reason, n in surprises.items()} == {"CHANGED_BETWEEN": 1}


class TestLeftovers:
    """What a sheaf held before, or lies below a stack pointer, refers to nothing any more."""

    @pytest.fixture
    def sheaf(self, monkeypatch):
        """An object whose first 32 bytes hold B; what it held before is C."""
        monkeypatch.setattr(
            "kmemleak_core.heaps.slub.sheaves.used_parts",
            lambda kernel, coverage: (np.array([A], np.uint64), np.array([32], np.uint64)),
        )
        return Guest([Tracked(A, min_count=0), Tracked(B), Tracked(C)], {A + 24: B, A + 32: C})

    @pytest.mark.parametrize("low_memory", [False, True])
    def test_in_sheaves(self, sheaf, low_memory):
        kernel = sheaf.build()
        found = find_kmemleak(kernel)
        assert found is not None
        now = find_verdict(kernel, found, AS_NOW, low_memory=low_memory)
        rules = find_verdict(kernel, found, AS_KERNEL, base=now.base)
        assert now.reported.tolist() == [False, False, True]
        assert rules.reported.tolist() == [False, False, False]
        differences = compare(kernel, found, now, rules).differences
        assert {reason.name: n for reason, n in differences.items()} == {"IN_SHEAF": 1}

    @pytest.mark.parametrize(
        ("roots", "reported"),
        [
            ([("stacks", 32, 32), ("old-stacks", 0, 32)], [False, False, False]),
            ([("stacks", 32, 32)], [False, True, False]),
        ],
    )
    def test_on_stacks_whose_unused_parts_are_no_roots(self, roots, reported):
        guest = Guest([Tracked(A, min_count=0), Tracked(B), Tracked(C)], {A + 24: B, A + 32: C})
        kernel = guest.build()
        found = find_kmemleak(kernel)
        assert found is not None
        ranges = [(A + offset, size, kind) for kind, offset, size in roots]
        now = find_verdict(kernel, found, AS_NOW, roots=Roots.from_ranges(ranges))
        assert now.reported.tolist() == reported


class TestOff:
    def test_a_kernel_without_kmemleak_has_none(self):
        kernel = Guest([]).build()
        del kernel.symbols.addresses["object_list"]
        assert find_kmemleak(kernel) is None
        assert not list(kernel.coverage)

    def test_a_kernel_that_keeps_no_names_of_data_is_told(self):
        kernel = Guest([Tracked(A)]).build()
        del kernel.symbols.addresses["object_list"]
        kernel.symbols.addresses["kmemleak_alloc"] = BASE
        assert find_kmemleak(kernel) is None
        assert [note.code for note in kernel.coverage] == ["kmemleak.names"]

    def test_a_detector_that_was_switched_off_is_told(self):
        guest = Guest([Tracked(A)])
        kernel = guest.build()
        guest.put(kernel.symbols.address("kmemleak_enabled"), 0)
        assert find_kmemleak(kernel) is None
        assert [note.code for note in kernel.coverage] == ["kmemleak.off"]


def notes(guest: Guest, damage=lambda guest: None) -> tuple[list[str], list[int]]:
    """Return the codes of what was told, and the objects that were found all the same."""
    kernel = guest.build()
    damage(guest)
    found = find_kmemleak(kernel)
    if found is None:
        return [note.code for note in kernel.coverage], []
    return [note.code for note in found.heap.coverage], found.objects.address.tolist()


class TestDamage:
    def three(self) -> Guest:
        return Guest([Tracked(a, trace=TRACES[0]) for a in (A, B, C)])

    def test_a_looping_list(self):
        def loop(guest: Guest) -> None:
            guest.put(guest.record_at(2) + 8, guest.record_at(1) + 8)

        assert notes(self.three(), loop) == (["kmemleak.list"], [A, B, C])

    def test_a_list_that_leads_nowhere_is_met_from_its_end_too(self):
        def cut(guest: Guest) -> None:
            guest.put(guest.record_at(0) + 8, 0xDEAD)

        assert notes(self.three(), cut) == (["kmemleak.list"], [A, B, C])

    def test_a_link_that_skips_objects(self):
        def skip(guest: Guest) -> None:
            guest.put(guest.record_at(0) + 8, guest.record_at(2) + 8)

        assert notes(self.three(), skip) == (["kmemleak.list"], [A, B, C])

    def test_both_links_of_a_record_that_are_lost_cost_no_other(self):
        def lose(guest: Guest) -> None:
            guest.put(guest.record_at(1) + 8, 0xDEAD)
            guest.put(guest.record_at(1) + 16, 0xDEAD)

        assert notes(self.three(), lose) == (["kmemleak.list"], [A, B, C])

    def test_wild_handles_of_backtraces(self):
        def scribble(guest: Guest) -> None:
            guest.put(guest.record_at(1) + RECORD["handle"][1]["trace_handle"][0], 0x7FFF_FFFF, 4)

        assert notes(self.three(), scribble) == (["kernel.traces"], [A, B, C])

    def test_a_depot_that_cannot_be_read(self):
        guest = self.three()
        kernel = guest.build()
        del kernel.symbols.addresses["stack_pools"]
        found = find_kmemleak(kernel)
        assert found is not None
        assert [note.code for note in found.heap.coverage] == ["kernel.depot"]
        assert found.records.trace.tolist() == [-1, -1, -1]

    def test_objects_larger_than_memory(self):
        def grow(guest: Guest) -> None:
            guest.put(guest.record_at(0) + 32, 1 << 40)
            guest.put(guest.record_at(1) + 32, (1 << 64) - 1)

        assert notes(self.three(), grow) == (["kmemleak.size"], [C])

    def test_an_object_that_holds_several_others_takes_nobodys_place(self):
        assert notes(Guest([Tracked(A, size=0x2000), Tracked(B), Tracked(C)])) == (
            ["kmemleak.size"],
            [B, C],
        )

    def test_objects_that_overlap(self):
        assert notes(Guest([Tracked(A, size=0x180), Tracked(B)])) == (["objects.overlap"], [A])

    def test_scan_areas_that_loop(self):
        def loop(guest: Guest) -> None:
            guest.put(RECORDS + 256, RECORDS + 256)

        guest = Guest([Tracked(A, areas=((A + 8, 8),))])
        assert notes(guest, loop) == (["kmemleak.areas"], [A])

    def test_scan_areas_that_leave_their_object(self):
        guest = Guest([Tracked(A, areas=((A + 60, 8), (A, 8), (B, 0)))])
        assert notes(guest) == (["objects.scan-area"], [A])

    @settings(max_examples=150, deadline=None)
    @given(
        st.lists(
            st.tuples(
                st.integers(0, 0x9000 // 8),
                st.one_of(
                    st.integers(0, 2**64 - 1),
                    st.integers(BASE, BASE + SIZE),
                    st.sampled_from([0, 1, 2**63, 2**64 - 1, 2**32]),
                ),
            ),
            min_size=1,
            max_size=8,
        ),
        st.sampled_from([None, *DEPOTS]),
    )
    def test_anything_ends_with_an_answer_or_a_clear_error(self, scribbles, depot):
        objects = [Tracked(a, trace=t) for a, t in zip((A, B, C), TRACES, strict=True)]
        objects.append(Tracked(0x800, flags=ALLOCATED | PERCPU))
        objects.append(Tracked(0x0102_8000, flags=ALLOCATED | PHYS, min_count=0))
        objects[0].areas = ((A + 8, 16),)
        guest = Guest(objects, depot=depot)
        kernel = guest.build()
        for word, value in scribbles:
            guest.put(BASE + 8 * word, value)
        try:
            found = find_kmemleak(kernel)
            if found is None:
                return
            now = find_verdict(kernel, found, AS_NOW)
            rules = find_verdict(kernel, found, AS_KERNEL, base=now.base)
            compare(kernel, found, now, rules)
            for record in kernel_records(kernel, found, rules.rows.tolist()):
                format_record(record)
        except KmemleakError:
            return
        assert np.all(found.row < len(found.records))
