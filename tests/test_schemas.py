"""Schemas: whatever a subcommand writes as JSON is as one of those tells that the package ships."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest

import kmemleak_core
from kmemleak_core import scan
from kmemleak_core.cli import main
from kmemleak_core.cli.command import SUBCOMMANDS, build_parser
from kmemleak_core.dumps.capture import capture

from .builders.programs import compile_c, running

try:
    import tomllib
except ImportError:  # before Python 3.11
    tomllib = None  # type: ignore[assignment]

PACKAGE = Path(kmemleak_core.__file__).parent

#: Leaks pairs, and keeps one object by its middle alone.
PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
void **volatile held;
char *volatile middle;
int main(void) {
    middle = (char *)malloc(200) + 24;
    for (int i = 0; i < 10; i++) {
        held = malloc(100);
        held[0] = malloc(50);
    }
    held = NULL;
    puts("ready");
    fflush(stdout);
    getchar();
}
"""

EVENTS = """kind,address,size,time,trace
alloc,0x1000,32,1,main;make
alloc,0x2000,64,2,main;make
free,0x1000,0,3,main
free,0x1000,0,4,main
"""

KERNEL_REPORT = """unreferenced object 0xffff888003a1c000 (size 64):
  comm "insmod", pid 71, jiffies 4294893210 (age 12.340s)
  hex dump (first 16 bytes):
    6b 6b 6b 6b 6b 6b 6b 6b 00 00 00 00 00 00 00 00  kkkkkkkk........
  backtrace:
    [<ffffffffc0000010>] make+0x10/0x40 [things]
"""


class Inputs(NamedTuple):
    core: Path
    #: Addresses of a leak, and of what is possibly lost.
    leak: str
    possible: str
    events: Path
    kernel_report: Path
    census: Path
    json_report: Path


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("schemas")
    core = folder / "core"
    with running(compile_c(folder, "leaky", PROGRAM)) as process:
        capture(process.pid, core)
    report = scan(core)
    (folder / "events.csv").write_text(EVENTS)
    (folder / "kernel.txt").write_text(KERNEL_REPORT)
    assert main(["census", "-q", "-o", str(folder / "census"), str(core)]) == 0
    assert main(["scan", "-q", "--json", "-o", str(folder / "report.json"), str(core)]) == 1
    return Inputs(
        core,
        hex(report.leaks["address"][0]),
        hex(report.possible["address"][0]),
        folder / "events.csv",
        folder / "kernel.txt",
        folder / "census",
        folder / "report.json",
    )


def schemas() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return the file and schema of each kind of document that one of ours describes."""
    found = {}
    for path in sorted(PACKAGE.glob("**/*.json")):
        schema = json.loads(path.read_text(encoding="utf-8"))
        if "$schema" in schema:
            name = schema["properties"]["schema"]
            for kind in name.get("enum", [name.get("const")]):
                assert kind not in found, f"{path} and {found[kind][0]}"
                found[kind] = (path.name, schema)
    return found


#: Command lines, and the kind of document that each writes.
COMMANDS = [
    ("scan --json {core}", "kmemleak-report"),
    ("scan --json --redact --limit 1 --min-size 60 {core}", "kmemleak-report"),
    ("scan --json --all --group-by size --sort count {core}", "kmemleak-report"),
    ("scan --json --no-possible --no-types {core}", "kmemleak-report"),
    ("explain --json {core} {leak}", "kmemleak-explanation"),
    ("explain --json --redact {core} {possible}", "kmemleak-explanation"),
    ("referrers --json {core} {possible}", "kmemleak-referrers"),
    ("paths --json {core} {leak}", "kmemleak-paths"),
    ("paths --json --limit 0 {core} {possible}", "kmemleak-paths"),
    ("retained --json {core}", "kmemleak-retained"),
    ("retained --json --by module --redact {core}", "kmemleak-retained"),
    ("types --json {core}", "kmemleak-types"),
    ("types --json --leaks --redact --limit 1 {core}", "kmemleak-types"),
    ("cluster --format json {core}", "kmemleak-cluster"),
    ("cluster --format json --redact {core} {possible}", "kmemleak-cluster"),
    ("diff --json {core} {core}", "kmemleak-diff"),
    ("diff --json --redact {census} {core}", "kmemleak-diff"),
    ("diff --json {json_report} {json_report}", "kmemleak-diff"),
    ("replay --json {events}", "kmemleak-replay"),
    ("parse --json {kernel_report}", "kmemleak-kernel-report"),
    ("parse --json --redact {kernel_report}", "kmemleak-kernel-report"),
]
#: What needs a kernel with kmemleak: tests/test_cli_kernel.py has one that behaves like it.
ELSEWHERE = {"kernel"}


@pytest.mark.parametrize(("line", "kind"), COMMANDS, ids=[line for line, _ in COMMANDS])
def test_what_a_command_writes_is_as_its_schema_tells(
    line: str, kind: str, inputs: Inputs, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.format(**inputs._asdict()).split()) in (0, 1)
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == kind
    jsonschema.Draft202012Validator(schemas()[kind][1]).validate(document)


def test_every_command_that_writes_json_is_held_to_its_schema() -> None:
    (subparsers,) = (
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    writers = set()
    for name in SUBCOMMANDS:
        for action in subparsers.choices[name]._actions:
            if "--json" in action.option_strings or "json" in (action.choices or ()):
                writers.add(name)
    assert writers == {line.split()[0] for line, _ in COMMANDS} | ELSEWHERE


def test_every_schema_is_one_and_is_met() -> None:
    found = schemas()
    assert set(found) == {kind for _, kind in COMMANDS}
    for kind, (_, schema) in found.items():
        jsonschema.Draft202012Validator.check_schema(schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({"schema": kind}, schema)


@pytest.mark.skipif(tomllib is None, reason="reading pyproject.toml needs Python 3.11")
def test_whatever_is_read_beside_the_modules_is_packaged() -> None:
    project = PACKAGE.parent / "pyproject.toml"
    if not project.is_file():
        pytest.skip("the package is installed: there is no pyproject.toml beside it")
    told = tomllib.loads(project.read_text(encoding="utf-8"))
    patterns = told["tool"]["setuptools"]["package-data"]["kmemleak_core"]
    packaged = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    built = {".py", ".pyc", ".pyx", ".c", ".cpp", ".so"}
    beside = {p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix not in built}
    assert {str(p.relative_to(PACKAGE)) for p in beside - packaged} == set()
    assert any(path.suffix == ".json" for path in packaged)
