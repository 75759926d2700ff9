"""Whether two dumps are of one process is decided by looking at them, and said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kmemleak_core as km
from kmemleak_core.compare.difference import compare
from kmemleak_core.compare.matching import decide
from kmemleak_core.dumps.capture import capture

from ..builders.programs import compile_c, gdb_core, running
from .conftest import HERE, Grown
from .test_properties import a_census

PROCESS = {
    "program": "/bin/prog",
    "build_id": "ab",
    "layout": "here",
    "process": {"pid": "7", "name": "prog"},
}
KERNEL = {"program": "Linux 6.1", "build_id": "ab", "layout": "here", "kernel": True}


def census(told: dict[str, Any], birth: list[int] | None = None) -> km.Census:
    made = a_census(({0: (1, 0, []), 1: (1, 0, []), 2: (2, 0, [])}, [0], [1]), False)
    assert made.members is not None
    members = replace(made.members, birth=None if birth is None else np.array(birth, np.int64))
    return replace(made, identity=replace(made.identity, **told), members=members)


@pytest.mark.parametrize(
    ("old", "new", "by_address", "why"),
    [
        ({"start": "a"}, {"start": "a"}, True, "one process, started once: pid 7"),
        ({"start": "a"}, {"start": "b"}, False, "started anew"),
        ({"start": "a"}, {"start": "a", "process": {"pid": "8"}}, True, "its fork"),
        ({}, {}, True, "pid 7, everything mapped at the same addresses"),
        ({}, {"process": {"pid": "8"}}, False, "nothing tells"),
        ({}, {"layout": "there"}, False, "nothing tells"),
        ({"process": {}}, {"process": {}}, False, "nothing tells"),
        ({"start": "a"}, {"start": "a", "build_id": "cd"}, False, "two builds of prog"),
        ({"start": "a"}, {"start": "a", "program": "/bin/other"}, False, "of prog, the other of"),
        ({}, {"architecture": "aarch64"}, True, "pid 7"),
        ({"architecture": "x86_64"}, {"architecture": "aarch64"}, False, "the other of aarch64"),
    ],
)
def test_a_process(old: dict[str, Any], new: dict[str, Any], by_address: bool, why: str) -> None:
    decided, reason = decide(census({**PROCESS, **old}), census({**PROCESS, **new}), "auto")
    assert decided is by_address
    assert why in reason


@pytest.mark.parametrize(
    ("old", "new", "births", "by_address", "why"),
    [
        ({"start": "a"}, {"start": "a"}, None, True, "one boot"),
        ({"start": "a"}, {"start": "b"}, None, False, "two boots"),
        ({}, {}, None, False, "nothing tells whether it is one boot"),
        ({}, {}, ([1, 2, 3], [1, 2, 9]), True, "made at the same times"),
        ({}, {}, ([1, 2, 3], [7, 8, 3]), False, "nothing tells"),
        ({}, {"layout": "there"}, ([1, 2, 3], [1, 2, 3]), False, "nothing tells"),
        ({"start": "a"}, {"start": "a", "program": "Linux 6.2"}, None, False, "Linux 6.2"),
    ],
)
def test_a_kernel(
    old: dict[str, Any], new: dict[str, Any], births: Any, by_address: bool, why: str
) -> None:
    first, second = births or (None, None)
    decided, reason = decide(
        census({**KERNEL, **old}, first), census({**KERNEL, **new}, second), "auto"
    )
    assert decided is by_address
    assert why in reason


def test_a_kernel_and_a_process_are_compared_all_the_same() -> None:
    found = compare(census(KERNEL), census(PROCESS))
    assert not found.by_address
    assert found.growth == (0, 0)
    assert "one is of a kernel" in found.notes.notes[0].message


def test_what_was_born_at_another_time_is_another_object() -> None:
    found = compare(census(KERNEL, [1, 2, 3]), census(KERNEL, [1, 2, 9]))
    assert (found.came, found.went) == ((1, 16), (1, 16))


def test_as_asked() -> None:
    old, new = census({**PROCESS, "start": "a"}), census({**PROCESS, "start": "b"})
    assert decide(old, new, "address") == (True, "as asked")
    assert decide(old, new, "signature") == (False, "as asked")
    with pytest.raises(km.UsageError, match="'names'"):
        decide(old, new, "names")  # type: ignore[arg-type]


def test_whoever_dumps_a_process_it_is_the_same(tmp_path: Path) -> None:
    program = compile_c(tmp_path, "growing", (HERE / "growing.c").read_text())
    with running(program) as process:
        assert process.stdout is not None
        for _ in iter(process.stdout.readline, b"ready\n"):
            pass
        capture(process.pid, tmp_path / "captured")
        dumped = gdb_core(tmp_path, process.pid)
    found = km.diff(tmp_path / "captured", dumped)
    assert found.by_address
    assert found.groups() == []
    assert found.came == found.went == (0, 0)


def test_a_program_without_symbols_is_named_by_places(grown: Grown, tmp_path: Path) -> None:
    program = compile_c(tmp_path, "growing", (HERE / "growing.c").read_text(), "-s")

    for run in range(2):
        with running(program) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for _ in iter(process.stdout.readline, b"ready\n"):
                pass
            if run:
                process.stdin.write(b"\n")
                process.stdin.flush()
                for _ in iter(process.stdout.readline, b"ready\n"):
                    pass
            capture(process.pid, tmp_path / f"core.{run}")
    found = km.diff(tmp_path / "core.0", tmp_path / "core.1")
    assert not found.by_address
    places = [change for change in found.holders if change.name.startswith(".bss of growing+0x")]
    # The table's 64 places, each by itself, and the cache.
    growth = sum(change.growth.objects for change in places if change.growth.objects > 0)
    assert growth == len(grown.after.made["item"]) * 2 + len(grown.after.made["block"])
