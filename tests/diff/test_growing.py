"""What grew is told exactly: of a program that says itself what it allocates, frees and loses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import kmemleak_core as km
from kmemleak_core.dumps.capture import capture

from ..builders.programs import compile_c, running
from .conftest import Grown, amount, group_of


def reachable(grown: Grown) -> dict[str, dict[int, int]]:
    """Return what is new and no leak, by tag."""
    return {tag: blocks for tag, blocks in grown.after.made.items() if tag != "leak"}


class TestOneProcess:
    def test_objects_are_matched_by_address(self, grown: Grown) -> None:
        assert grown.difference.by_address
        assert "one process" in grown.difference.reason

    def test_what_came_and_went_is_what_the_program_says(self, grown: Grown) -> None:
        made, freed = (amount(*d.values()) for d in (grown.after.made, grown.after.freed))
        assert grown.difference.came == made
        assert grown.difference.went == freed
        assert grown.difference.growth == (made[0] - freed[0], made[1] - freed[1])

    @pytest.mark.parametrize(("tag", "size"), [("item", 56), ("key", 24), ("block", 1000)])
    def test_each_group_has_grown_by_its_ledger(self, grown: Grown, tag: str, size: int) -> None:
        group = group_of(grown.difference.groups(), size)
        blocks = grown.after.made[tag]
        assert group.state == "grown"
        assert group.came == amount(blocks)
        assert group.growth.objects >= len(blocks)
        assert group.example in blocks

    def test_what_was_freed_has_shrunk(self, grown: Grown) -> None:
        freed = grown.after.freed["departing"]
        group = group_of(grown.difference.groups(), next(iter(freed.values())))
        assert group.state == "shrunk"
        assert group.went == amount(freed)
        assert group.example in grown.before.made["departing"].keys() - freed.keys()

    def test_the_variables_that_hold_the_growth_are_named(self, grown: Grown) -> None:
        made = grown.after.made
        growth = {change.name: change.growth for change in grown.difference.holders}
        assert growth["table in .bss of growing"] == amount(made["item"], made["key"])
        assert growth["cache in .bss of growing"] == amount(made["block"])
        freed = amount(grown.after.freed["departing"])
        assert growth["departing in .bss of growing"] == (-freed[0], -freed[1])
        assert next(iter(growth)) == "table in .bss of growing"

    def test_each_group_says_who_holds_it(self, grown: Grown) -> None:
        groups = grown.difference.groups()
        for size, name in ((56, "table"), (1000, "cache")):
            holder, held = group_of(groups, size).held_by[0]
            assert holder == f"{name} in .bss of growing"
            assert held == group_of(groups, size).came

    def test_what_a_group_leaks_nobody_holds(self, grown: Grown) -> None:
        group = group_of(grown.difference.groups(), 136)
        # One may still be held by a word on the stack.
        (largest, lost), *_ = group.held_by
        assert largest == "nobody"
        assert lost.objects in (group.came.objects, group.came.objects - 1)

    def test_the_object_that_new_ones_hang_on_is_told(self, grown: Grown) -> None:
        (array,) = grown.before.made["array"]
        anchors = {
            anchor.address: anchor for anchor in grown.difference.anchors() if anchor.address
        }
        # One more may be held by a word on the stack, too.
        assert anchors[array].amount.objects in (39, 40)
        assert anchors[array].name == "cache in .bss of growing"
        assert anchors[array].size == grown.before.made["array"][array]

    def test_the_module_holds_the_growth(self, grown: Grown) -> None:
        change = grown.difference.modules[0]
        assert os.path.basename(change.name) == "growing"
        assert change.growth.objects >= amount(*reachable(grown).values())[0] - 2 - 20 - 5

    def test_leaks_are_new_or_stay(self, grown: Grown) -> None:
        leaked, lost = amount(grown.after.made["leak"]), amount(grown.after.lost["forgotten"])
        found = grown.difference
        assert found.new_leaks == (leaked[0] + lost[0], leaked[1] + lost[1])
        assert found.lost == lost
        assert found.kept_leaks == amount(grown.before.made["leak"])
        assert found.gone_leaks == (0, 0)
        groups = {group.example: group for group in found.groups(leaks=True)}
        assert groups.keys() & grown.after.lost["forgotten"].keys()
        assert groups.keys() & grown.after.made["leak"].keys()

    def test_backwards_what_was_lost_is_found_again(self, grown: Grown) -> None:
        found = km.diff(grown.new, grown.old)
        assert found.new_leaks == (0, 0)
        assert found.gone_leaks == grown.difference.new_leaks
        assert found.growth == tuple(-n for n in grown.difference.growth)


@pytest.fixture(scope="module")
def found(grown: Grown) -> km.Difference:
    """A dump of one run, and a later one of the next."""
    return km.diff(grown.old, grown.again)


class TestAnotherRun:
    def test_groups_are_matched(self, found: km.Difference) -> None:
        assert not found.by_address
        assert "started anew" in found.reason
        assert found.changed is None
        assert found.anchors() == []

    def test_the_growth_and_its_holders_are_the_same(
        self, grown: Grown, found: km.Difference
    ) -> None:
        def told(difference: km.Difference) -> dict[tuple[int | None, str], tuple[object, ...]]:
            return {(g.size, g.shape): (g.state, g.before, g.after) for g in difference.groups()}

        assert found.growth == grown.difference.growth
        assert told(found) == told(grown.difference)
        before, after = ({c.name: c for c in d.holders} for d in (grown.difference, found))
        assert before["table in .bss of growing"] == after["table in .bss of growing"]
        assert before["cache in .bss of growing"] == after["cache in .bss of growing"]

    def test_leaks_are_counted_by_group(self, grown: Grown, found: km.Difference) -> None:
        assert found.new_leaks == grown.difference.new_leaks
        assert found.kept_leaks == grown.difference.kept_leaks
        assert found.lost is None

    def test_one_process_can_be_compared_so_as_well(self, grown: Grown) -> None:
        found = km.diff(grown.old, grown.new, match="signature")
        assert not found.by_address
        assert found.growth == grown.difference.growth
        assert found.new_leaks == grown.difference.new_leaks


FORKS = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
void *kept[100];
int main(void) {
    static char out[100], in[100];
    setvbuf(stdout, out, _IOFBF, sizeof out);
    setvbuf(stdin, in, _IOFBF, sizeof in);
    for (int i = 0; i < 50; i++) kept[i] = malloc(100);
    int child = fork();
    if (!child) {
        for (int i = 50; i < 100; i++) kept[i] = malloc(100);
        pause();
    }
    printf("%d\n", child);
    fflush(stdout);
    getchar();
}
"""


def test_a_fork_is_matched_by_address(tmp_path: Path) -> None:
    program = compile_c(tmp_path, "forks", FORKS)
    with running(program) as process:
        tasks = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        child = int(tasks[0])
        try:
            capture(process.pid, tmp_path / "parent")
            capture(child, tmp_path / "child")
        finally:
            os.kill(child, 9)
    found = km.diff(tmp_path / "parent", tmp_path / "child")
    assert found.by_address
    assert "fork" in found.reason
    assert (found.came.objects, found.went.objects) == (50, 0)


def test_two_programs_are_told_to_be_two(grown: Grown, tmp_path: Path) -> None:
    program = compile_c(tmp_path, "other", FORKS.replace("fork()", "1"))
    with running(program) as process:
        capture(process.pid, tmp_path / "core")
    found = km.diff(grown.old, tmp_path / "core")
    assert not found.by_address
    assert any("one is of growing, the other of other" in note.message for note in found.notes)
    assert "one is of growing" in found.report()


def test_two_builds_of_a_program_are_told_to_be_two(grown: Grown, tmp_path: Path) -> None:
    source = (Path(__file__).parent / "growing.c").read_text()
    program = compile_c(tmp_path, "growing", source.replace("i < 200", "i < 100"))
    with running(program) as process:
        capture(process.pid, tmp_path / "core")
    found = km.diff(grown.old, tmp_path / "core")
    assert "two builds of growing" in found.reason
    # What still is what it was is found again.
    holders = {change.name: change for change in found.holders}
    assert holders["table in .bss of growing"].growth == (-200, -100 * (24 + 56))
