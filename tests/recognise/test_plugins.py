"""Recognisers of other packages: asked after ours, of what these do not know."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.typing import NDArray

from kmemleak_core import plugins
from kmemleak_core.recognise import Recognised, recognisers
from kmemleak_core.recognise.context import Context

from .test_hostile import kinds, process


class Fives:
    """Takes what begins with 5 for a five."""

    name = "fives"

    def recognise(
        self, context: Context, rows: NDArray[np.int64], asked: NDArray[np.int64]
    ) -> Recognised:
        (first,), _ = context.read(context.objects.address[rows], 0)
        return Recognised(np.where(first == 5, 0, -1).astype(np.int32), ("five", "unused"))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "fives-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: fives\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        f"[kmemleak_core.recognisers]\nfives = {__name__}:Fives\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("installed")
def test_another_package_s_recogniser_is_asked_last() -> None:
    assert type(list(recognisers())[-1]) is Fives
    heap = np.zeros(64, np.uint64)
    heap[8] = heap[32] = 5
    types = process(heap, np.zeros(8, np.uint64))
    found = kinds(types)
    assert [row for row, kind in enumerate(found) if kind == "five"] == [1, 4]
    assert types.all is not None
    assert "unused" not in types.all.kinds


def test_without_one_metadata_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", None)
    assert "fives" not in {recogniser.name for recogniser in recognisers()}


def test_folders_that_are_none_mention_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "sys", SimpleNamespace(path=["/nowhere", __file__]))
    assert not plugins.mentioned("kmemleak_core.recognisers")
    assert sys.path
