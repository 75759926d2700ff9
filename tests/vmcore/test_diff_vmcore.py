"""Two dumps of one boot, one of them after its modules were removed: what came, went and leaked."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest

import kmemleak_core as km
from kmemleak_core.cli import main
from kmemleak_core.report.diff_json import diff_schema

from ..test_scan_vmcore import number, rows


@pytest.fixture(scope="module")
def found(vmcores) -> km.Difference:
    return km.diff(vmcores("snap1"), vmcores("snap2"))


def leaks(census: km.Census) -> set[int]:
    assert census.members is not None
    return set(census.members.address[census.members.leaked].tolist())


def test_it_is_one_boot(found: km.Difference) -> None:
    assert found.by_address
    assert "one boot" in found.reason


def test_two_boots_of_one_kernel_are_compared_by_group(vmcores, found: km.Difference) -> None:
    other = km.diff(found.new, vmcores("big"))
    assert not other.by_address
    assert other.reason == "two boots of one kernel"
    assert other.growth.objects > 300_000
    types = {change.name: change.growth.objects for change in other.types}
    # 200,000 files of tmpfs are an inode and a directory entry each.
    assert types["shmem_inode_cache"] > 190_000
    assert types["struct dentry"] > 190_000


def test_objects_are_one_if_they_were_made_at_one_time(shared_data, found: km.Difference) -> None:
    old, new = (
        {
            (number(r["address"]), number(r["size"]), number(r["jiffies"]))
            for r in objects(shared_data, name)
        }
        for name in ("snap1", "snap2")
    )
    listed = [addresses(census) for census in (found.old, found.new)]
    came = {address for address, _, _ in new - old} & listed[1]
    went = {address for address, _, _ in old - new} & listed[0]
    assert found.came.objects == len(came)
    assert found.went.objects == len(went)


def test_leaks_are_new_stay_or_go(found: km.Difference) -> None:
    old, new = leaks(found.old), leaks(found.new)
    # None was freed and given out again as a leak in between.
    assert found.kept_leaks.objects == len(old & new)
    assert found.new_leaks.objects == len(new - old)
    assert found.gone_leaks.objects == len(old - new)
    assert found.lost is not None
    assert 0 < found.lost.objects < found.new_leaks.objects


def test_what_a_removed_module_left_behind_keeps_its_name(found: km.Difference) -> None:
    groups = {
        (group.kind, group.frames[:2]): group for group in found.groups(leaks=True) if group.frames
    }
    group = groups["seq_file", ("build [kml_dev]", "build_thread [kml_dev]")]
    assert group.came.objects > 0
    assert group.before.objects + group.came.objects - group.went.objects == group.after.objects
    # The old dump, with the module in it, tells the name.
    assert found.new.groups.functions.keys() & {
        address
        for address, name in found.old.groups.functions.items()
        if name.endswith("[kml_dev]")
    }


def test_growth_is_told_by_cache_and_by_the_kernels_variables(found: km.Difference) -> None:
    types = {change.name: change for change in found.types}
    assert types["maple_node"].growth.objects > 0
    assert types["pid"].growth.objects < 0
    holders = {change.name: change for change in found.holders}
    assert holders["mod_tree"].after == (0, 0)
    held = sum(change.growth.nbytes for change in found.holders)
    assert held + found.unheld.growth.nbytes == found.growth.nbytes


def test_of_a_kernel_without_kmemleak_too(vmcores) -> None:
    found = km.diff(vmcores("snap1"), vmcores("snap2"), records="slub")
    assert found.by_address
    assert found.changed is not None
    modules = [g for g in found.groups() if g.kind == "kmalloc-2k" or g.kind.startswith("vmalloc")]
    assert modules
    assert found.went.objects > found.came.objects


def test_the_command_fits_the_schema(vmcores, capsys) -> None:
    assert main(["diff", "--json", str(vmcores("snap1")), str(vmcores("snap2"))]) == 1
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, diff_schema())
    assert document["old"]["program"].startswith("Linux 6.1")
    assert any(group["backtrace"] for group in document["leak_groups"])


def addresses(census: km.Census) -> set[int]:
    assert census.members is not None
    return set(census.members.address.astype(np.uint64).tolist())


def objects(shared_data, name: str) -> list[dict[str, str]]:
    return rows(shared_data / "vmcore" / name / "objects.csv.gz")
