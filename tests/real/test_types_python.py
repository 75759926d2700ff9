"""A Python program that says what its objects are: the types that are found are these."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import rig

from kmemleak_core.cli import main

#: The machine's, and others whose layouts differ.
INTERPRETERS = ["/usr/bin/python3", "python3.7", "python3.9", "python3.12", "python3.13"]

#: Says where objects are, what they are and how long; then how many the collector knows of each.
PROGRAM = r"""
import collections, gc, os, sys, time, xml.etree.ElementTree

class Point:
    def __init__(self, i):
        self.x, self.y = i, str(i) * 30

class Slots:
    __slots__ = ("a", "b")

class Names(dict):
    pass

Made = type("Made", (), {"__module__": "some.where"})
Pair = collections.namedtuple("Pair", "first second")

def bytes_of(i):
    return b"b" * (600 + i)

kept = {
    "__main__.Point": [Point(i) for i in range(300)],
    "__main__.Slots": [Slots() for _ in range(200)],
    "__main__.Names": [Names(a=i) for i in range(100)],
    "__main__.Pair": [Pair(i, i) for i in range(100)],
    "some.where.Made": [Made() for _ in range(50)],
    "collections.OrderedDict": [collections.OrderedDict(a=i) for i in range(40)],
    "xml.etree.ElementTree.Element": [xml.etree.ElementTree.Element("a") for _ in range(40)],
    "dict": [{i: str(i)} for i in range(250)],
    "list": [[i] * (i + 1) for i in range(250)],
    "set": [set(range(i + 9)) for i in range(150)],
    "tuple": [tuple([i] * (i % 30 + 1)) for i in range(200)],
    "str": ["s%d" % i * (i % 60 + 1) for i in range(300)] + ["\u20ac" * i for i in range(1, 50)],
    "bytes": [bytes_of(i) for i in range(60)],
    "int": [10 ** (5 + i) for i in range(100)],
    "float": [i * 1.5 for i in range(100)],
    "function": [lambda: i for i in range(60)],
}
gc.collect()
for name, objects in kept.items():
    for one in objects:
        print("object", name, hex(id(one)), sys.getsizeof(one))
counts = collections.Counter(type(one).__name__ for one in gc.get_objects())
for name in ("Point", "Slots", "Names", "Pair", "Made", "OrderedDict"):
    print("count", name, counts[name], 0)
print("ready", flush=True)
time.sleep(1000)
"""


@dataclass(frozen=True, eq=False)
class Typed:
    """A core, and what its program said: type, address and size of objects."""

    core: Path
    objects: list[tuple[str, int, int]]
    counts: dict[str, int]

    @cached_property
    def report(self) -> Any:
        return rig.scan(self.core)

    def found(self) -> Counter[str]:
        kinds = self.report.kinds
        return Counter(kinds.kind_of(row) for row in range(len(self.report.result.objects)))


def interpreter(name: str) -> str:
    """Return an interpreter's path: as it is installed, or by pyenv."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    release = name.removeprefix("python")
    for path in (*root.glob(f"versions/{release}.*/bin/{name}"), shutil.which(name)):
        if path is not None:
            return str(path)
    pytest.skip(f"needs {name} (apt-get install {name}, or pyenv install {release})")


@contextmanager
def taken(folder: Path, allocator: str, python: str = "/usr/bin/python3") -> Iterator[Typed]:
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "PYTHONMALLOC": allocator}
    command = [interpreter(python), "-c", PROGRAM]
    with rig.running(command, folder, environment=environment) as process:
        core = process.dump("capture")
        said = [line.split() for line in process.lines]
    objects = [(name, int(at, 16), int(size)) for what, name, at, size in said if what == "object"]
    counts = {name: int(count) for what, name, count, _ in said if what == "count"}
    yield Typed(core, objects, counts)
    shutil.rmtree(folder)


@pytest.fixture(scope="module", params=INTERPRETERS)
def typed(request: pytest.FixtureRequest, big_folder: Path) -> Iterator[Typed]:
    """Every object in a block of its own."""
    with taken(big_folder / Path(request.param).name, "malloc", request.param) as made:
        yield made


@pytest.fixture(scope="module")
def usual(big_folder: Path) -> Iterator[Typed]:
    """Small objects in pymalloc's arenas."""
    with taken(big_folder / "python-pymalloc", "pymalloc") as made:
        yield made


def test_each_object_is_of_the_type_that_the_program_says(typed: Typed) -> None:
    result, kinds = typed.report.result, typed.report.kinds
    wrong = []
    for name, address, size in typed.objects:
        row = result.objects.find(address)
        assert row is not None
        if name in ("str", "bytes", "tuple", "int", "float"):
            assert int(result.objects.size[row]) >= size
        if kinds.kind_of(row) != name:
            wrong.append((name, kinds.kind_of(row), hex(address)))
    assert wrong == []


def test_there_are_as_many_objects_of_each_class_as_the_collector_knows(typed: Typed) -> None:
    found = typed.found()
    for name, count in typed.counts.items():
        (kind,) = (kind for kind in found if kind.rpartition(".")[2] == name)
        assert (kind, found[kind]) == (kind, count)


def test_what_containers_own_is_told(typed: Typed) -> None:
    found = typed.found()
    for kind, least in (("list items", 250), ("dict keys", 350), ("set table", 100)):
        assert found[kind] >= least, kind


def test_large_objects_and_buffers_are_blocks_anyway(usual: Typed) -> None:
    objects, kinds = usual.report.result.objects, usual.report.kinds
    large = [
        (kinds.kind_of(row), address)
        for name, address, size in usual.objects
        if name == "bytes" and size > 512
        for row in [objects.find(address)]
    ]
    assert len(large) == 60
    assert {kind for kind, _ in large} == {"bytes"}
    # Those of more than 64 elements, whichever way small ones are allocated.
    assert usual.found()["list items"] >= 150


def test_explain_names_an_object(typed: Typed, capsys: pytest.CaptureFixture[str]) -> None:
    _, address, _ = next(one for one in typed.objects if one[0] == "__main__.Point")
    assert main(["explain", str(typed.core), hex(address)]) == 0
    assert "__main__.Point" in capsys.readouterr().out
