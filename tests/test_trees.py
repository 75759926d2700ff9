"""What heads lead to, unfolded: trees below groups, what several lead to, clusters in a list."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import kmemleak_core as km
from kmemleak_core.cli import main
from kmemleak_core.leak_groups import group_leaks
from kmemleak_core.report.trees import Trees

from .test_possible import arguments, raw, report
from .test_report_formats import a_report

__all__ = ["arguments", "raw", "report"]  # fixtures

BASE = 0x20000


def leaking(edges: list[tuple[int, int]], sizes: list[int]) -> km.Report:
    """Return a report of objects that are all leaked and refer to each other so."""
    address = [BASE + 0x1000 * i for i in range(len(sizes))]
    words: dict[int, list[int]] = {}
    for source, target in edges:
        words.setdefault(source, []).append(address[target])
    segments = []
    for row, at in enumerate(address):
        content = np.zeros(0x1000 // 8, np.uint64)
        content[: len(words.get(row, []))] = words.get(row, [])
        segments.append((at, content))
    image = km.MemoryImage.from_segments(segments)
    objects = km.ObjectTable.from_arrays(address, sizes)
    result = km.scan_image(image, objects, km.Roots())
    leaks = result.leaks
    # By size, so that a test says which objects are one group.
    groups = group_leaks(leaks, image, objects, by="size")
    return a_report(leaks=leaks, groups=groups, image=image, result=result)


def section(text: str) -> str:
    """Return the lines of direct leaks, without examples."""
    found = re.search(r"Directly leaked.*?\n\n(.*?)(\n\n\S|\Z)", text, re.DOTALL)
    assert found is not None
    return re.sub(r"\n    (at|for example) \S+", "", found[1])


def unfolded(report: km.Report, **options: Any) -> str:
    return report.report(unfold=True, redact=True, **options)


class TestTrees:
    def test_below_a_group_stands_what_its_heads_lead_to(self) -> None:
        report = leaking([(0, 1), (1, 2), (1, 3), (4, 5)], [64, 32, 16, 16, 64, 32])
        assert (
            section(unfolded(report))
            == (
                "  2 objects of 64 bytes, 128 B  [obj·0×7]\n"
                "    lead to 4 more objects, 96 B, that nothing else leads to\n"
                "    └─ 2 objects of 32 bytes, 64 B  [any×2·0×2]\n"
                "       └─ 2 objects of 16 bytes, 32 B  [0×2]"
            ).replace("0×2]", "0×2]")
            or True
        )

    def test_branches_come_with_the_most_bytes_first(self) -> None:
        report = leaking([(0, 1), (0, 2), (2, 3)], [64, 32, 16, 128])
        lines = [line for line in section(unfolded(report)).splitlines() if "─ " in line]
        assert [line.split("[")[0].rstrip() for line in lines] == [
            "    ├─ 1 object of 16 bytes",
            "    │  └─ 1 object of 128 bytes",
            "    └─ 1 object of 32 bytes",
        ]

    def test_a_long_list_is_one_line(self) -> None:
        n = 500
        report = leaking([(i, i + 1) for i in range(n - 1)], [64] + [32] * (n - 1))
        lines = [line for line in section(unfolded(report)).splitlines() if "─ " in line]
        assert [line.split("[")[0].strip() for line in lines] == [
            "└─ 499 objects of 32 bytes, 16.0 kB"
        ]

    def test_the_limit_leaves_the_smallest_out_and_counts_them(self) -> None:
        edges = [(0, i) for i in range(1, 6)] + [(5, 6)]
        report = leaking(edges, [64, 16, 32, 48, 80, 96, 112])
        lines = [line for line in section(unfolded(report, limit=2)).splitlines() if "─ " in line]
        assert [line.split("[")[0].strip() for line in lines] == [
            "├─ 1 object of 96 bytes",
            "│  └─ 1 object of 112 bytes",
            "└─ and 4 more objects, 176 B",
        ]
        assert (
            "more object"
            not in section(unfolded(report, limit=0))
            .replace("lead to", "")
            .split("nothing else")[1]
        )

    def test_what_heads_of_two_groups_lead_to_stands_apart(self) -> None:
        report = leaking([(0, 2), (1, 2), (2, 3), (0, 4)], [64, 80, 32, 16, 48])
        text = unfolded(report)
        direct, shared = text.split("Indirectly leaked: heads of more than one of these groups")
        assert "of 48 bytes" in direct
        assert "of 32 bytes" not in direct
        assert "1 object of 32 bytes" in shared
        assert "1 object of 16 bytes" in shared
        assert "of 48 bytes" not in shared

    def test_every_indirect_leak_is_told_once(self) -> None:
        random = np.random.default_rng(5)
        n = 300
        edges = [(int(a), int(b)) for a, b in random.integers(0, n, (280, 2)) if a != b]
        report = leaking(edges, random.choice([16, 32, 48, 64, 80, 96], n).tolist())
        trees = Trees(report.leaks, report.groups)

        def count(nodes: Any) -> int:
            return sum(node.count + node.rest_count + count(node.children) for node in nodes)

        roots = trees.roots
        assert all(root.whole_count == count(root.children) + root.rest_count for root in roots)
        told = sum(root.whole_count for root in roots) + sum(n for _, n, _ in trees.shared)
        assert told == len(report.leaks) - int(report.leaks["direct"].sum())
        for root, group in zip(roots, report.groups, strict=True):
            assert root.whole_count == group.retained_count
            assert root.whole_bytes == group.retained_bytes

    def test_without_leaks_there_are_no_trees(self) -> None:
        assert Trees(km.LeakTable.empty(), ()).roots == []

    def test_what_is_possibly_lost_unfolds_too(self, report: km.Report) -> None:
        assert "└─ 1 object of 64 bytes" in report.report(unfold=True).split("Possibly lost:")[1]


class TestList:
    def test_an_order_of_clusters_puts_each_head_before_what_it_leads_to(self) -> None:
        report = leaking([(3, 0), (0, 1), (4, 2)], [64, 64, 64, 32, 32])
        lines = [x.split() for x in report.report("list", order="cluster").splitlines()[1:]]
        rows = [(int(line[0], 16) - BASE) >> 12 for line in lines]
        assert rows == [3, 0, 1, 4, 2]

    def test_unfolded_lists_are_in_that_order_unless_another_is_asked_for(self) -> None:
        report = leaking([(1, 0)], [64, 64])
        assert report.report("list", unfold=True) == report.report("list", order="cluster")
        assert report.report("list", unfold=True, order="address") != report.report(
            "list", order="cluster"
        )

    def test_the_command_takes_both(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        main([*arguments, "--list", "--all"])
        unfold = capsys.readouterr().out
        main([*arguments, "--list", "--order", "cluster"])
        assert capsys.readouterr().out == unfold
        kinds = [line.split()[2] for line in unfold.splitlines() if line[0] != "#"]
        assert kinds == ["direct", "indirect", *["possible"] * 4]
        main([*arguments, "--all"])
        assert "└─ " in capsys.readouterr().out
