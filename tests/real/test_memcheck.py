"""Memcheck and we, on the same programs at the same moment: as many blocks of each kind.

Under Memcheck's rules, that is: whatever the program could write to is a root, and a pointer one
past a block's end is none. Every difference that is left has a test that names it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import memcheck
import pytest
import rig

from kmemleak_core.options import HEURISTICS

#: Compiled for the old std::string, whose characters lie behind its length.
OLD_STRINGS = ("-D_GLIBCXX_USE_CXX11_ABI=0",)
KINDS = ("definite", "indirect", "possible", "reachable")

PROGRAMS: dict[str, list[str]] = {
    "bash": ["bash", "-c", "f() { local a=($(seq 99)); x=$x${a[3]}; }; f; f; echo ${x//3/4}"],
    "gawk": ["gawk", 'BEGIN { for (i = 0; i < 99; i++) a[i] = i "x"; print length(a) }'],
    "git": ["git", "diff", "--no-index", "/etc/passwd", "/etc/group"],
    "perl": ["perl", "-e", "my %h = map { $_ => [1 .. $_] } 1 .. 30; push @{$h{3}}, \\%h; print 1"],
    "python3": ["/usr/bin/python3", "-S", "-c", "import json; print(json.dumps([[1] * 9] * 99))"],
    "sqlite3": [
        "sqlite3",
        ":memory:",
        "create table t(a, b); insert into t values(1, 'x'); select * from t;",
    ],
    "tclsh": ["tclsh", "/dev/null"],
    "vim": ["vim", "--version"],
}


def _program(name: str) -> list[str]:
    command = PROGRAMS[name]
    return [rig.need(command[0], {"tclsh": "tcl"}.get(name, name)), *command[1:]]


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_that_nobody_here_wrote_end_with_the_same_blocks(name: str, folder: Path) -> None:
    command = _program(name)
    theirs = memcheck.ask(command, folder)
    report = rig.scan(memcheck.dump(command, folder), **memcheck.ROOTS)
    ours = memcheck.counted(report)
    assert theirs.reachable
    if ours.possible != theirs.possible:
        # Where malloc puts a block decides whether the linker's pointer is one to its start.
        difference = ours.possible - theirs.possible
        assert abs(difference) <= memcheck.aligned_by_hand(report)
        ours = replace(ours, possible=theirs.possible, reachable=ours.reachable + difference)
    assert replace(ours, heuristics={}) == replace(theirs, heuristics={})
    # They count what was asked for, we what there is room for: up to 24 bytes and a remainder, or
    # what is left of a page.
    blocks = sum(getattr(theirs, kind) for kind in KINDS)
    spare = blocks * (24 + 32) + report.counters["mmapped_chunks"] * 4096
    assert theirs.nbytes <= ours.nbytes < theirs.nbytes + spare


def test_the_comparison_is_of_every_kind(folder: Path) -> None:
    """Perl ends with all of them, so that the test above is not one of empty sets alone."""
    theirs = memcheck.ask(_program("perl"), folder)
    assert min(getattr(theirs, kind) for kind in KINDS) > 0


@pytest.fixture
def kinds() -> Path:
    return rig.compile_program(rig.PROGRAMS / "kinds.c")


def _said(core_of: list[str | Path], folder: Path) -> rig.Truth:
    """Run a program for what it says of itself."""
    with rig.running(core_of, folder, ready=None) as process:
        with pytest.raises(RuntimeError, match="ended with 0"):
            process.read_until("no such line")
        return rig.Truth.parse(process.lines)


def test_every_case_of_a_block_is_of_the_kind_that_the_program_says(
    kinds: Path, folder: Path
) -> None:
    truth = _said([kinds], folder)
    said = {kind: len(truth.lost.get(kind, []) + truth.held.get(kind, [])) for kind in KINDS}
    assert min(said.values()) > 10
    core = memcheck.dump([kinds], folder)
    for counts in (memcheck.ask([kinds], folder), memcheck.ours(core)):
        assert {kind: getattr(counts, kind) for kind in KINDS} == said
    low = memcheck.ours(core, low_memory=True)
    assert {kind: getattr(low, kind) for kind in KINDS} == said


def test_difference_a_pointer_past_the_end_holds_possibly_by_default(
    kinds: Path, folder: Path
) -> None:
    """To Memcheck it is no pointer, and the block lost; the default here is more careful."""
    plain, more = (memcheck.dump([kinds, *args], folder) for args in ([], ["ends"]))
    theirs = memcheck.ask([kinds, "ends"], folder)
    assert memcheck.ours(more) == theirs
    before, after = memcheck.ours(plain), memcheck.ours(more, end_pointers=True)
    assert after.definite == before.definite == theirs.definite - 5
    assert after.possible == before.possible + 5


def test_difference_a_cycle_that_a_later_block_enters_has_no_head_of_its_own(
    kinds: Path, folder: Path
) -> None:
    """Memcheck goes by address: the cycle has its head before the block that leads to it comes."""
    theirs = memcheck.ask([kinds, "entered"], folder)
    ours = memcheck.ours(memcheck.dump([kinds, "entered"], folder))
    assert ours.lost == theirs.lost
    assert ours.definite == theirs.definite - 1
    assert (ours.possible, ours.reachable) == (theirs.possible, theirs.reachable)


@pytest.mark.parametrize("heuristics", [None, (), *((name,) for name in HEURISTICS)], ids=str)
def test_heuristics_explain_the_same_pointers(
    heuristics: tuple[str, ...] | None, folder: Path
) -> None:
    program = rig.compile_program(rig.PROGRAMS / "interior.cc", flags=OLD_STRINGS)
    ours = memcheck.ours(memcheck.dump([program], folder), heuristics)
    assert ours == memcheck.ask([program], folder, heuristics)
    if heuristics is None:
        assert ours.possible == 4  # what nothing explains
        assert ours.heuristics == dict.fromkeys(HEURISTICS, 4)


@pytest.mark.parametrize("how", rig.HOWS)
def test_heuristics_explain_them_in_every_dump(how: rig.How, folder: Path) -> None:
    """By default the kernel dumps no code, and of constants only what was relocated."""
    arguments = {"arguments": ["wait"], "coredump_filter": 0x33, "how": how}
    taken = rig.sample("interior.cc", folder / "moved", flags=OLD_STRINGS, **arguments)
    assert memcheck.ours(taken.core).heuristics == dict.fromkeys(HEURISTICS, 4)
    # Linked to its addresses, such a program has its tables in constants that stay in the file.
    taken = rig.sample(
        "interior.cc", folder / "fixed", flags=(*OLD_STRINGS, "-no-pie"), **arguments
    )
    found = memcheck.ours(taken.core, sysroot="/")
    assert found.heuristics == dict.fromkeys(HEURISTICS, 4)


def test_structures_are_lost_and_held_as_memcheck_has_it(folder: Path) -> None:
    program = rig.compile_program(rig.PROGRAMS / "structures.cc")
    ours = memcheck.ours(memcheck.dump([program], folder))
    assert ours == memcheck.ask([program], folder)


@pytest.fixture(scope="module")
def told(big_folder: Path) -> tuple[rig.Truth, Any]:
    """What the program of structures says, and the report of its dump."""
    folder = big_folder / "structures"
    folder.mkdir()
    log = folder / "said"
    program = rig.compile_program(rig.PROGRAMS / "structures.cc")
    core = memcheck.dump([program], folder, output=log)
    return rig.Truth.parse(log.read_text().splitlines()), rig.scan(core)


class TestStructures:
    """What a program knows of its containers, told by a dump of it."""

    def test_what_is_lost_is_lost_and_nothing_else(self, told: tuple[rig.Truth, Any]) -> None:
        truth, report = told
        assert rig.leak_set(report) == rig.Truth.all_of(truth.lost)
        assert len(truth.held["reachable"]) > 40
        assert not set(report.possible["address"].tolist()) & rig.Truth.all_of(truth.held)

    @pytest.mark.parametrize(
        "name",
        [
            "tree",
            "map",
            "list",
            "vector",
            "hash",
            "shared-cycle",
            "separate-cycle",
            "joined",
        ],
    )
    def test_a_container_has_one_head_and_all_its_blocks_below(
        self, name: str, told: tuple[rig.Truth, Any]
    ) -> None:
        truth, report = told
        leaks = report.leaks
        own = {int(address) for address in truth.lost[name]}
        rows = [row for row, leak in enumerate(leaks) if leak.address in own]
        assert len(rows) == len(own)
        heads = {leaks[row].head for row in rows}
        assert len(heads) == 1
        assert [leak.address for leak in leaks if leak.direct and leak.address in own] == [
            leaks[heads.pop()].address
        ]

    def test_unfolding_shows_all_of_it(self, told: tuple[rig.Truth, Any]) -> None:
        _, report = told
        text = report.report(unfold=True, limit=0)
        assert "Indirectly leaked" not in text  # each container has what it holds for itself
        assert "├─" in text
