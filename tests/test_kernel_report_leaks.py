"""Leaks out of records: grouped by who allocated them, suppressed, compared with older ones."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmemleak_core import UsageError
from kmemleak_core.frame_patterns import FramePattern, Skipper, names_of
from kmemleak_core.kernel_leaks import KernelAnalysis, analyse_report, symbols
from kmemleak_core.kernel_record import KernelFrame, KernelRecord
from kmemleak_core.logs import KernelReport, open_log
from kmemleak_core.suppressions import Suppressions

CALLERS = ("make_thing+0x10/0x20 [things]", "do_syscall_64+0x2b/0x50")


def leak(
    address: int, *frames: str, size: int = 8, jiffies: int = 1, **more: object
) -> KernelRecord:
    record = KernelRecord(
        address, size, jiffies=jiffies, frames=tuple(KernelFrame("0", f) for f in frames)
    )
    return dataclasses.replace(record, **more)  # type: ignore[arg-type]


def analyse(*records: KernelRecord, **more: object) -> KernelAnalysis:
    return analyse_report(KernelReport(records=records), **more)  # type: ignore[arg-type]


class TestGroups:
    def test_leaks_of_one_backtrace_are_one_group(self) -> None:
        a = analyse(
            leak(1, *CALLERS, size=8, comm="a"),
            leak(2, *CALLERS, size=32, comm="b"),
            leak(3, "other+0x1/0x2", size=5),
        )
        first, second = a.groups
        assert (first.count, first.nbytes, first.min_size, first.max_size) == (2, 40, 8, 32)
        assert (first.frames, list(first.comms), first.rows) == (CALLERS, ["a", "b"], [0, 1])
        assert second.frames == ("other+0x1/0x2",)

    def test_the_oldest_stands_for_its_group(self) -> None:
        # A report is in the order of allocation; jiffies of a 32-bit kernel start again at 0.
        a = analyse(leak(2, *CALLERS, jiffies=4294967290), leak(1, *CALLERS, jiffies=15))
        assert a.groups[0].oldest.address == 2

    def test_addresses_of_frames_do_not_matter(self) -> None:
        other = dataclasses.replace(
            leak(2), frames=tuple(KernelFrame(None, symbol) for symbol in CALLERS)
        )
        assert len(analyse(leak(1, *CALLERS), other).groups) == 1

    @pytest.mark.parametrize(
        "allocator",
        [
            "kmalloc_trace+0x11/0x20",
            "__kmalloc+0x1/0x2",
            "__kmalloc_node_track_caller_noprof+0x1/0x2",
            "kmem_cache_alloc_lru+0x1/0x2",
            "__vmalloc_node_range+0x755/0x7e0",
            "vmalloc+0x3c/0x50",
            "vzalloc+0x3c/0x50",
            "kmemleak_alloc+0x1/0x2",
            "slab_post_alloc_hook.constprop.0+0x1/0x2",
            "__slab_alloc.isra.5+0x1/0x2",
            "pcpu_alloc+0x1/0x2",
            "kstrdup+0x1/0x2",
            "kmemdup_noprof+0x1/0x2",
            "kvmalloc_node+0x1/0x2",
        ],
    )
    def test_frames_of_the_allocator_are_skipped(self, allocator: str) -> None:
        a = analyse(leak(1, allocator, *CALLERS), leak(2, *CALLERS))
        assert len(a.groups) == 1
        assert a.groups[0].frames == CALLERS
        assert a.groups[0].skipped == (allocator,)

    def test_only_the_innermost_ones_are(self) -> None:
        frames = (*CALLERS, "kmalloc_trace+0x11/0x20", "x+0x1/0x2")
        assert analyse(leak(1, *frames)).groups[0].frames == frames

    def test_a_backtrace_of_nothing_else_stays(self) -> None:
        assert analyse(leak(1, "vmalloc+0x1/0x2")).groups[0].frames == ("vmalloc+0x1/0x2",)

    def test_others_can_be_named(self) -> None:
        a = analyse(leak(1, "thing_alloc_node+0x1/0x2", *CALLERS), skip=["thing_alloc*"])
        assert a.groups[0].frames == CALLERS

    def test_the_mark_at_the_end_of_old_backtraces_is_no_frame(self) -> None:
        assert symbols(leak(1, "f+0x1/0x2", "0xffffffffffffffff")) == ("f+0x1/0x2",)

    def test_without_backtrace_comm_and_size_make_a_group(self) -> None:
        a = analyse(leak(1, comm="a", size=8), leak(2, comm="a", size=8), leak(3, comm="b", size=8))
        assert [(g.count, g.frames) for g in a.groups] == [(2, ()), (1, ())]

    def test_what_the_kernel_counted_but_did_not_list_is_told(self) -> None:
        a = analyse(leak(1, *CALLERS, more=7))
        assert (a.groups[0].unlisted, a.unlisted) == (7, 7)

    @given(st.permutations([leak(n, f"f{n % 4}+0x1/0x2", size=n % 3 + 1) for n in range(1, 12)]))
    def test_the_order_of_groups_does_not_depend_on_addresses(
        self, records: list[KernelRecord]
    ) -> None:
        a, b = analyse(*records), analyse(*sorted(records, key=lambda r: r.address))
        assert [g.key for g in a.groups] == [g.key for g in b.groups]

    def test_an_object_in_two_reports_of_a_log_counts_once(self) -> None:
        again = dataclasses.replace(leak(1, *CALLERS), age=12.0, hex_bytes=b"x", line=9)
        a = analyse(leak(1, *CALLERS), leak(2, *CALLERS), again)
        assert (len(a.leaks), a.repeated) == (2, 1)

    def test_another_object_at_the_same_address_counts(self) -> None:
        a = analyse(leak(1, *CALLERS, jiffies=5), leak(1, *CALLERS, jiffies=9))
        assert len(a.leaks) == 2

    def test_the_big_report_comes_to_so_many_places(self, shared_data: Path) -> None:
        file = shared_data / "vmcore" / "big_report.txt.zst"
        if not file.is_file():
            pytest.skip(f"no kernel report at {file}")
        a = analyse_report(open_log(file))
        assert (len(a.leaks), a.repeated) == (2874, 0)
        assert sum(g.count for g in a.groups) == 2874
        assert sum(g.nbytes for g in a.groups) == a.nbytes
        assert all(not g.frames[0].startswith(("kmalloc", "vzalloc", "__v")) for g in a.groups)


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "text", "matches"),
        [
            ("leak", "my_leak_small", True),
            ("^leak", "my_leak", False),
            ("^my", "my_leak", True),
            ("leak$", "my_leak", True),
            ("leak$", "my_leak2", False),
            ("^my*all$", "my_small", True),
            ("^my*all$", "my_smaller", False),
            ("m*s*l", "my_small", True),
            ("a*b*c", "acb", False),
            ("^ab*ba$", "aba", False),
            ("^aba$", "aba", True),
            ("^aba$", "abaaba", False),
            ("*", "", True),
        ],
    )
    def test_a_star_is_anything_and_anchors_hold(
        self, pattern: str, text: str, matches: bool
    ) -> None:
        assert FramePattern(pattern).matches(text) is matches

    def test_a_whole_pattern_has_to_match_all(self) -> None:
        assert FramePattern("kmalloc*", whole=True).matches("kmalloc_trace")
        assert not FramePattern("kmalloc", whole=True).matches("kmalloc_trace")

    @pytest.mark.timeout(60)
    def test_many_stars_take_no_longer(self) -> None:
        assert not FramePattern("a*" * 5000 + "b").matches("a" * 100_000)

    @pytest.mark.parametrize(
        ("symbol", "names"),
        [
            ("f+0x1/0x2", ("f",)),
            ("f.cold+0x1/0x2 [m]", ("f", "m")),
            ("f.constprop.0.isra.0+0x1/0x2", ("f",)),
            ("f+0x1/0x2 [m 0123abcd]", ("f", "m")),
            ("0xffffffffc0000000", ("0xffffffffc0000000",)),
            ("something else", ("something else",)),
        ],
    )
    def test_a_symbol_names_a_function_and_a_module(
        self, symbol: str, names: tuple[str, ...]
    ) -> None:
        assert names_of(symbol) == names

    def test_a_function_that_only_sounds_like_an_allocator_is_none(self) -> None:
        skipper = Skipper()
        assert not skipper.skips("my_kmalloc+0x1/0x2")
        assert not skipper.skips("thing+0x1/0x2 [kmalloc_test]")


class TestSuppressions:
    def test_a_leak_goes_by_any_function_of_its_backtrace(self) -> None:
        known = Suppressions.parse("# known\n\nleak:do_syscall\nleak:nobody\n")
        a = analyse(leak(1, *CALLERS, size=9), leak(2, "f+0x1/0x2"), suppressions=known)
        assert [r.address for r in a.leaks] == [2]
        assert (a.suppressed, a.suppressed_bytes) == (1, 9)
        assert [(u.pattern, u.line, u.count, u.nbytes) for u in a.suppressions] == [
            ("do_syscall", 3, 1, 9),
            ("nobody", 4, 0, 0),
        ]

    @pytest.mark.parametrize(
        "pattern", ["^things$", "make_thing$", "make_thing+0x10/0x20 [things]"]
    )
    def test_it_goes_by_module_function_and_symbol(self, pattern: str) -> None:
        known = Suppressions.parse(f"leak:{pattern}")
        assert analyse(leak(1, *CALLERS), suppressions=known).leaks == ()

    @pytest.mark.parametrize("pattern", ["x", "0x20", "[things]", "^make$", "2b"])
    def test_offsets_do_not_count(self, pattern: str) -> None:
        known = Suppressions.parse(f"leak:{pattern}")
        assert analyse(leak(1, *CALLERS), suppressions=known).suppressed == 0

    def test_bare_addresses_count_only_if_asked_for(self) -> None:
        record = leak(1, "0xffffffffc0000000")
        assert analyse(record, suppressions=Suppressions.parse("leak:c")).suppressed == 0
        assert analyse(record, suppressions=Suppressions.parse("leak:0xffffffffc")).suppressed == 1

    def test_the_allocator_s_frames_count_as_well(self) -> None:
        known = Suppressions.parse("leak:vmalloc")
        assert analyse(leak(1, "vmalloc+0x1/0x2", *CALLERS), suppressions=known).leaks == ()

    @pytest.mark.parametrize("line", ["foo", "race:foo", "leak:", "leak:*", "leak foo"])
    def test_what_is_none_is_refused_with_its_line(self, line: str) -> None:
        with pytest.raises(UsageError, match=r"known\.txt: line 2 is no suppression"):
            Suppressions.parse(f"leak:a\n{line}\n", "known.txt")


class TestDiff:
    def test_new_and_gone_are_told(self) -> None:
        old = KernelReport(records=(leak(1, *CALLERS), leak(2, *CALLERS)), path="old")
        a = analyse(leak(2, *CALLERS), leak(3, *CALLERS), old=old)
        assert a.diff is not None
        assert [r.address for r in a.diff.new] == [3]
        assert [r.address for r in a.diff.gone] == [1]
        assert (a.diff.kept, a.diff.old_path, a.found) == (1, "old", True)

    def test_more_of_a_known_leak_is_told_from_a_new_one(self) -> None:
        old = KernelReport(records=(leak(1, *CALLERS),))
        a = analyse(leak(1, *CALLERS), leak(2, *CALLERS), leak(3, "f+0x1/0x2"), old=old)
        assert a.diff is not None
        assert {g.oldest.address: g.key in a.diff.old_keys for g in a.diff.new_groups} == {
            2: True,
            3: False,
        }

    @pytest.mark.parametrize("change", [{"size": 9}, {"space": "percpu"}, {"address": 2}])
    def test_another_size_or_place_is_another_object(self, change: dict[str, object]) -> None:
        old = KernelReport(records=(leak(1, *CALLERS),))
        new = dataclasses.replace(leak(1, *CALLERS), **change)  # type: ignore[arg-type]
        a = analyse(new, old=old)
        assert a.diff is not None
        assert (len(a.diff.new), len(a.diff.gone)) == (1, 1)

    def test_another_backtrace_is_another_object_unless_it_was_allocated_then(self) -> None:
        old = KernelReport(records=(leak(1, *CALLERS, jiffies=1), leak(2, *CALLERS, jiffies=1)))
        a = analyse(
            leak(1, "0xffffffffc0000000", jiffies=1), leak(2, "f+0x1/0x2", jiffies=2), old=old
        )
        assert a.diff is not None
        assert [r.address for r in a.diff.new] == [2]

    def test_suppressed_ones_are_neither(self) -> None:
        old = KernelReport(records=(leak(1, *CALLERS),))
        a = analyse(leak(2, *CALLERS), old=old, suppressions=Suppressions.parse("leak:make_thing"))
        assert a.diff is not None
        assert (a.diff.new, a.diff.gone, a.found) == ((), (), False)

    def test_real_leaks_outlive_the_names_of_their_module(self, shared_data: Path) -> None:
        # snap2 is snap1 after rmmod: symbols of the modules have become addresses.
        files = [shared_data / "vmcore" / n / "kernel_report.txt" for n in ("snap1", "snap2")]
        if not all(file.is_file() for file in files):
            pytest.skip(f"no kernel reports at {files[0]}")
        a = analyse_report(open_log(files[1]), old=open_log(files[0]))
        assert a.diff is not None
        assert (len(a.diff.new), len(a.diff.gone), a.diff.kept) == (26, 0, 41)
