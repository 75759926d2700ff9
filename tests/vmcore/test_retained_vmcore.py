"""Retained sizes in a real kernel's dump: by either of its books, on the command line."""

from __future__ import annotations

import json

import jsonschema
import numpy as np

import kmemleak_core as km
from kmemleak_core.cli import main
from kmemleak_core.report.retained_json import retained_schema
from kmemleak_core.scan import Colour


def test_whatever_is_gray_is_retained_and_nothing_else_is(vmcores) -> None:
    for records in ("kmemleak", "slub"):
        report = km.scan(vmcores("snap1"), records=records)
        found = report.retained
        result = found.result
        gray = result.colour == Colour.GRAY
        assert ((found.count[: gray.size] > 0) == gray).all()
        assert found.everything.count == np.count_nonzero(gray)
        assert found.everything.nbytes == result.objects.size[gray].sum()


def test_types_are_slab_caches_and_other_memory_by_either_book(vmcores) -> None:
    told = []
    for records in ("kmemleak", "slub"):
        found = km.scan(vmcores("snap1"), records=records).retained
        types = {h.name: h for h in found.top(0, "type")}
        assert all(0 < h.size <= h.nbytes or h.nbytes == h.size for h in types.values())
        told.append(types)
    # The same kernel: its dentries and inodes are about as many by both.
    for name in ("struct dentry", "struct inode", "struct task_struct", "kmalloc-256"):
        ours, others = (types[name].size for types in told)
        assert 0.9 < ours / others < 1.1


def test_variables_of_the_kernel_are_told_by_name(vmcores) -> None:
    for records in ("kmemleak", "slub"):
        found = km.scan(vmcores("snap1"), records=records).retained_by_variable
        names = {h.name: h for h in found.top(0, "root")}
        assert {"init_net", "nl_table", "tcp_metrics_hash"} <= names.keys()
        assert names["nl_table"].count > 10
        # The variable is as large as a pointer; what it holds hangs on the table it points to.
        assert names["tcp_metrics_hash"].size == 8


def test_modules_hold_what_their_variables_do(vmcores) -> None:
    for records, name in (("kmemleak", "module kml_dev"), ("slub", "kml_dev")):
        found = km.scan(vmcores("snap1"), records=records).retained
        assert name in {h.name for h in found.top(0, "module")}


def test_the_command_tells_caches_and_fits_the_schema(vmcores, capsys) -> None:
    assert main(["retained", "--json", "--limit", "50", str(vmcores("snap1"))]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, retained_schema())
    assert len(document["holders"]) == 50
    assert any(holder["type"] for holder in document["holders"])
    sizes = [holder["retained_bytes"] for holder in document["holders"]]
    assert sizes == sorted(sizes, reverse=True)
