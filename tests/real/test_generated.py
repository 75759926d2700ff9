"""Cores of the generator, whose every object's fate is known: the report equals the truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import rig
from conftest import Leakgen

#: The core that comes with its answers, compressed as it is.
SHARED = ("given", "zst")
SLOW = [pytest.param((s, h), marks=pytest.mark.slow) for s in ("m", "l") for h in rig.HOWS]
QUICK = [(s, h) for s in ("xs", "s") for h in rig.HOWS]
#: So many blocks at most are explained: each takes a pass over the whole core.
EXPLAINED = 60
HELD = [name for name in rig.CLASSES if name not in (*rig.LEAKS, "freed")]


@dataclass
class Case:
    """A core with known answers and what a scan with the default options said of it."""

    made: rig.Generated

    @cached_property
    def report(self) -> Any:
        return rig.scan(self.made.core)

    @cached_property
    def found(self) -> set[int]:
        return rig.leak_set(self.report)

    @cached_property
    def excused(self) -> set[int]:
        """True leaks that a stale word holds, each of them with that word to show."""
        true = set(self.made.of(*rig.LEAKS).tolist())
        return rig.excuses(self.report, true - self.found)


@pytest.fixture(scope="module", params=[SHARED, *QUICK, *SLOW], ids=lambda p: f"{p[0]}-{p[1]}")
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    size, how = request.param
    if request.param == SHARED:
        yield Case(rig.given(request.getfixturevalue("shared_data") / "usercore"))
        return
    leakgen: Leakgen = request.getfixturevalue("leakgen")
    made = leakgen(*rig.SIZES[size], 7, how=how)
    yield Case(made)
    if size in ("m", "l"):
        made.delete()


@pytest.mark.parametrize("name", rig.LEAKS)
def test_every_leak_is_reported(case: Case, name: str) -> None:
    true = set(case.made.of(name).tolist())
    assert true
    assert true - case.found <= case.excused


@pytest.mark.parametrize("name", HELD)
def test_nothing_that_is_held_is_reported(case: Case, name: str) -> None:
    assert not case.found & set(case.made.of(name).tolist())


def test_nothing_else_is_reported(case: Case) -> None:
    """Blocks that the C library or the program's start allocated are all in use."""
    assert not case.found - set(case.made.objects["address"].tolist())


def test_excuses_are_a_handful(case: Case) -> None:
    """A few leaks may be held by stale words; every other one is in the report."""
    assert len(case.excused) <= 8


def test_freed_blocks_are_no_objects(case: Case) -> None:
    walked = rig.walk(case.made.core).objects.address
    assert not np.isin(case.made.of("freed"), walked).any()


def test_every_block_is_an_object_with_its_size(case: Case) -> None:
    objects = rig.walk(case.made.core).objects
    live = case.made.objects[case.made.objects["kind"] != rig.CLASSES.index("freed")]
    rows = np.searchsorted(objects.address, live["address"])
    assert (objects.address[rows] == live["address"]).all()
    spare = objects.size[rows].astype(np.int64) - live["size"]
    mapped = np.isin(live["kind"], [rig.CLASSES.index(n) for n in ("bigreach", "bigleak")])
    # malloc rounds a request up to 16, and a mapping of its own to whole pages.
    assert (spare[~mapped] >= 0).all()
    assert (spare[~mapped] <= 24).all()
    assert (spare[mapped] >= 0).all()
    assert (spare[mapped] < 4096 + 16).all()


def test_the_allocators_own_sums_agree(case: Case) -> None:
    heap = rig.walk(case.made.core)
    assert heap.checks
    assert [check for check in heap.checks if not check.passed] == []
    assert not any(note.nbytes for note in heap.coverage)


def test_a_pointer_mask_finds_what_tags_hide(case: Case) -> None:
    report = rig.scan(case.made.core, pointer_mask=0x0000_FFFF_FFFF_FFFF)
    masked = rig.leak_set(report)
    hidden = set(case.made.of("hidden16").tolist())
    assert not masked & hidden
    assert masked <= case.found
    # Any word with high bits may now look like a pointer (the generator's random doubles, its
    # own tagged copies): what is no longer lost must be held by such words only.
    unveiled = case.found - hidden - masked
    held_from_outside = 0
    for address in sorted(unveiled)[:EXPLAINED]:
        words = [word for word in report.referrers(address) if word.live]
        assert words
        outside = [word for word in words if rig.holder(word) not in unveiled]
        held_from_outside += bool(outside)
        for word in outside:
            tagged = word.place is None or report.image.word(word.place) >> 48
            assert tagged, rig.explain(report, {address})
    assert held_from_outside <= max(8, len(case.found) // 1000)


def test_past_the_end_pointers_hold_by_default_only(case: Case) -> None:
    exclusive = rig.leak_set(rig.scan(case.made.core, end_pointers=False))
    assert exclusive >= case.found
    assert exclusive - case.found <= set(case.made.of("endptr").tolist())
