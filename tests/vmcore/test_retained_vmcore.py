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
        found, result = report.retained, report.result
        gray = result.colour == Colour.GRAY
        assert ((found.count[: gray.size] > 0) == gray).all()
        assert found.everything.count == np.count_nonzero(gray)
        assert found.everything.nbytes == result.objects.size[gray].sum()


def test_the_command_tells_caches_and_fits_the_schema(vmcores, capsys) -> None:
    assert main(["retained", "--json", "--limit", "50", str(vmcores("snap1"))]) == 0
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, retained_schema())
    assert len(document["holders"]) == 50
    assert any(holder["type"] for holder in document["holders"])
    sizes = [holder["retained_bytes"] for holder in document["holders"]]
    assert sizes == sorted(sizes, reverse=True)
