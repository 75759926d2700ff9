"""What is possibly lost: which objects, which ones heuristics explain, where a report shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import kmemleak_core as km
from kmemleak_core.cli import main
from kmemleak_core.leaks import Loss
from kmemleak_core.options import HEURISTICS
from kmemleak_core.report.json import schema

BASE = 0x20000
#: A file's mappings: code, and constants with two tables of functions in them.
CODE, CONSTANTS, DATA = 0x400000, 0x500000, 0x600000
VTABLE, INNER = CONSTANTS + 0x10, CONSTANTS + 0x50


@dataclass
class Heap:
    """Objects of 64 bytes at BASE, BASE + 0x100, …, whose words are put in one by one."""

    word: int = 8
    order: str = "little"
    size: int = 64
    objects: int = 0
    words: dict[int, int] = field(default_factory=dict)
    roots: list[int] = field(default_factory=list)

    def new(self, *words: int, root: int | None = None) -> int:
        """Add an object with these first words; `root`: a root refers to it, so far from its start.

        Returns its address.
        """
        address = BASE + 0x100 * self.objects
        self.objects += 1
        for i, value in enumerate(words):
            self.words[address + self.word * i] = value
        if root is not None:
            self.roots.append(address + root)
        return address

    def image(self) -> km.MemoryImage:
        memory = bytearray(0x100 * max(1, self.objects))
        for at, value in self.words.items():
            memory[at - BASE : at - BASE + self.word] = self._raw(value)
        constants = bytearray(0x80)
        for table in (VTABLE, INNER):
            for slot in (0, 1):
                at = table - CONSTANTS + self.word * slot
                constants[at : at + self.word] = self._raw(CODE + 0x10)
        data = np.frombuffer(bytes(constants), np.uint8)
        return km.MemoryImage(
            [
                km.Segment(BASE, np.frombuffer(bytes(memory), np.uint8)),
                km.Segment(CONSTANTS, data, "r--", "file", "program"),
                km.Segment(DATA, data, "rw-", "file", "program"),
            ],
            holes=[km.Hole(CODE, 0x1000, "not-dumped", "r-x", "file", "program")],
            word_size=self.word,
            byteorder=self.order,  # type: ignore[arg-type]
        )

    def scan(self, *heuristics: str, **how: Any) -> km.ScanResult:
        places = [BASE + 0x100 * i for i in range(self.objects)]
        options = km.ScanOptions(
            possible=True,
            heuristics=frozenset(heuristics),
            end_pointers=how.pop("end_pointers", False),
        )
        return km.scan_image(
            self.image(),
            km.ObjectTable.from_arrays(places, [self.size] * self.objects, **how.pop("table", {})),
            km.Roots.from_ranges(words=self.roots),
            options=options,
            **how,
        )

    def possible(self, *heuristics: str, **how: Any) -> list[int]:
        """Return the numbers of the objects that are possibly lost."""
        result = self.scan(*heuristics, **how)
        assert result.possible_rows is not None
        low = self.scan(*heuristics, **how, low_memory=True)
        assert low.possible_rows is not None
        assert low.possible_rows.tolist() == result.possible_rows.tolist()
        return result.possible_rows.tolist()

    def _raw(self, value: int) -> bytes:
        return value.to_bytes(self.word, self.order)  # type: ignore[arg-type]


class TestWhatIs:
    def test_a_pointer_to_the_start_keeps_an_object_one_into_it_only_possibly(self) -> None:
        heap = Heap()
        heap.new(root=0)
        heap.new(root=8)
        assert heap.possible() == [1]

    def test_what_such_an_object_refers_to_is_as_unsure(self) -> None:
        heap = Heap()
        inner = heap.new()
        heap.new(inner, root=16)
        assert heap.possible() == [0, 1]

    def test_a_better_way_to_an_object_counts(self) -> None:
        heap = Heap()
        shared = heap.new(root=0)
        heap.new(shared, root=16)
        assert heap.possible() == [1]

    def test_a_pointer_past_the_end_is_no_start_either(self) -> None:
        heap = Heap()
        heap.new(root=64)
        assert heap.possible(end_pointers=True) == [0]
        result = heap.scan(end_pointers=True)
        assert result.possible["held"].tolist() == [4]

    def test_an_object_does_not_hold_itself(self) -> None:
        heap = Heap()
        address = heap.new(BASE, root=8)
        assert address == BASE
        assert heap.possible() == [0]

    def test_nor_does_its_cycle(self) -> None:
        heap = Heap()
        heap.new(BASE + 0x100, root=8)
        heap.new(BASE)
        assert heap.possible() == [0, 1]
        table = heap.scan().possible
        # Of the cycle, it is the one that the pointer leads to which stands for both.
        assert table["direct"].tolist() == [True, False]
        assert table["head"].tolist() == [0, 0]

    def test_what_is_lost_is_not_possibly_lost(self) -> None:
        heap = Heap()
        held = heap.new()
        heap.new(held + 8)
        result = heap.scan()
        assert result.loss.tolist() == [Loss.INDIRECT, Loss.DEFINITE]

    def test_every_object_has_one_of_four_kinds(self) -> None:
        heap = Heap()
        heap.new(root=0)
        heap.new(root=8)
        heap.new()
        heap.new(BASE + 0x400)
        heap.new()
        kinds = [Loss.REACHABLE, Loss.POSSIBLE, Loss.DEFINITE, Loss.DEFINITE, Loss.INDIRECT]
        assert heap.scan().loss.tolist() == kinds

    def test_of_several_references_that_are_wanted_all_have_to_be_to_the_start(self) -> None:
        heap = Heap()
        for second in (0, 8):
            address = heap.new(root=0)
            heap.roots.append(address + second)
        assert heap.possible(table={"min_count": [2, 2]}) == [1]

    def test_what_nobody_has_to_hold_is_a_root(self) -> None:
        heap = Heap()
        inner = heap.new()
        heap.new(inner, root=8)
        assert heap.possible(table={"min_count": [1, 0]}) == []

    def test_without_pointers_into_objects_nothing_is_possible(self) -> None:
        heap = Heap()
        heap.new(root=8)
        options = km.ScanOptions(interior=False, possible=True)
        result = km.scan_image(
            heap.image(),
            km.ObjectTable.from_arrays([BASE], [64]),
            km.Roots.from_ranges(words=heap.roots),
            options=options,
        )
        assert result.loss.tolist() == [Loss.DEFINITE]

    def test_unless_it_is_asked_for_nothing_is_told(self) -> None:
        heap = Heap()
        heap.new(root=8)
        table = km.ObjectTable.from_arrays([BASE], [64])
        result = km.scan_image(heap.image(), table, km.Roots.from_ranges(words=heap.roots))
        assert result.possible_rows is None
        assert len(result.possible) == 0

    def test_a_leak_says_what_it_is(self) -> None:
        heap = Heap()
        heap.new(root=8)
        heap.new()
        result = heap.scan()
        assert repr(result.possible[0]) == "<Leak 0x20000 size 64 possible>"
        assert repr(result.leaks[0]) == "<Leak 0x20100 size 64 direct>"
        assert "possible" in result.possible._repr_html_()


@pytest.fixture(params=[(8, "little"), (8, "big"), (4, "little"), (4, "big")], ids=str)
def heap(request: pytest.FixtureRequest) -> Heap:
    return Heap(*request.param)


class TestHeuristics:
    """Each object is held by a pointer into its middle that one of the rules explains."""

    def cases(self, heap: Heap) -> dict[str, int]:
        """Make an object for each heuristic; return their numbers."""
        made = {}
        made["stdstring"] = heap.objects
        heap.new(5, 38 if heap.word == 8 else 50, 0, root=3 * heap.word)
        made["length64"] = heap.objects
        length = (48,) if heap.word == 8 else ((48, 0) if heap.order == "little" else (0, 48))
        heap.new(*length, root=8)
        made["newarray"] = heap.objects
        heap.new(2 if heap.word == 8 else 20, root=heap.word)
        made["multipleinheritance"] = heap.objects
        heap.new(VTABLE, 0, INNER, root=2 * heap.word)
        return made

    def test_each_explains_its_own(self, heap: Heap) -> None:
        made = self.cases(heap)
        assert heap.possible() == list(range(4))
        for name in ("stdstring", "multipleinheritance"):
            assert heap.possible(name) == [row for row in range(4) if row != made[name]]
        for name in ("length64", "newarray"):
            assert made[name] not in heap.possible(name)
        assert heap.possible(*HEURISTICS) == []

    def test_what_an_explained_object_holds_comes_along(self, heap: Heap) -> None:
        inner = heap.new()
        second = heap.new(VTABLE, 0, INNER, inner)
        # Held from an object that is explained itself.
        heap.new(VTABLE, 0, INNER, second + 2 * heap.word, root=2 * heap.word)
        assert heap.possible("multipleinheritance") == []
        assert heap.possible() == [0, 1, 2]

    def test_an_explained_pointer_in_what_is_possibly_lost_explains_nothing(
        self, heap: Heap
    ) -> None:
        second = heap.new(VTABLE, 0, INNER)
        heap.new(second + 2 * heap.word, root=4)
        assert heap.possible(*HEURISTICS) == [0, 1]

    def test_how_many_each_explained_is_counted(self, heap: Heap) -> None:
        self.cases(heap)
        counters = heap.scan("stdstring", "multipleinheritance").counters
        assert counters["stdstring_objects"] == counters["multipleinheritance_objects"] == 1
        assert "newarray_objects" not in counters

    @pytest.mark.parametrize(
        ("words", "root"),
        [
            ((39, 38, 0), 24),  # longer than its capacity
            ((5, 7, 0), 24),  # the block is too large for that
            ((5, 400, 0), 24),  # too small
            ((5, 1 << 63, 0), 24),
            ((5, (1 << 64) - 1, 0), 24),
            ((5, 38, 0), 32),  # not the first character
        ],
    )
    def test_what_is_no_string(self, words: tuple[int, ...], root: int) -> None:
        heap = Heap()
        heap.new(*words, root=root)
        assert heap.possible("stdstring") == [0]

    @pytest.mark.parametrize("words", [(0,), (20,), (57,), (1 << 63,), ((1 << 64) - 4,)])
    def test_what_is_no_length(self, words: tuple[int, ...]) -> None:
        heap = Heap()
        heap.new(*words, root=8)
        assert heap.possible("length64") == [0]

    @pytest.mark.parametrize("number", [0, 57, 1 << 63, (1 << 64) - 1])
    def test_what_is_no_number_of_elements(self, number: int) -> None:
        heap = Heap()
        heap.new(number, root=8)
        assert heap.possible("newarray") == [0]

    def test_elements_that_leave_too_much_over_are_none(self) -> None:
        heap = Heap(size=248)
        heap.new(100, root=8)  # 2 bytes each leave 40 over
        heap.new(110, root=8)  # 2 bytes each leave 20
        assert heap.possible("newarray") == [0]

    @pytest.mark.parametrize(
        ("words", "root"),
        [
            ((VTABLE, 0, 0), 16),  # nothing at the pointer
            ((0, 0, INNER), 16),  # nothing at the start
            ((VTABLE, 0, INNER), 8),  # not where the pointer points
            ((VTABLE, 0, INNER), 17),  # not aligned
            ((VTABLE, 0, INNER + 1), 16),
            ((VTABLE, 0, DATA + 0x10), 16),  # written to: no table of functions
            ((VTABLE, 0, CONSTANTS + 0x20), 16),  # functions before it, but not in it
            ((VTABLE, 0, CODE), 16),  # a function
            ((VTABLE, 0, 1), 16),
            ((VTABLE, 0, (1 << 64) - 8), 16),
        ],
    )
    def test_what_is_no_base_class(self, words: tuple[int, ...], root: int) -> None:
        heap = Heap()
        heap.new(*words, root=root)
        assert heap.possible("multipleinheritance") == [0]

    def test_objects_without_words_are_told_as_they_are(self) -> None:
        heap = Heap(size=2)
        heap.new(root=1)
        assert heap.possible(*HEURISTICS) == [0]

    def test_scan_areas_tell_where_a_holder_is_read(self) -> None:
        heap = Heap()
        held = heap.new(VTABLE, 0, INNER)
        other = heap.new(VTABLE, 0, INNER)
        holder = heap.new(held + 16, other + 16, root=0)
        table = {"scan_areas": [(holder, holder, 8), (held, held, 8)]}
        result = heap.scan("multipleinheritance", table=table)
        assert result.loss.tolist() == [Loss.REACHABLE, Loss.DEFINITE, Loss.REACHABLE]

    def test_a_chain_of_a_hundred_thousand_is_no_matter(self) -> None:
        """Each block begins with its length, and is referred to behind it."""
        n = 100_000
        words = np.zeros((n, 8), np.uint64)
        words[:, 0] = 56
        address = np.uint64(BASE) + np.arange(n, dtype=np.uint64) * np.uint64(64)
        words[:-1, 2] = address[1:] + np.uint64(8)
        result = km.scan_image(
            km.MemoryImage.from_segments([(BASE, words)]),
            km.ObjectTable.from_arrays(address, np.full(n, 64)),
            km.Roots.from_ranges(words=[BASE + 8]),
            options=km.ScanOptions(possible=True),
        )
        assert result.possible_rows is not None
        assert result.possible_rows.size == 0
        assert result.counters["length64_objects"] == n

    def test_unknown_names_are_refused(self) -> None:
        with pytest.raises(km.UsageError, match="no heuristic called 'luck'"):
            km.ScanOptions(heuristics=frozenset({"luck"}))
        with pytest.raises(km.UsageError, match="luck"):
            km.AnalyseOptions(heuristics=frozenset({"luck"}))


@pytest.fixture
def raw(tmp_path: Path) -> km.RawSource:
    """Plain memory: 2 leaks, one of which leads to the other, and 4 objects possibly lost."""
    heap = Heap()
    heap.new(root=0)
    leaked = heap.new()
    heap.new(leaked)
    tail = heap.new()
    for _ in range(2):
        heap.new(tail, 7, root=12)
    heap.new(9, 9, 9, 9, root=48)
    image = heap.image()
    (tmp_path / "ram").write_bytes(image.segments[0].data.tobytes())
    last = heap.objects - 1
    lines = [f"{BASE + 0x100 * i:#x},{48 if i == last else 64}" for i in range(heap.objects)]
    (tmp_path / "objects.csv").write_text("\n".join(["address,size", *lines]) + "\n")
    lines = [f"word,{value:#x}" for value in heap.roots]
    (tmp_path / "roots.csv").write_text("\n".join(["type,value", *lines]) + "\n")
    return km.RawSource(
        (f"{BASE:#x}:{tmp_path / 'ram'}",), tmp_path / "objects.csv", tmp_path / "roots.csv"
    )


@pytest.fixture
def report(raw: km.RawSource) -> km.Report:
    return km.scan(raw, end_pointers=True)


@pytest.fixture
def arguments(raw: km.RawSource) -> list[str]:
    return [
        "scan",
        "--memory",
        raw.memory[0],
        "--objects",
        str(raw.objects),
        "--roots",
        str(raw.roots),
        "--end-pointers",
        "yes",
    ]


class TestReport:
    def test_the_summary_has_it_beside_the_leaks(self, report: km.Report) -> None:
        s = report.summary
        assert (s.direct_objects, s.indirect_objects, s.possible_objects) == (1, 1, 4)
        assert (s.possible_bytes, s.leaked_bytes) == (240, 128)
        # It is reachable, after all.
        assert s.reachable_objects == 5

    def test_the_text_has_a_section_of_its_own_with_the_reason(self, report: km.Report) -> None:
        text = report.report(width=100)
        assert "; 4 possibly lost (240 B)" in " ".join(text.split())
        leaks, possible = text.split("Possibly lost: only pointers into their middle or past")
        assert "only pointers" not in leaks
        assert "only pointers into the middle hold them" in possible
        assert "only pointers past the end hold it" in possible
        assert "lead to 1 more object, 64 B, that nothing else leads to" in possible

    def test_the_list_has_it_after_the_leaks(self, report: km.Report) -> None:
        lines = [x.split() for x in report.report("list").splitlines() if x[0] != "#"]
        kinds = [line[2] for line in lines]
        assert sorted(kinds[:2]) == ["direct", "indirect"]
        assert kinds[2:] == ["possible"] * 4
        tail = next(line for line in lines if int(line[0], 16) == BASE + 0x300)
        assert tail[2] == "possible"
        assert int(tail[5], 16) in (BASE + 0x400, BASE + 0x500)

    def test_the_json_follows_its_schema(self, report: km.Report) -> None:
        document = report.to_dict()
        jsonschema.validate(json.loads(json.dumps(document)), schema())
        assert json.loads(report.report("json")) == json.loads(json.dumps(document))
        assert (len(document["leaks"]), len(document["possible"])) == (2, 4)
        assert sum(group["objects"] for group in document["possible_groups"]) == 4
        pointers = {p["address"]: p["pointers"] for p in document["possible"]}
        assert pointers[hex(BASE + 0x400)] == ["interior"]
        assert pointers[hex(BASE + 0x600)] == ["end"]
        assert document["summary"]["possible_objects"] == 4
        assert document["options"]["possible"] is True

    def test_the_limit_holds_for_it_too(self, report: km.Report) -> None:
        document = report.to_dict(limit=1)
        jsonschema.validate(json.loads(json.dumps(document)), schema())
        assert len(document["possible"]) == 1
        assert document["possible_left_out"] == 3
        assert len(document["possible_groups"]) == 1
        assert document["possible_groups_left_out"] > 0
        assert "# 3 more possible" in report.report("list", limit=1)
        assert "more group" in report.report(limit=1).split("Possibly lost")[1]

    def test_filters_hold_for_it_too(self, report: km.Report) -> None:
        document = report.to_dict(min_size=65)
        assert document["possible"] == document["possible_groups"] == []
        assert "Possibly lost:" not in report.report(min_size=65)

    def test_redacted_it_shows_nothing_of_the_memory(self, report: km.Report) -> None:
        text = report.report("json", redact=True)
        assert "content" not in text
        assert "int" not in {g["shape"] for g in json.loads(text)["possible_groups"]}

    def test_suppressions_take_it_out_with_what_it_leads_to(self, report: km.Report) -> None:
        left = report.suppress(km.Suppressions.parse(f"addr:{BASE + 0x400:#x}"))
        assert left.possible["address"].tolist() == [BASE + 0x500, BASE + 0x600]
        assert left.summary.possible_objects == 2
        assert left.summary.suppressed_objects == 0
        assert left.suppressions[0].possible == 2
        assert "was not used" not in left.report()
        assert sum(group.count for group in left.possible_groups) == 2
        jsonschema.validate(json.loads(left.report("json")), schema())

    def test_other_groups_are_made_of_it_as_well(self, report: km.Report) -> None:
        groups = report.regroup("size").possible_groups
        assert [group.count for group in groups] == [3, 1]

    def test_a_baseline_knows_nothing_of_it(self, report: km.Report) -> None:
        same = report.against(report.baseline())
        assert same.counted().objects == 0
        assert same.counted().possible_objects == 4
        assert "Possibly lost" in same.report()

    def test_what_is_not_told_apart_is_told_to_be_so(self, raw: km.RawSource) -> None:
        report = km.scan(raw, end_pointers=True, possible=False)
        assert report.summary.possible_objects is None
        assert report.to_dict()["summary"]["possible_objects"] is None
        jsonschema.validate(json.loads(report.report("json")), schema())
        assert "possibly" not in report.report()

    def test_little_memory_tells_the_same(self, raw: km.RawSource, report: km.Report) -> None:
        low = km.scan(raw, end_pointers=True, low_memory=True)
        assert low.possible.array.tolist() == report.possible.array.tolist()


class TestCommand:
    @pytest.mark.parametrize(
        ("gates", "code"),
        [
            (["possible"], 1),
            (["possible:4"], 1),
            (["possible:5"], 0),
            (["possible:240B"], 1),
            (["possible:241B"], 0),
            (["definite"], 1),
            (["definite:2"], 0),
            (["any:3"], 0),  # what is possibly lost is none of them
            (["any:3", "possible:1"], 1),
        ],
    )
    def test_a_gate_counts_it_apart(
        self, gates: list[str], code: int, arguments: list[str]
    ) -> None:
        options = [f"--fail-on={gate}" for gate in gates]
        assert main([*arguments, "-q", *options]) == code

    def test_what_is_possibly_lost_alone_fails_nothing(
        self, arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        known = tmp_path / "known"
        known.write_text(f"addr:{BASE + 0x200:#x}\n")
        assert main([*arguments, "--suppressions", str(known)]) == 0
        assert "4 possibly lost" in capsys.readouterr().out

    def test_a_filter_lets_a_gate_count_less(self, arguments: list[str]) -> None:
        assert main([*arguments, "-q", "--min-size=65", "--fail-on=possible"]) == 0

    def test_a_gate_on_what_is_not_told_is_refused(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*arguments, "-q", "--no-possible", "--fail-on=possible"]) == 2
        assert "does not tell what is possibly lost" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("chosen", "possible"), [("none", 4), ("all", 4), ("stdstring,newarray", 4)]
    )
    def test_heuristics_can_be_chosen(
        self,
        chosen: str,
        possible: int,
        arguments: list[str],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        assert main([*arguments, "--json", "--heuristics", chosen]) == 1
        document = json.loads(capsys.readouterr().out)
        assert document["summary"]["possible_objects"] == possible
        names = {"none": [], "all": sorted(HEURISTICS)}.get(chosen, chosen.split(","))
        assert document["options"]["heuristics"] == sorted(names)

    def test_an_unknown_heuristic_is_refused(
        self, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*arguments, "--heuristics", "luck"]) == 2
        assert "multipleinheritance" in capsys.readouterr().err
