"""The same programs under four C libraries, whose heaps differ in layout."""

from __future__ import annotations

from pathlib import Path

import glibcs
import numpy as np
import pytest
import rig
from conftest import Leakgen

pytestmark = pytest.mark.parametrize("version", glibcs.SUITES)


@pytest.mark.parametrize("how", rig.HOWS)
def test_generated_cores_give_exactly_the_truth(
    version: str, how: rig.How, leakgen: Leakgen
) -> None:
    made = leakgen(*rig.SIZES["xs"], 7, glibc=version, how=how)
    report = rig.scan(made.core)
    found, true = rig.leak_set(report), set(made.of(*rig.LEAKS).tolist())
    assert found <= true
    assert true - found <= rig.excuses(report, true - found)
    assert len(true - found) <= 8


def test_the_walk_finds_the_blocks_and_not_the_freed_ones(version: str, leakgen: Leakgen) -> None:
    made = leakgen(*rig.SIZES["xs"], 7, glibc=version)
    heap = rig.walk(made.core)
    live = np.setdiff1d(made.objects["address"], made.of("freed"))
    assert np.isin(live, heap.objects.address).all()
    assert not np.isin(made.of("freed"), heap.objects.address).any()
    assert [check for check in heap.checks if not check.passed] == []
    assert heap.checks
    assert not any(note.nbytes for note in heap.coverage)


@pytest.mark.parametrize("how", rig.HOWS)
@pytest.mark.parametrize(
    "program",
    [
        "holders",
        "tcaches",
        "ended",
        "aligned",
        "resized",
        "arenas",
        "morecore foreign",
        "morecore blocked",
        "morecore none",
    ],
)
def test_a_program_that_knows_its_leaks_is_reported_exactly(
    version: str, how: rig.How, program: str, folder: Path
) -> None:
    name, *arguments = program.split()
    taken = rig.sample(f"{name}.c", folder, how=how, glibc=version, arguments=arguments)
    rig.check(taken, rig.LEFT_OUT[how])
