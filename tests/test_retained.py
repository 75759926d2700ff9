"""Retained sizes: of scans with known graphs, of programs that know what they hold, on the command
line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import kmemleak_core as km
from kmemleak_core.cli import main
from kmemleak_core.dumps.capture import capture
from kmemleak_core.provenance import Provenance
from kmemleak_core.report.retained_json import SCHEMA_VERSION, retained_schema, retained_to_dict
from kmemleak_core.who.root_parts import images_as_roots

from .builders.programs import compile_c, running

BASE = 0x10000
STEP = 0x100


def a_scan(
    refers: dict[int, list[int]],
    ranges: dict[str, list[int]],
    words: dict[str, int] | None = None,
    **columns: object,
) -> km.ScanResult:
    """Scan objects of 16, 32, 48, … bytes that refer to each other, and root ranges likewise."""
    n = 1 + max([*refers, *(t for some in (*refers.values(), *ranges.values()) for t in some)])
    memory = np.zeros(0x4000 // 8, np.uint64)
    size = 16 * (np.arange(n) + 1)
    for row, targets in refers.items():
        for i, target in enumerate(targets):
            memory[row * STEP // 8 + i] = BASE + STEP * target
    roots = []
    for i, (name, targets) in enumerate(ranges.items()):
        at = 0x2000 + STEP * i
        memory[at // 8 : at // 8 + len(targets)] = [BASE + STEP * t for t in targets]
        roots.append((BASE + at, STEP, "data", name.split("#")[0]))
    image = km.MemoryImage.from_segments([(BASE, memory)])
    objects = km.ObjectTable.from_arrays(BASE + STEP * np.arange(n), size, **columns)
    registers = [(BASE + STEP * row, "registers", name) for name, row in (words or {}).items()]
    return km.scan_image(image, objects, km.Roots.from_ranges(roots, registers))


def by_name(holders: list[km.Holder]) -> dict[str, tuple[int, int]]:
    return {h.name: (h.nbytes, h.count) for h in holders}


class TestKnownGraphs:
    def test_a_tree_is_retained_by_its_root(self) -> None:
        found = km.retained(a_scan({0: [1, 2], 1: [3]}, {"lib": [0]}))
        assert found.count[:4].tolist() == [4, 2, 1, 1]
        assert found.nbytes[:4].tolist() == [16 + 32 + 48 + 64, 32 + 64, 48, 64]
        assert found.idom[:4].tolist() == [4, 0, 0, 1]

    def test_a_shared_child_is_retained_by_what_both_parents_hang_on(self) -> None:
        found = km.retained(a_scan({0: [1, 2], 1: [3], 2: [3]}, {"lib": [0]}))
        assert found.idom[:4].tolist() == [4, 0, 0, 0]
        assert found.count[:4].tolist() == [4, 1, 1, 1]

    def test_a_cycle_is_retained_by_where_it_is_entered(self) -> None:
        found = km.retained(a_scan({0: [1], 1: [2], 2: [0]}, {"lib": [1]}))
        assert found.idom[:3].tolist() == [2, 3, 1]
        assert found.count[:3].tolist() == [1, 3, 2]

    def test_two_ranges_of_one_name_hold_together_what_neither_holds_alone(self) -> None:
        found = km.retained(a_scan({}, {"lib#1": [0, 1], "lib#2": [1], "other": [2]}))
        assert by_name(found.top(0, "module")) == {"lib": (48, 2), "other": (48, 1)}
        assert by_name(found.top(0, "root")) == {"lib": (16, 1), "other": (48, 1)}
        assert found.shared == (0, 0)

    def test_what_two_modules_hold_is_retained_by_neither(self) -> None:
        found = km.retained(a_scan({0: [1]}, {"lib": [0], "other": [0]}))
        assert found.top(0, "module") == []
        assert found.shared == (48, 2)
        (top,) = found.top()
        above = found.dominator(top)
        assert (top.address, top.count) == (BASE, 2)
        assert above is not None
        assert above.kind == "several"

    def test_a_register_is_a_root(self) -> None:
        found = km.retained(a_scan({0: [1]}, {"lib": [2]}, {"r12 of thread 7": 0}))
        assert by_name(found.top(0, "root")) == {"r12 of thread 7": (48, 2), "lib": (48, 1)}
        assert by_name(found.top(0, "module")) == {"registers": (48, 2), "lib": (48, 1)}

    def test_leaks_are_retained_by_nobody_and_hold_nothing(self) -> None:
        # 1 leaks and refers to 2, which the root alone keeps reachable.
        found = km.retained(a_scan({0: [2], 1: [2]}, {"lib": [0]}))
        assert found.count[:3].tolist() == [2, 0, 1]
        assert found.idom[:3].tolist() == [3, 2**32 - 1, 0]
        assert found.everything.count == 2

    def test_objects_that_are_roots_themselves_have_a_root(self) -> None:
        found = km.retained(
            a_scan({0: [1], 2: [3]}, {"lib": [2]}, min_count=np.array([0, 1, 1, 1], np.int32))
        )
        assert by_name(found.top(0, "module")) == {
            "lib": (48 + 64, 2),
            "objects that are roots themselves": (16 + 32, 2),
        }

    def test_what_a_known_change_has_made_gray_is_retained_by_itself(self) -> None:
        result = a_scan({0: [1], 1: [2], 2: [1]}, {"lib": [3]})
        modified = np.array([True, False, False, False])
        again = km.scan_image(result.image, result.objects, result.roots, modified=modified)
        found = km.retained(again)
        assert found.count[:4].tolist() == [3, 2, 1, 1]

    def test_black_objects_hold_nothing(self) -> None:
        found = km.retained(
            a_scan({0: [1], 2: [1]}, {"lib": [0, 2]}, min_count=np.array([-1, 1, 1], np.int32))
        )
        assert found.count[:3].tolist() == [0, 1, 2]

    def test_an_object_s_dominators_lead_up_to_all_roots(self) -> None:
        found = km.retained(a_scan({0: [1]}, {"lib": [0]}))
        chain = [(h.kind, h.name) for h in found.dominators(BASE + STEP + 8)]
        assert chain == [
            ("object", f"object {BASE + STEP:#x}"),
            ("object", f"object {BASE:#x}"),
            ("root", "lib"),
            ("module", "lib"),
            ("several", "several roots"),
        ]
        with pytest.raises(km.FaultError):
            list(found.dominators(1))

    def test_a_type_retains_what_its_outermost_objects_do(self) -> None:
        # 0 → 1 → 2 → 3 and 4: of a, b, a, c and a.
        result = a_scan({0: [1], 1: [2], 2: [3]}, {"lib": [0, 4]})
        origins = Provenance(kind=np.array([0, 1, 0, 2, 0], np.int32), kinds=["a", "b", "c", "d"])
        found = km.retained(result, kinds=lambda: origins)
        size = result.objects.size
        told = {h.name: (h.size, h.nbytes, h.count) for h in found.top(0, "type")}
        assert told == {
            "a": (size[[0, 2, 4]].sum(), size.sum(), 5),
            "b": (size[1], size[1:4].sum(), 3),
            "c": (size[3], size[3], 1),
        }
        assert [h.name for h in found.top(1, "type")] == ["a"]
        assert found.totals("type") == (3, 9, size.sum() + size[1:4].sum() + size[3])
        (first, *_) = found.top(1, "type")
        assert [h.node for h in found.held(first)] == [0, 4]
        assert found.dominator(first) is None

    def test_what_only_black_and_leaked_objects_are_is_no_type_that_retains(self) -> None:
        wanted = np.array([1, 1, 1, -1], np.int32)
        result = a_scan({0: [1], 2: [1], 3: []}, {"lib": [0]}, min_count=wanted)
        kinds = Provenance(kind=np.array([-1, 0, 1, 1], np.int32), kinds=["a", "b"])
        assert [h.name for h in km.retained(result, kinds=lambda: kinds).top(0, "type")] == ["a"]
        assert km.retained(result).top(0, "type") == []

    def test_an_image_s_memory_is_a_root_that_nothing_else_holds(self) -> None:
        # 0 is the memory of variables: what refers to it does not hold what these do.
        result = a_scan({0: [1], 2: [0]}, {"lib": [0, 2]})
        kinds = Provenance(kind=np.array([0, -1, -1], np.int32), kinds=[".data"], images=(0,))
        found = km.retained(images_as_roots(result, kinds))
        assert by_name(found.top(0, "module")) == {".data": (32, 1), "lib": (48, 1)}
        assert found.count[0] == 0
        assert by_name(km.retained(result).top(0, "module")) == {"lib": (96, 3)}

    def test_top_is_cut_by_size_then_by_address(self) -> None:
        found = km.retained(a_scan({0: [2]}, {"lib": [0, 1, 3]}))  # 64, 32, 64
        assert [h.node for h in found.top(1)] == [0]
        assert [h.node for h in found.top(2)] == [0, 3]
        assert [h.node for h in found.top(0)] == [0, 3, 1]
        assert [h.node for h in found.held(found.top(1)[0])] == [2]
        with pytest.raises(km.UsageError, match="module"):
            found.top(1, "several")

    def test_a_scan_without_references_says_so(self) -> None:
        result = a_scan({0: [1]}, {"lib": [0]})
        bare = km.scan_image(result.image, result.objects, result.roots, low_memory=True)
        with pytest.raises(km.UsageError, match="little memory"):
            km.retained(bare)

    def test_nothing_retains_nothing(self) -> None:
        image = km.MemoryImage.from_segments([(BASE, bytes(64))])
        found = km.retained(km.scan_image(image, km.ObjectTable.from_arrays([], []), km.Roots()))
        assert found.top(0) == found.top(0, "root") == found.top(0, "module") == []
        assert found.everything.count == 0

    def test_a_notebook_shows_the_largest(self) -> None:
        found = km.retained(a_scan({0: [1]}, {"<lib>": [0]}))
        assert repr(found) == "<Retained 2 objects, 48 bytes in 1 modules>"
        assert f"<td>object {BASE:#x}</td><td>16</td><td>48</td><td>2</td>" in found._repr_html_()


#: Prints what it has made: a name, an address, and how many blocks hang on it alone.
PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
struct node { struct node *a, *b; char content[1000]; };
static struct node *make(struct node *a, struct node *b) {
    struct node *made = calloc(1, sizeof *made);
    made->a = a; made->b = b;
    return made;
}
static struct node *tree(int depth) {
    return depth ? make(tree(depth - 1), tree(depth - 1)) : make(NULL, NULL);
}
struct node *volatile cache[4] = {(void *)1};
/* Of so many pages that no page of .data holds its middle. */
struct node *volatile large[40000];
static void __attribute__((noinline)) say(const char *name, struct node *made, int blocks) {
    char line[99];
    int n = snprintf(line, sizeof line, "%s %lx %d\n", name, (unsigned long)made, blocks);
    if (write(1, line, n) != n) _exit(3);
}
static void __attribute__((noinline)) fill(void) {
    struct node *made = tree(5);
    say("tree", made, 63);
    cache[0] = made;
    struct node *list = NULL, *shared = make(NULL, NULL);
    for (int i = 0; i < 40; i++) list = make(list, NULL);
    say("list", list, 40);
    cache[1] = list;
    struct node *left = make(shared, NULL), *right = make(shared, NULL);
    made = make(left, right);
    say("diamond", made, 4); say("left", left, 1); say("right", right, 1); say("shared", shared, 1);
    cache[2] = made;
    struct node *last = make(NULL, NULL), *middle = make(last, NULL), *first = make(middle, NULL);
    last->a = first;
    say("cycle", first, 3); say("middle", middle, 2); say("last", last, 1);
    cache[3] = first;
    made = make(make(NULL, NULL), NULL);
    say("bss", made, 2);
    large[20000] = made;
}
static void __attribute__((noinline)) scrub(void) {
    char space[32768];
    memset(space, 0, sizeof space);
    __asm__ volatile("" :: "r"(space) : "memory");
}
int main(void) {
    fill();
    scrub();
    if (write(1, "ready\n", 6) != 6) return 3;
    scrub();
    for (;;) pause();
}
"""


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[int, int]]]:
    """A core of the program, and what it said of itself: address and number of blocks by name."""
    folder = tmp_path_factory.mktemp("retained")
    program = compile_c(folder, "holds", PROGRAM)
    said = {}
    with running(program) as process:
        assert process.stdout is not None
        # `running` has read the first line, that of the tree: its address is the cache's first.
        for line in iter(process.stdout.readline, b"ready\n"):
            name, address, blocks = line.decode().split()
            said[name] = int(address, 16), int(blocks)
        capture(process.pid, folder / "core")
    return folder / "core", said


class TestPrograms:
    def test_each_retains_what_the_program_says(self, known: tuple[Path, dict]) -> None:
        core, said = known
        found = km.scan(core).retained
        assert len(said) == 9
        size = 0x3F8  # 1016 bytes, and what malloc gives beyond
        for address, blocks in said.values():
            holder = next(found.dominators(address))
            assert (holder.address, holder.count) == (address, blocks)
            assert blocks * size <= holder.nbytes < blocks * (size + 16)

    def test_the_cache_is_held_by_the_program_s_globals(self, known: tuple[Path, dict]) -> None:
        core, said = known
        found = km.scan(core).retained
        (module,) = [h for h in found.top(0, "module") if h.name.endswith("/holds")]
        assert module.count >= 63 + 40 + 4 + 3 + 2
        (first,) = found.top(1)
        assert first.count == 63
        for address, _ in said.values():
            names = [h.name for h in found.dominators(address) if h.kind == "module"]
            assert names == [module.name]

    def test_each_variable_holds_what_the_program_says(self, known: tuple[Path, dict]) -> None:
        core, _ = known
        found = km.scan(core).retained_by_variable
        told = {h.name: h for h in found.top(0, "root")}
        assert told["cache of holds"].count == 63 + 40 + 4 + 3
        assert told["cache of holds"].size == 4 * 8
        assert told["large of holds"].count == 2
        # All of them together hold what the whole ranges do.
        whole = km.scan(core).retained
        assert by_name(found.top(0, "module")) == by_name(whole.top(0, "module"))
        assert found.everything.count == whole.everything.count

    def test_without_symbols_whole_ranges_are_told(self, known: tuple[Path, dict]) -> None:
        core, _ = known
        report = replace(km.scan(core), variable_at=lambda address: None)
        cut, whole = report.retained_by_variable, report.retained
        assert by_name(cut.top(0, "root")) == by_name(whole.top(0, "root"))


class TestCommand:
    def test_it_tells_who_holds_most(self, known: tuple[Path, dict], capsys) -> None:
        core, said = known
        assert main(["retained", "--depth", "1", str(core)]) == 0
        out = capsys.readouterr().out
        assert "reachable; " in out
        lines = out.splitlines()
        first = next(i for i, line in enumerate(lines) if "object 0x" in line)
        assert lines[first].split()[2] == "63"
        assert "held by" in lines[first]
        assert [line.split()[2] for line in lines[first + 1 : first + 3]] == ["31", "31"]
        assert any(f"{said['list'][0]:#x}" in line for line in lines)

    @pytest.mark.parametrize("by", ["object", "variable", "root", "module"])
    def test_json_fits_its_schema(self, known: tuple[Path, dict], capsys, by: str) -> None:
        core, _ = known
        assert main(["retained", "--json", "--by", by, "--limit", "3", str(core)]) == 0
        document = json.loads(capsys.readouterr().out)
        jsonschema.validate(document, retained_schema())
        assert document["version"] == SCHEMA_VERSION
        assert document["by"] == by
        assert 0 < len(document["holders"]) <= 3
        first = document["holders"][0]
        assert first["holds"]
        assert all(h["held_by"]["name"] == first["name"] for h in first["holds"])

    def test_python_gives_the_same_document(self, known: tuple[Path, dict], capsys) -> None:
        core, _ = known
        main(["retained", "--json", str(core)])
        report = km.scan(core)
        document = retained_to_dict(report, report.retained)
        assert document == json.loads(capsys.readouterr().out)

    def test_all_of_them_are_told_with_limit_0(self, known: tuple[Path, dict], capsys) -> None:
        core, _ = known
        assert main(["retained", "--limit", "0", "--depth", "0", str(core)]) == 0
        out = capsys.readouterr().out
        assert "more object" not in out
        assert out.count("object 0x") == km.scan(core).retained.nodes().size

    def test_an_output_file_is_not_replaced(self, known: tuple[Path, dict], capsys) -> None:
        core, _ = known
        assert main(["retained", "-o", str(core), str(core)]) == 2
        assert "--force" in capsys.readouterr().err

    def test_a_broken_dump_is_one_error(self, tmp_path: Path, capsys) -> None:
        (tmp_path / "core").write_bytes(b"\x7fELF" + bytes(100))
        assert main(["retained", str(tmp_path / "core")]) == 3
        assert capsys.readouterr().err.startswith("kmemleak: ")

    @pytest.mark.parametrize("wrong", [["--by", "what"], ["--depth", "51"], []])
    def test_wrong_usage(self, capsys, wrong: list[str]) -> None:
        assert main(["retained", *wrong, *(["core"] if wrong else [])]) == 2
        assert capsys.readouterr().err
