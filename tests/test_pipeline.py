"""From a file to a report: the core with known answers, class by class, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

import kmemleak_core as km

#: Classes of the data's README that are leaks by default.
LEAKS = {"direct", "indirect", "cycle", "staleonly", "bigleak", "hidden16"}
HELD = {"interior", "endptr", "mainstack", "thrstack", "tlsonly", "regonly", "mmaponly", "bigreach"}


def truth_of(folder: Path) -> dict[str, set[int]]:
    classes: dict[str, set[int]] = {}
    for line in (folder / "truth.txt").read_text().splitlines():
        address, _, name = line.split()
        classes.setdefault(name, set()).add(int(address, 16))
    return classes


@pytest.fixture(scope="module")
def truth(shared_data):
    return truth_of(shared_data / "usercore")


@pytest.fixture(scope="module")
def core(shared_data):
    return shared_data / "usercore" / "core.zst"


@pytest.fixture(scope="module")
def report(core):
    return km.scan(core)


def leaks_of(report: km.Report) -> set[int]:
    return set(report.leaks["address"].tolist())


@pytest.mark.parametrize("name", sorted(LEAKS))
def test_every_object_of_a_leaked_class_is_reported(report, truth, name):
    assert truth[name] <= leaks_of(report)


@pytest.mark.parametrize("name", sorted(HELD))
def test_no_object_of_a_held_class_is_reported(report, truth, name):
    assert not truth[name] & leaks_of(report)


def test_nothing_else_is_reported(report, truth):
    assert leaks_of(report) == set().union(*(truth[name] for name in LEAKS))


def test_a_mask_shows_what_tagged_pointers_hold(core, truth):
    report = km.scan(core, pointer_mask=0x0000FFFFFFFFFFFF)
    assert leaks_of(report) == set().union(*(truth[name] for name in LEAKS - {"hidden16"}))


def test_past_the_end_pointers_can_be_told_not_to_hold(core, truth):
    # Where the block was rounded up, one past its end still lies in its last bytes.
    more = leaks_of(km.scan(core, end_pointers=False)) - leaks_of(km.scan(core))
    assert more
    assert more <= truth["endptr"]


def test_interior_pointers_can_be_told_not_to_hold(core, truth):
    assert truth["interior"] <= leaks_of(km.scan(core, interior=False))


@pytest.mark.parametrize(
    ("root", "name"),
    [("registers", "regonly"), ("tls", "tlsonly"), ("anonymous", "mmaponly")],
)
def test_without_a_class_of_roots_what_only_it_holds_is_lost(core, truth, root, name):
    assert truth[name] <= leaks_of(km.scan(core, no_roots={root}))


def test_without_stacks_what_only_a_frame_holds_is_lost(core, truth):
    # A register may still hold the one that the frame's code used last.
    report = km.scan(core, no_roots={"stacks", "registers"})
    assert truth["mainstack"] | truth["thrstack"] <= leaks_of(report)


def test_the_holder_of_a_block_is_named(report, truth):
    holders = [report.referrers(address) for address in truth["regonly"]]
    names = {r.name for found in holders for r in found if r.kind == "registers"}
    assert {name.split()[0] for name in names} <= {"r12", "r13", "r14", "r15"}
    assert all(any(r.kind == "registers" for r in found) for found in holders)


def test_a_report_says_how_it_checked_itself(report):
    assert report.checks
    assert all(check.passed for check in report.checks)


def test_an_unknown_class_of_roots_names_the_known_ones(core):
    with pytest.raises(km.UsageError, match=r"(?s)nonsense.*registers"):
        km.scan(core, no_roots={"nonsense"})


def test_an_unknown_option_is_a_usage_error(core):
    with pytest.raises(km.UsageError, match="colour"):
        km.scan(core, colour="red")


@pytest.fixture
def raw(tmp_path):
    base = 0x1000
    memory = bytearray(0x100)
    struct.pack_into("<Q", memory, 0, base + 0x40)  # the root's word
    struct.pack_into("<Q", memory, 0x40, base + 0x60)  # held object -> held object
    (tmp_path / "memory.bin").write_bytes(memory)
    (tmp_path / "objects.csv").write_text(
        "address,size\n0x1040,32\n0x1060,32\n0x1080,32\n0x10a0,32\n"
    )
    (tmp_path / "roots.csv").write_text(
        "kind,address,size,name,value\ndata,0x1000,8,table,\nregisters,,,r0,0x10a4\n"
    )
    return km.RawSource(
        memory=(f"{base:#x}:{tmp_path / 'memory.bin'}",),
        objects=tmp_path / "objects.csv",
        roots=tmp_path / "roots.csv",
    )


def test_raw_memory_with_tables_is_scanned(raw):
    assert leaks_of(km.scan(raw)) == {0x1080}


def test_classes_of_raw_roots_can_be_left_out(raw):
    assert leaks_of(km.scan(raw, no_roots={"registers"})) == {0x1080, 0x10A0}


def test_raw_memory_has_no_sysroot(raw, tmp_path):
    with pytest.raises(km.UsageError, match="sysroot"):
        km.scan(raw, sysroot=tmp_path)


def test_what_pointers_into_it_or_past_it_alone_hold_is_possibly_lost(report, truth):
    possible = set(report.possible["address"].tolist())
    unsure = truth["interior"] | truth["endptr"]
    assert unsure <= possible
    # The C library keeps the threads' tables of TLS by a pointer to their second entry.
    assert len(possible - unsure) <= 3
    assert not possible & set().union(*truth.values()) - unsure
    held = dict(zip(report.possible["address"].tolist(), report.possible["held"], strict=True))
    assert {held[address] for address in truth["interior"]} == {2}
    # Some of these blocks are larger than was asked for: past what was is in their middle.
    assert {held[address] for address in truth["endptr"]} == {2, 4}
