"""`kmemleak vmcore objects`: the table of a kernel's objects, for other tools and for itself."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from kmemleak_core.cli import main
from kmemleak_core.dumps.raw import read_objects

from .conftest import rows


@pytest.fixture(scope="module")
def exported(vmcores, tmp_path_factory):
    folder = tmp_path_factory.mktemp("objects")

    def export(format, *arguments):
        path = folder / f"objects.{format}"
        told = ["vmcore", "objects", *arguments, str(vmcores("snap1")), "-o", str(path), "--force"]
        assert main(told) == 0
        return path

    return export


def test_the_kernels_own_list_is_exported_in_its_order(exported, shared_data):
    with exported("csv").open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    own = [
        r for r in rows(shared_data / "vmcore/snap1/objects.csv.gz") if int(r["flags"]) & 17 == 1
    ]
    assert [(int(r["address"], 16), r["size"], r["pid"], r["birth"], r["comm"]) for r in found] == [
        (int(r["address"]), r["size"], r["pid"], r["jiffies"], r["comm"]) for r in own
    ]


def test_every_format_holds_the_same(exported):
    with exported("csv", "--records", "slub").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    lines = exported("jsonl", "--records", "slub").read_text("utf-8").splitlines()
    arrays = np.load(exported("npz", "--records", "slub"))
    addresses = [int(r["address"], 16) for r in table]
    assert [int(json.loads(line)["address"], 16) for line in lines] == addresses
    assert arrays["address"].tolist() == addresses
    kinds = [r["kind"] for r in table]
    assert [json.loads(line).get("kind", "") for line in lines] == kinds
    assert arrays["kinds"][arrays["kind"]].tolist() == kinds
    assert {"kmalloc-64", "struct dentry", "vmalloc"} <= set(kinds)


@pytest.mark.parametrize("format", ["csv", "jsonl", "npz"])
def test_a_scan_of_plain_memory_reads_it(exported, format):
    objects = read_objects(exported(format))
    assert len(objects) == 45_163
    assert np.count_nonzero(objects.min_count == 2) > 50
    assert objects.excess_ref is not None
    assert objects.excess_ref.any()


def test_npz_is_no_text(vmcores, capsys):
    assert main(["vmcore", "objects", "--format", "npz", str(vmcores("snap1"))]) == 2
    assert "-o FILE" in capsys.readouterr().err


def test_a_processes_core_is_refused(tmp_path, capsys):
    (tmp_path / "x").write_bytes(b"no dump")
    assert main(["vmcore", "objects", str(tmp_path / "x")]) == 3
