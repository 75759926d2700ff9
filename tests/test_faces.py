"""Every face of a report shows the same: what filters, suppressions, orders and limits choose."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from kmemleak_core import MemoryImage, ObjectTable, Report, Roots, ScanOptions, scan_image
from kmemleak_core.leak_groups import group_leaks
from kmemleak_core.report import ReportSource, Summary, built_in_formats, renderer_names
from kmemleak_core.suppressions import Suppressions

from .html.test_page import rows_of
from .test_suppressions import origins

BASE = 0x10000
SECRET = b"top secret words"


class Made(NamedTuple):
    """Objects of one origin; its letter is in the name of the function that made them."""

    letter: str
    kind: str
    module: str
    size: int
    objects: int


#: In the order of allocation. Those of d are held by those of a; x and y are possibly lost.
MADE = [
    Made("c", "Gamma", "m2", 32, 8),
    Made("a", "Alpha", "m1", 160, 3),
    Made("b", "Beta", "m1", 200, 1),
    Made("d", "Delta", "m2", 128, 3),
    Made("x", "Alpha", "m2", 64, 4),
    Made("y", "Beta", "m1", 400, 1),
]
LETTERS = "".join(one.letter * one.objects for one in MADE)


def told() -> Report:
    """Scan the objects above, and one more that a root holds."""
    rows = [one for one in MADE for _ in range(one.objects)]
    n = len(rows)
    memory = np.zeros((n + 1, 64), np.uint64)
    memory[:, 1:3] = np.frombuffer(SECRET, np.uint64)
    address = BASE + 512 * np.arange(n + 1)
    at = {one.letter: LETTERS.index(one.letter) for one in MADE}
    for i in range(3):
        memory[at["a"] + i, 4] = address[at["d"] + i]
    possible = np.flatnonzero([one.letter in "xy" for one in rows])
    image = MemoryImage.from_segments([(BASE, memory.tobytes())])
    objects = ObjectTable.from_arrays(address, [*(one.size for one in rows), 32])
    roots = Roots.from_ranges(words=[int(address[n]), *(address[possible] + 8).tolist()])
    result = scan_image(image, objects, roots, options=ScanOptions(possible=True))
    assert result.possible_rows is not None
    assert result.possible_rows.tolist() == possible.tolist()
    every = origins(
        *((one.kind, (f"made_by_{one.letter}+0x1/0x2 [{one.module}]", "main")) for one in rows),
        ("", ()),
    )
    leaks, perhaps = every.take(np.flatnonzero(result.white)), every.take(possible)
    return Report(
        source=ReportSource(path="core", format="elf-core"),
        summary=Summary.of(objects, result.leaks, result.possible),
        leaks=result.leaks,
        groups=group_leaks(result.leaks, image, objects, leaks),
        image=image,
        result=result,
        provenance=leaks,
        origins=every,
        possible=result.possible,
        possible_groups=group_leaks(result.possible, image, objects, perhaps),
        possible_provenance=perhaps,
    )


class Shown(NamedTuple):
    """Letters of the groups that a face shows, in its order; None of what it does not tell."""

    leaks: str
    possible: str | None


def distinct(letters: Iterable[str]) -> str:
    return "".join(dict.fromkeys(letters))


def by_name(text: str) -> str:
    """Return the letters of the functions that a text names, the first time that it does."""
    return distinct(re.findall(r"made_by_(\w)", text))


def by_address(address: int) -> str:
    return LETTERS[(address - BASE) // 512]


def in_text(text: str) -> Shown:
    leaks, _, possible = text.partition("Possibly lost:")
    return Shown(by_name(leaks), by_name(possible))


def in_list(text: str) -> Shown:
    lines = [line.split() for line in text.splitlines() if line[0] != "#"]
    letters = {"possible": "", "leak": ""}
    for line in lines:
        letters["possible" if line[2] == "possible" else "leak"] += by_address(int(line[0], 16))
    return Shown(distinct(letters["leak"]), distinct(letters["possible"]))


def in_json(text: str) -> Shown:
    document = json.loads(text)
    groups, possible = (
        "".join(by_address(int(group["example"]["address"], 16)) for group in document[name])
        for name in ("groups", "possible_groups")
    )
    for name, of in (("leaks", "groups"), ("possible", "possible_groups")):
        # A limit counts groups there, and single leaks here.
        counted = sum(group["objects"] for group in document[of])
        left_out = document[f"{of}_left_out"] or document[f"{name}_left_out"]
        assert left_out or len(document[name]) == counted
    return Shown(groups, possible)


def in_html(text: str) -> Shown:
    rows = rows_of(text)
    return Shown(
        *("".join(by_address(int(row["example"], 16)) for row in rows if bool(row["possible"]) is p)
          for p in (False, True))
    )  # fmt: skip


def in_sarif(text: str) -> Shown:
    results = json.loads(text)["runs"][0]["results"]
    shown = [
        r for r in results if "suppressions" not in r and r.get("baselineState") != "unchanged"
    ]
    return Shown(
        *("".join(by_address(int(r["properties"]["example"], 16)) for r in shown
                  if (r["ruleId"] == "possible-leak") is possible)
          for possible in (False, True))
    )  # fmt: skip


def names_of_leaks(text: str) -> Shown:
    return Shown(by_name(text), None)


#: How each face is read.
READERS: dict[str, Callable[[str], Shown]] = {
    "text": in_text,
    "list": in_list,
    "json": in_json,
    "html": in_html,
    "sarif": in_sarif,
    "kmemleak": names_of_leaks,
    "folded": names_of_leaks,
    "speedscope": names_of_leaks,
    "suppressions": names_of_leaks,
}
#: Faces of groups, in the order that was asked for; of stacks, which have one of their own.
OF_GROUPS = ("json", "html", "sarif", "suppressions")
OF_ROWS = ("list", "kmemleak")


def test_every_registered_renderer_is_held_to_the_others() -> None:
    assert set(READERS) == set(built_in_formats())


every_face = pytest.mark.parametrize("face", built_in_formats())


def check(face: str, report: Report, leaks: str, possible: str, **options: Any) -> None:
    """Hold a face to the groups that are to be seen, in any order."""
    shown = READERS[face](report.report(face, **options))
    assert sorted(shown.leaks) == sorted(leaks)
    assert shown.possible is None or sorted(shown.possible) == sorted(possible)


@every_face
class TestWhatIsShown:
    @pytest.mark.parametrize(
        ("options", "leaks", "possible"),
        [
            ({}, "abcd", "xy"),
            ({"redact": True}, "abcd", "xy"),
            ({"limit": 0}, "abcd", "xy"),
            ({"min_size": 150}, "ab", "y"),
            ({"max_size": 64}, "c", "x"),
            ({"min_size": 65, "max_size": 199}, "ad", ""),
            ({"types": ("Alpha",)}, "a", "x"),
            ({"types": ("*ta",)}, "bd", "y"),
            ({"types": ("Omega",)}, "", ""),
            ({"functions": ("made_by_b", "made_by_y")}, "b", "y"),
            ({"functions": ("main",)}, "abcd", "xy"),
            ({"modules": ("m2",)}, "cd", "x"),
            ({"modules": ("m2",), "types": ("Gamma",)}, "c", ""),
        ],
        ids=str,
    )
    def test_filters_choose_the_same(
        self, face: str, options: dict[str, Any], leaks: str, possible: str
    ) -> None:
        check(face, told(), leaks, possible, **options)

    @pytest.mark.parametrize(
        ("known", "leaks", "possible"),
        [
            ("type:Alpha", "bc", "y"),  # d goes with what holds it
            ("leak:made_by_c\nleak:made_by_y", "abd", "x"),
            ("module:m*", "", ""),
            (f"addr:{BASE:#x}-{BASE + 512 * 8:#x}", "abd", "xy"),
            ("size:64", "abcd", "y"),
        ],
    )
    def test_suppressions_take_the_same_out(
        self, face: str, known: str, leaks: str, possible: str
    ) -> None:
        check(face, told().suppress(Suppressions.parse(known)), leaks, possible)

    def test_a_baseline_hides_the_same(self, face: str) -> None:
        before = told().suppress(Suppressions.parse("type:Alpha")).baseline()
        check(face, told().against(before), "ad", "xy")

    def test_what_is_known_is_not_shown_to_be_filtered(self, face: str) -> None:
        check(face, told().against(told().baseline()), "", "xy", types=("Alpha", "Beta"))

    def test_without_what_is_possibly_lost_the_leaks_are_the_same(self, face: str) -> None:
        report = replace(told().of_possible(), leaks=told().leaks, groups=told().groups)
        check(face, replace(report, provenance=told().provenance), "abcd", "")


class TestHidden:
    """What the filters hide is told: of leaks, and of what is possibly lost."""

    def test_in_every_face_that_has_a_place_for_it(self) -> None:
        report, options = told(), {"types": ("Alpha",)}
        assert "the filters hide 12 leaks (840 B) and 1 possibly lost object (400 B) of these" in (
            " ".join(report.report(**options).split())
        )
        assert "1 possibly lost object (400 B)" in report.report("html", **options)
        lines = report.report("list", **options).splitlines()
        assert {"# 12 hidden by filters", "# 1 possible hidden by filters"} <= set(lines)
        document = report.to_dict(**options)
        assert document["hidden"] == {"objects": 12, "bytes": 840}
        assert document["possible_hidden"] == {"objects": 1, "bytes": 400}
        properties = json.loads(report.report("sarif", **options))["runs"][0]["properties"]
        assert properties["hiddenByFilters"] == {"objects": 12, "bytes": 840}
        assert properties["possibleHiddenByFilters"] == {"objects": 1, "bytes": 400}

    def test_without_filters_there_is_nothing_to_tell(self) -> None:
        assert "hide" not in told().report()
        assert "hidden" not in told().report("list")


class TestLimits:
    @pytest.mark.parametrize("face", OF_GROUPS)
    def test_a_limit_counts_groups_the_first_ones(self, face: str) -> None:
        shown = READERS[face](told().report(face, limit=2))
        assert shown.leaks == "ac"
        assert shown.possible in ("yx", None)
        assert READERS[face](told().report(face, limit=1)).possible in ("y", None)

    @pytest.mark.parametrize("face", OF_ROWS)
    def test_in_a_face_of_single_leaks_it_counts_these(self, face: str) -> None:
        shown = READERS[face](told().report(face, limit=9))
        assert shown.leaks == "ca"
        assert shown.possible in ("xy", None)

    @pytest.mark.parametrize("face", ["folded", "speedscope"])
    def test_in_a_face_of_stacks_it_counts_these_and_tells_the_rest(self, face: str) -> None:
        text = told().report(face, limit=1)
        assert READERS[face](text).leaks == "a"
        assert "[more stacks]" in text

    def test_in_the_text_it_counts_the_groups_of_each_part(self) -> None:
        assert in_text(told().report(limit=1)) == ("ad", "y")


class TestOrders:
    @pytest.mark.parametrize(
        ("sort", "leaks", "possible"),
        [
            (None, "acbd", "yx"),
            ("bytes", "acbd", "yx"),
            ("count", "cadb", "xy"),
            ("size", "badc", "yx"),
            ("oldest", "cabd", "xy"),
        ],
    )
    def test_groups_come_in_the_order_asked_for(
        self, sort: str | None, leaks: str, possible: str
    ) -> None:
        for face in OF_GROUPS:
            shown = READERS[face](told().report(face, sort=sort))
            assert (face, shown.leaks) == (face, leaks)
            assert shown.possible in (possible, None)
        if sort is not None:
            for face in OF_ROWS:
                shown = READERS[face](told().report(face, sort=sort))
                assert (face, shown.leaks) == (face, leaks)
                assert shown.possible in (possible, None)
        text = in_text(told().report(sort=sort))
        assert text.leaks == leaks.replace("d", "") + "d"  # what is held comes after the heads
        assert text.possible == possible

    def test_in_the_text_heads_come_by_what_would_be_freed_with_them(self) -> None:
        """A list's head is small, and leads to most of what leaks."""
        memory = bytearray(0x400)
        memory[0x100:0x108] = (BASE + 0x200).to_bytes(8, "little")
        image = MemoryImage.from_segments([(BASE, bytes(memory))])
        objects = ObjectTable.from_arrays([BASE, BASE + 0x100, BASE + 0x200], [96, 16, 256])
        result = scan_image(image, objects, Roots())
        report = replace(
            told().of_possible(), leaks=result.leaks, image=image, result=result, provenance=None,
            groups=group_leaks(result.leaks, image, objects),
        )  # fmt: skip
        direct, _, _ = report.report().partition("Indirectly")
        assert direct.index("of 16 bytes") < direct.index("of 96 bytes")
        direct, _, _ = report.report(sort="size").partition("Indirectly")
        assert direct.index("of 96 bytes") < direct.index("of 16 bytes")

    @pytest.mark.parametrize("order", ["allocation", "address", "size", "cluster"])
    def test_single_leaks_come_in_the_order_asked_for(self, order: str) -> None:
        report = told()
        expected = report.leaks["address"][report.leaks.rows_by(order)].tolist()
        lines = report.report("list", order=order).splitlines()
        listed = [int(x.split()[0], 16) for x in lines if x[0] != "#" and " possible " not in x]
        records = re.findall(r"unreferenced object 0x(\w+)", report.report("kmemleak", order=order))
        document = report.to_dict(order=order)
        assert listed == expected
        assert [int(x, 16) for x in records] == expected
        assert [int(leak["address"], 16) for leak in document["leaks"]] == expected


class TestGroups:
    @pytest.mark.parametrize(
        ("by", "groups"),
        [
            ("origin", "acbd"),
            ("trace", "acbd"),
            ("kind", "acbd"),
            ("size", "acbd"),
            ("shape", "acb"),
        ],
    )
    def test_faces_of_groups_have_the_same_ones(self, by: Any, groups: str) -> None:
        report = told().regroup(by)
        document = report.to_dict()
        expected = in_json(json.dumps(document))
        assert expected.leaks == groups
        for face in ("html", "sarif"):
            assert READERS[face](report.report(face)) == expected
        for name, possible in (("groups", False), ("possible_groups", True)):
            members = {group["id"]: group["objects"] for group in document[name]}
            lines = report.report("list").splitlines()
            numbers = [
                int(x.split()[4]) for x in lines if x[0] != "#" and (" possible " in x) is possible
            ]
            assert {number: numbers.count(number) for number in numbers} == members
            table = report.to_arrow(name).to_pandas()
            assert dict(zip(table["group"], table["objects"], strict=True)) == members
        # A line of the text that begins a group tells what it comes to.
        heads = re.findall(r"(?m)^  (\d+) objects?\b", report.report())
        assert sum(map(int, heads)) == len(report.leaks) + len(report.possible)


class TestRedaction:
    #: Of our faces, those that show content.
    @pytest.mark.parametrize("face", ["text", "json", "html", "kmemleak"])
    def test_content_is_shown_of_leaks_and_of_what_is_possibly_lost(self, face: str) -> None:
        report = told()
        seen = report.report(face, hex_bytes=64)
        redacted = report.report(face, hex_bytes=64, redact=True)
        assert len(redacted) < len(seen)

    @pytest.mark.parametrize("face", renderer_names())
    def test_no_shape_tells_of_data(self, face: str) -> None:
        shown = told().regroup("shape").report(face, redact=True)
        assert not re.search(r"[\[·]text\b", shown)
        assert "top secret" not in shown


class TestTables:
    def test_possibly_lost_objects_and_groups_are_tables_beside_the_leaks(self) -> None:
        report = told()
        found = report.to_arrow("possible").to_pandas()
        assert found["address"].tolist() == report.possible["address"].tolist()
        assert list(map(by_address, found["address"])) == list("xxxxy")
        assert found["type"].tolist() == ["Alpha"] * 4 + ["Beta"]
        assert all("made_by_" in text for text in found["backtrace"])
        assert found.columns.tolist() == report.to_arrow("leaks").to_pandas().columns.tolist()
        groups = report.to_arrow("possible_groups").to_pandas()
        assert groups["bytes"].tolist() == [group.nbytes for group in report.possible_groups]

    def test_where_it_is_not_told_apart_they_are_empty(self, tmp_path: Path) -> None:
        files = told().of_possible().export(tmp_path, ["possible", "possible_groups"])
        for path in files.values():
            assert len(pd.read_parquet(path)) == 0
