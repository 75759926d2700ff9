"""Where other tools lose blocks or invent leaks: one test each, ours right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rig

HOLDERS = [
    "register-r12",
    "register-r13",
    "register-r14",
    "register-r15",
    "vector-register",
    "vector-register-high",
    "main-tls",
    "thread-tls",
    "main-key-first-level",
    "main-key-second-level",
    "thread-key-first-level",
    "thread-key-second-level",
    "main-stack",
    "thread-stack",
    "anonymous-private",
    "anonymous-shared",
    "file-private",
    "file-shared",
    "memfd-private",
    "memfd-shared",
    "sysv-shared",
    "read-only",
    "data",
    "bss",
    "on-exit-argument",
    "interior",
    "last-byte",
    "chain",
]
#: Which class of roots, switched off, loses a block of `HOLDERS`; the others are not that sharp.
SWITCHES = {
    "register-r12": "registers",
    "vector-register-high": "registers",
    "main-stack": "stacks",
    "thread-stack": "stacks",
}


class Held:
    """One dump of `holders`, scanned once."""

    def __init__(self, taken: rig.Sample, left_out: tuple[str, ...]) -> None:
        self.taken = taken
        self.left_out = left_out
        self.report: Any = rig.scan(taken.core)
        self.found = rig.leak_set(self.report)


@pytest.fixture(scope="module", params=[*rig.HOWS, "static"])
def held(request: pytest.FixtureRequest, big_folder: Path) -> Iterator[Held]:
    how: rig.How = "kernel" if request.param == "static" else request.param
    flags = ("-static",) if request.param == "static" else ()
    taken = rig.sample("holders.c", big_folder / f"holders-{request.param}", how=how, flags=flags)
    yield Held(taken, rig.LEFT_OUT[how])
    taken.core.unlink()


@pytest.mark.parametrize("name", HOLDERS)
def test_a_block_is_held_by(held: Held, name: str) -> None:
    if name == "sysv-shared" and name not in held.taken.truth.held:
        pytest.skip("no System V shared memory here")
    if name in held.left_out:
        pytest.skip("that mapping is not in such a dump: its coverage says so, see below")
    blocks = held.taken.truth.held[name]
    assert not held.found & set(blocks)
    assert set(blocks) <= set(rig.walk(held.taken.core).objects.address.tolist())


@pytest.mark.parametrize("name", SWITCHES)
def test_a_block_is_lost_when_its_only_roots_are_switched_off(held: Held, name: str) -> None:
    report = rig.scan(held.taken.core, no_roots=[SWITCHES[name]])
    kept = set(held.taken.truth.held[name]) - rig.leak_set(report)
    assert not kept, rig.explain(report, kept)


@pytest.mark.parametrize("name", ["alone", "mmapped", "cycle", "list", "held-by-freed"])
def test_a_block_is_lost_when(held: Held, name: str) -> None:
    missing = set(held.taken.truth.lost[name]) - held.found
    assert missing == rig.excuses(held.report, missing), rig.explain(held.report, missing)


@pytest.mark.parametrize(("name", "size"), [("cycle", 2), ("list", 3)])
def test_a_lost_cluster_has_one_head(held: Held, name: str, size: int) -> None:
    """A cycle's members hold each other, yet one of them is told as the leak."""
    rows = held.report.leaks.to_numpy()
    members = rows[np.isin(rows["address"], held.taken.truth.lost[name])]
    assert len(members) == size
    assert len(set(members["head"].tolist())) == 1
    heads = members[members["direct"]]
    assert len(heads) == 1
    if name == "list":
        assert int(heads["address"][0]) == held.taken.truth.lost[name][0]


def test_nothing_else_is_lost(held: Held) -> None:
    rig.check(held.taken, held.left_out)


def test_a_mapping_that_the_kernel_did_not_dump_is_told(folder: Path) -> None:
    """By default a core lacks shared files: what only they hold looks lost."""
    taken = rig.sample("holders.c", folder, coredump_filter=0x33)
    rig.check(taken, left_out=["file-shared"])


def test_thread_memory_that_gdb_left_out_is_told(folder: Path) -> None:
    """gdb stops at the guard pages of glibc 2.42 and later, and fills up with zeros."""
    binary = rig.compile_program(rig.PROGRAMS / "holders.c", glibc="2.43")
    with rig.running([binary], folder) as process:
        process.settle()
        try:
            rig.gcore(process.pid, folder)
        except rig.IncompleteCoreError as error:
            report = rig.scan(error.core)
        else:
            pytest.skip("this gdb, or this kernel, leaves nothing out")
    assert "heap.thread-memory" in {note.code for note in report.coverage}


@pytest.mark.parametrize("how", rig.HOWS)
def test_freed_chunks_in_32_tcaches_are_no_objects_and_no_leaks(how: rig.How, folder: Path) -> None:
    taken = rig.sample("tcaches.c", folder, how=how)
    # Threads that share an arena hand each other what does not fit into a tcache.
    assert 33 * 12 * 6 < len(taken.truth.freed["tcache"]) <= 33 * 12 * 7
    rig.check(taken)
    counters = rig.walk(taken.core).counters
    assert counters["tcaches"] == 33
    assert counters["tcache_chunks"] >= 33 * 12 * 7


def test_a_block_that_looks_like_an_empty_tcache_is_an_object(folder: Path) -> None:
    taken = rig.sample("lookalike.c", folder)
    rig.check(taken)
    found = set(rig.walk(taken.core).objects.address.tolist())
    assert len(taken.truth.held["lookalike"]) == 4
    assert set(taken.truth.held["lookalike"]) <= found


@pytest.mark.parametrize("how", rig.HOWS)
def test_stacks_of_ended_threads_hide_nothing(how: rig.How, folder: Path) -> None:
    taken = rig.sample("ended.c", folder, how=how)
    assert len(taken.truth.lost["ended-thread-stack"]) == 48
    rig.check(taken)


@pytest.mark.parametrize("how", rig.HOWS)
def test_aligned_blocks_have_their_true_start(how: rig.How, folder: Path) -> None:
    taken = rig.sample("aligned.c", folder, how=how)
    rig.check(taken)
    objects = rig.walk(taken.core).objects
    for address, size in taken.truth.sizes.items():
        row = int(np.searchsorted(objects.address, np.uint64(address)))
        assert int(objects.address[row]) == address
        assert int(objects.size[row]) >= size


@pytest.mark.parametrize("how", rig.HOWS)
def test_resized_mappings_are_found_where_they_moved(how: rig.How, folder: Path) -> None:
    rig.check(rig.sample("resized.c", folder, how=how))


@pytest.mark.parametrize("how", rig.HOWS)
@pytest.mark.parametrize("kind", ["foreign", "blocked", "none"])
def test_a_main_arena_in_pieces(kind: str, how: rig.How, folder: Path) -> None:
    rig.check(rig.sample("morecore.c", folder, how=how, arguments=[kind]))


@pytest.mark.parametrize(
    ("test", "most"), [("2", "16"), ("1", "1"), ("1", "3")], ids=["many", "one", "shared"]
)
def test_threads_on_any_number_of_arenas(test: str, most: str, folder: Path) -> None:
    rig.check(rig.sample("arenas.c", folder, arguments=[test, most]))


@pytest.mark.parametrize("how", rig.HOWS)
@pytest.mark.parametrize("namespace", ["same", "own"])
def test_a_loaded_library_holds_and_loses(namespace: str, how: rig.How, folder: Path) -> None:
    """In a namespace of its own (dlmopen) a library has a C library and a main arena of its own."""
    library = rig.compile_program(rig.PROGRAMS / "plugin.c", flags=("-shared", "-fPIC"))
    arguments = [str(library), *(["own"] if namespace == "own" else [])]
    rig.check(rig.sample("loads.c", folder, how=how, arguments=arguments, libraries=("-ldl",)))


@pytest.mark.parametrize("how", rig.HOWS)
def test_a_forked_child_has_the_blocks_but_not_the_threads(how: rig.How, folder: Path) -> None:
    if how == "kernel":
        rig.check_core_pattern()
    with rig.running([rig.compile_program(rig.PROGRAMS / "forks.c")], folder) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        child = int(children.split()[0])
        taken = rig.Sample(process.dump(how, child), rig.Truth.parse(process.lines), child)
        rig.check(taken)


CPP = r"""
#include <map>
#include <memory>
#include <string>
#include <vector>
#include "known.h"
struct Base { virtual ~Base() {} long a = 1; };
struct Left { virtual ~Left() {} long b = 2; };
struct Both : Base, Left { long c = 3; };
static Left *volatile second_base;
static Both *volatile array;
static std::map<int, std::string> *volatile tree;
static std::vector<std::unique_ptr<Both>> rows;
static NOINLINE void make(void)
{
    Both *both = new Both;
    say("held", "second-base", both, sizeof *both);
    second_base = both;
    array = new Both[5];
    say("held", "array-with-cookie", reinterpret_cast<long *>(array) - 1, 8 + 5 * sizeof *array);
    auto *map = new std::map<int, std::string>;
    for (int i = 0; i < 100; i++)
        (*map)[i] = std::string(50 + i, 'x');
    say("held", "map", map, sizeof *map);
    tree = map;
    for (int i = 0; i < 20; i++)
        rows.push_back(std::make_unique<Both>());
    both = new Both;
    say("lost", "object", both, sizeof *both);
    Both *lost = new Both[3];
    say("lost", "array-with-cookie", reinterpret_cast<long *>(lost) - 1, 8 + 3 * sizeof *lost);
}
int main() { make(); ready(); }
"""


def test_cpp_objects_are_held_by_pointers_into_their_middle(folder: Path) -> None:
    """A second base, the first element after an array's cookie: interior pointers both."""
    source = folder / "objects.cc"
    source.write_text(CPP)
    rig.check(rig.sample(source, folder))
