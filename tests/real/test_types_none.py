"""Programs in C: nothing in them is of a type that is looked for, and nothing is taken for one."""

from __future__ import annotations

import json
from pathlib import Path

import live
import others
import pytest
import rig

import kmemleak_core
from kmemleak_core.cli import main
from kmemleak_core.dumps.capture import capture
from kmemleak_core.recognise.cxx_buffers import CxxBuffers
from kmemleak_core.recognise.cxx_nodes import CxxNodes

#: Of programs with threads: the C library's own, whatever language they are in.
OF_THREADS = "thread's TLS vector (dtv)"


def types_of(core: Path) -> set[str]:
    kinds = rig.scan(core).kinds
    return set() if kinds is None else set(kinds.kinds)


def test_a_core_with_known_answers_has_none(shared_data: Path) -> None:
    assert types_of(rig.given(shared_data / "usercore").core) == {OF_THREADS}


def test_without_types_objects_are_added_up_by_size(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = rig.given(shared_data / "usercore")
    assert main(["types", "--json", "--limit", "0", str(given.core)]) == 0
    document = json.loads(capsys.readouterr().out)
    (known,) = (one for one in document["types"] if one["type"] is not None)
    assert known["type"] == OF_THREADS
    sizes = [one["size"] for one in document["types"] if one is not known]
    assert len(sizes) == len(set(sizes)) > 10
    assert sum(one["objects"] for one in document["types"]) == document["summary"]["objects"]
    assert document["summary"]["known_objects"] == known["objects"]


def test_a_filter_on_types_that_nothing_tells_is_wrong_usage(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core = rig.sample("resized.c", folder, how="capture").core
    assert main(["scan", "-q", "--type", "Foo", str(core)]) == 2
    assert "there are no types" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["holders.c", "lookalike.c", "resized.c"])
def test_a_program_of_the_rig_has_none(name: str, folder: Path) -> None:
    assert types_of(rig.sample(name, folder, how="capture").core) <= {OF_THREADS}


@pytest.fixture(scope="module", params=["bash", "perl"])
def core(request: pytest.FixtureRequest, big_folder: Path) -> Path:
    folder = big_folder / f"none-{request.param}"
    folder.mkdir()
    with others.ON_GLIBC[request.param](folder, live.preload(folder)) as pid:
        capture(pid, folder / "core")
    return folder / "core"


def test_a_program_that_nobody_here_wrote_has_none(core: Path) -> None:
    assert types_of(core) == set()


@pytest.mark.parametrize("recogniser", [CxxNodes(), CxxBuffers()], ids=lambda r: r.name)
def test_even_taken_for_one_of_c_plus_plus_it_has_few(
    core: Path, recogniser: CxxNodes | CxxBuffers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A C library beside C++: what is told by structure alone must seldom be wrong."""
    report = rig.scan(core)
    assert isinstance(report, kmemleak_core.Report)
    assert report.types_of is not None
    context = report.types_of.context
    monkeypatch.setitem(context.__dict__, "has_libstdcxx", True)
    rows = context.row_at(context.objects.address)
    found = recogniser.recognise(context, rows, rows)
    taken = 0 if found is None else int((found.code >= 0).sum())
    assert taken <= 10
