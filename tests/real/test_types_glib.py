"""A program on GLib: nodes of its lists are told from others."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
import rig


@pytest.fixture(scope="module")
def taken(big_folder: Path) -> rig.Sample:
    ask = [rig.need("pkg-config"), "--cflags", "--libs", "glib-2.0"]
    told = subprocess.run(ask, capture_output=True, text=True, check=False)
    if told.returncode:
        pytest.skip("needs GLib's headers (apt-get install libglib2.0-dev)")
    flags = shlex.split(told.stdout)
    # Before GLib 2.76 nodes come out of larger blocks, which GLib divides itself.
    environment = {"PATH": "/usr/bin:/bin", "G_SLICE": "always-malloc"}
    folder = big_folder / "glist"
    made = rig.sample(
        "glist.c",
        folder,
        how="capture",
        flags=[flag for flag in flags if not flag.startswith("-l")],
        libraries=[flag for flag in flags if flag.startswith("-l")],
        environment=environment,
    )
    return made


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
