"""A program on GLib: nodes of its lists are told from others."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
import rig


def sample(source: str, folder: Path) -> rig.Sample:
    ask = [rig.need("pkg-config"), "--cflags", "--libs", "gobject-2.0"]
    told = subprocess.run(ask, capture_output=True, text=True, check=False)
    if told.returncode:
        pytest.skip("needs GLib's headers (apt-get install libglib2.0-dev)")
    flags = shlex.split(told.stdout)
    # Before GLib 2.76 nodes come out of larger blocks, which GLib divides itself.
    environment = {"PATH": "/usr/bin:/bin", "G_SLICE": "always-malloc"}
    return rig.sample(
        source,
        folder,
        how="capture",
        flags=[flag for flag in flags if not flag.startswith("-l")],
        libraries=[flag for flag in flags if flag.startswith("-l")],
        environment=environment,
    )


@pytest.fixture(scope="module")
def taken(big_folder: Path) -> rig.Sample:
    return sample("glist.c", big_folder / "glist")


def test_nodes_are_told_and_nothing_else(taken: rig.Sample) -> None:
    report = rig.scan(taken.core)
    found: dict[str, set[int]] = {}
    for row, address in enumerate(report.result.objects.address.tolist()):
        found.setdefault(report.kinds.kind_of(row), set()).add(address)
    nodes = {*taken.truth.held["node"], *taken.truth.lost["node"]}
    assert found["GList node"] == nodes
    assert set(found) == {"", "GList node"}


def test_lost_nodes_are_told_by_a_scan(taken: rig.Sample) -> None:
    report = rig.scan(taken.core)
    (group,) = (g for g in report.groups if g.origin.kind == "GList node")
    assert group.count >= 99


def test_instances_are_of_the_types_that_the_program_says(folder: Path) -> None:
    taken = sample("gobject.c", folder)
    report = rig.scan(taken.core)
    rows = report.result.objects.find
    for name in ("TestPlain", "TestDerived"):
        for group in (taken.truth.held, taken.truth.lost):
            assert len(group[name]) == 30
            assert {report.kinds.kind_of(rows(address)) for address in group[name]} == {name}
    told = {group.origin.kind for group in report.groups}
    assert told >= {"TestPlain", "TestDerived"}
