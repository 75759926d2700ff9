"""C++ programs that say what each of their blocks is: the types that are found are these."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import rig

from kmemleak_core.cli import main
from kmemleak_core.report.json import schema
from kmemleak_core.report.types_json import types_schema

SOURCE = rig.PROGRAMS / "types.cc"


@dataclass(frozen=True)
class Build:
    """How the program is made and dumped, and whether anything tells names of classes."""

    flags: tuple[str, ...] = ()
    stripped: bool = False
    how: rig.How = "capture"
    coredump_filter: int | None = rig.EVERYTHING

    @property
    def has_names(self) -> bool:
        return not self.stripped or "-fno-rtti" not in self.flags


#: The kernel's default leaves the read-only data out, where RTTI has its names.
BUILDS = {
    "symbols": Build(),
    "stripped": Build(stripped=True, how="kernel", coredump_filter=None),
    "static": Build(("-static", "-no-pie"), how="gcore"),
    "static-stripped": Build(
        ("-static", "-no-pie"), stripped=True, how="kernel", coredump_filter=None
    ),
    "no-rtti": Build(("-fno-rtti",)),
    "no-rtti-stripped": Build(("-fno-rtti",), stripped=True),
}


@dataclass(frozen=True, eq=False)
class Typed:
    """A core, what its program said, and the program."""

    core: Path
    truth: rig.Truth
    program: Path
    build: Build

    @cached_property
    def report(self) -> Any:
        return rig.scan(self.core)

    def expected(self, group: dict[str, list[int]]) -> dict[int, str]:
        """Return the types of a group's blocks by address; empty where nothing tells."""
        found = {}
        for said, addresses in group.items():
            what, name = _split(said.replace("~", " "))
            if what == "class":
                name = name if self.build.has_names else ""
            elif what == "vector":
                name = (
                    f"std::vector<{name}> buffer" if self.build.has_names else "std::vector buffer"
                )
            found.update(dict.fromkeys(addresses, name))
        return found


def _split(said: str) -> tuple[str, str]:
    for what in ("class:", "vector:"):
        if said.startswith(what):
            return what[:-1], said.removeprefix(what)
    return "", said


@pytest.fixture(scope="module", params=BUILDS.values(), ids=BUILDS)
def typed(request: pytest.FixtureRequest, big_folder: Path) -> Iterator[Typed]:
    build: Build = request.param
    folder = Path(tempfile.mkdtemp(dir=big_folder))
    program = rig.compile_program(SOURCE, flags=("-std=c++17", *build.flags))
    if build.stripped:
        stripped = folder / "stripped"
        strip = rig.need("strip", "binutils")
        subprocess.run([strip, "-o", stripped, program], check=True)
        program = stripped
    with rig.running([program], folder, coredump_filter=build.coredump_filter) as process:
        core = process.dump(build.how)
        yield Typed(core, rig.Truth.parse(process.lines), program, build)
    shutil.rmtree(folder)


def kinds(typed: Typed) -> dict[int, str]:
    """Return the types of all objects by address."""
    report = typed.report
    addresses = report.result.objects.address.tolist()
    return {address: report.kinds.kind_of(row) for row, address in enumerate(addresses)}


@pytest.mark.parametrize("fate", ["held", "lost"])
def test_each_block_is_what_the_program_says(typed: Typed, fate: str) -> None:
    found = kinds(typed)
    expected = typed.expected(getattr(typed.truth, fate))
    wrong = {
        hex(address): (name, found[address])
        for address, name in expected.items()
        if found[address] != name
    }
    assert len(expected) > 1000
    assert wrong == {}


def test_each_leak_is_what_the_program_says(typed: Typed) -> None:
    """A scan knows types by its leaks alone."""
    report = typed.report
    expected = typed.expected(typed.truth.lost)
    rows = [row for row, leak in enumerate(report.leaks) if leak.address in expected]
    assert len(rows) > 1000
    wrong = {
        hex(leak.address): (expected[leak.address], report.provenance.kind_of(row))
        for row in rows
        for leak in [report.leaks[row]]
        if report.provenance.kind_of(row) != expected[leak.address]
    }
    assert wrong == {}


def test_a_group_is_of_one_type_and_size_whatever_its_members_hold(typed: Typed) -> None:
    seen = [(g.origin.kind, g.size) for g in typed.report.groups if g.origin.kind]
    assert len(seen) == len(set(seen)) > 20


def test_types_adds_up_what_there_is(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["types", "--limit", "0", str(typed.core)]) == 0
    lines = capsys.readouterr().out.splitlines()
    both = typed.truth.held, typed.truth.lost
    nodes = sum(len(group["std::map/set~node"]) for group in both)
    (line,) = (line for line in lines if line.endswith("  std::map/set node"))
    assert f" {nodes} " in line


@pytest.mark.parametrize("typed", [BUILDS["stripped"]], indirect=True)
def test_without_its_file_names_degrade_and_containers_stay(typed: Typed, tmp_path: Path) -> None:
    report = rig.scan(typed.core, sysroot=tmp_path)
    found = {report.provenance.kind_of(row) for row in range(len(report.leaks))}
    assert "std::map/set node" in found
    assert not any("Two" in kind for kind in found)


def test_types_can_be_switched_off(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scan", "--no-types", "--hex", "0", str(typed.core)]) == 1
    assert "std::" not in capsys.readouterr().out


WITH_SYMBOLS = pytest.mark.parametrize("typed", [BUILDS["symbols"]], indirect=True)


@WITH_SYMBOLS
def test_filters_know_types(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    how = ["--type", "std::map*", "--group-by", "kind", "--json"]
    assert main(["scan", str(typed.core), *how]) == 1
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, schema())
    lost = typed.truth.lost
    assert {leak["kind"] for leak in document["leaks"]} == {"std::map/set", "std::map/set node"}
    assert {group["kind"]: group["objects"] for group in document["groups"]} == {
        "std::map/set": len(lost["std::map/set"]),
        "std::map/set node": len(lost["std::map/set~node"]),
    }
    assert main(["scan", "-q", str(typed.core), "--type", "no::such"]) == 0


@WITH_SYMBOLS
def test_suppressions_know_types(typed: Typed, tmp_path: Path) -> None:
    known = tmp_path / "known"
    known.write_text("type:app::*\ntype:std::*\ntype:Nothing\n")
    report = typed.report.suppress(known)
    left = {report.provenance.kind_of(row) for row in range(len(report.leaks))}
    assert "Two" in left
    assert not any(kind.startswith(("app::", "std::")) for kind in left)
    assert report.suppressions[0].count > 0
    assert report.suppressions[2].count == 0


@WITH_SYMBOLS
def test_the_table_of_types_is_as_the_schema_tells(
    typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    for leaks in (True, False):
        how = ["--json", "--limit", "0", "--redact", *(["--leaks"] if leaks else [])]
        assert main(["types", str(typed.core), *how]) == 0
        document = json.loads(capsys.readouterr().out)
        jsonschema.validate(document, types_schema())
        summary, types = document["summary"], document["types"]
        assert sum(one["objects"] for one in types) == summary["objects"]
        assert sum(one["bytes"] for one in types) == summary["bytes"]
        known = [one for one in types if one["type"] is not None]
        assert sum(one["objects"] for one in known) == summary["known_objects"]
        leaked = sum(one["leaked_objects"] for one in types)
        assert leaked == len(typed.report.leaks)
        assert (summary["objects"] == leaked) == leaks
        assert [one["bytes"] for one in types] == sorted((t["bytes"] for t in types), reverse=True)
        assert "text" not in {one["shape"] for one in types}


@WITH_SYMBOLS
def test_what_the_limit_leaves_out_is_added_up(
    typed: Typed, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["types", str(typed.core), "--json", "--limit", "2"])
    document = json.loads(capsys.readouterr().out)
    assert len(document["types"]) == 2
    rest = document["left_out"]
    assert rest["types"] > 10
    shown = sum(one["bytes"] for one in document["types"])
    assert shown + rest["bytes"] == document["summary"]["bytes"]
    main(["types", str(typed.core), "--limit", "2"])
    assert f"and {rest['types']} more types" in capsys.readouterr().out


@WITH_SYMBOLS
def test_explain_and_retained_name_types(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    address = typed.truth.held["class:Two"][0]
    assert main(["explain", str(typed.core), hex(address)]) == 0
    assert "[Two]" in capsys.readouterr().out
    assert main(["retained", str(typed.core)]) == 0
    assert "  std::unordered_map/set  " in capsys.readouterr().out


@WITH_SYMBOLS
def test_a_buffer_of_the_c_library_is_no_vector(typed: Typed) -> None:
    (address,) = typed.truth.held["class:"]
    assert kinds(typed)[address] == ""


@WITH_SYMBOLS
def test_a_file_that_is_another_one_is_not_believed(typed: Typed, tmp_path: Path) -> None:
    other = tmp_path / typed.program.relative_to("/")
    other.parent.mkdir(parents=True)
    shutil.copy(rig.compile_program("int main(void) { return 0; }\n"), other)
    report = rig.scan(typed.core, sysroot=tmp_path)
    assert "symbols.mismatch" in {note.code for note in report.coverage}
    found = {report.provenance.kind_of(row) for row in range(len(report.leaks))}
    assert "std::map/set node" in found
