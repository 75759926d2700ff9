"""Programs that nobody here wrote grow by a known amount: the difference of two dumps names it."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import others
import pytest
import rig

import kmemleak_core as km
from kmemleak_core.dumps.capture import capture


@contextmanager
def memcached(folder: Path) -> Iterator[tuple[rig.Process, int]]:
    port = others.free_port()
    command: list[str | Path] = [rig.need("memcached"), "-l", "127.0.0.1", "-p", str(port)]
    command += ["-U", "0", "-m", "64", "-t", "2", "-c", "128"]
    if os.geteuid() == 0:
        command += ["-u", "root"]
    with rig.running(command, folder, ready=None) as server:
        yield server, port


def fill(client: socket.socket, name: str, values: int, size: int) -> None:
    value = b"v" * size
    for i in range(values):
        client.sendall(b"set %s-%d 0 0 %d noreply\r\n%s\r\n" % (name.encode(), i, size, value))
    client.sendall(b"version\r\n")
    others.read_until(client, b"VERSION")


def dump(process: rig.Process, path: Path) -> Path:
    time.sleep(0.2)  # until what was hung up or grew in the background is done with
    process.settle()
    capture(process.pid, path)
    return path


def test_memcached_grows_by_what_it_stores(folder: Path) -> None:
    values, size, connections = 12_000, 900, 30
    with memcached(folder) as (server, port), others.connect(port) as client:
        fill(client, "first", 500, size)
        old = dump(server, folder / "old.core")
        fill(client, "second", values, size)
        more = [others.connect(port) for _ in range(connections)]
        try:
            for one in more:
                one.sendall(b"version\r\n")
                others.read_until(one, b"VERSION")
            new = dump(server, folder / "new.core")
        finally:
            for one in more:
                one.close()
    found = km.diff(old, new)
    assert found.by_address
    # Values lie in pages of 1 MB, of items of one size each: that of a value, its key and header.
    assert values * size <= found.growth.nbytes <= 1.4 * values * size
    pages = [g for g in found.groups() if g.size is not None and g.size >> 12 == (1 << 20) >> 12]
    grown = sum(group.growth.nbytes for group in pages)
    assert grown >= 0.9 * found.growth.nbytes
    assert all(group.growth.objects >= 0 for group in pages)
    assert found.groups(1)[0].size == pages[0].size
    # The program's own variables hold them, by name where it has symbols.
    for group in pages:
        assert all("memcached" in name for name, _ in group.held_by), group.held_by
    held = [change for change in found.holders if "memcached" in change.name]
    assert sum(change.growth.nbytes for change in held) >= 0.9 * found.growth.nbytes
    # Every connection has its own structures.
    assert any(connections <= g.growth.objects <= 1.5 * connections for g in found.groups())
    # And what was there before holds as much as it did.
    assert found.went.nbytes < 0.1 * found.growth.nbytes


PYTHON = r"""
import sys
class Node:
    def __init__(self): self.payload = bytes(700)
kept, table = [], {}
def grow(n):
    for i in range(n):
        kept.append(Node())
        table[len(table)] = bytearray(1500)
grow(100)
while True:
    print("ready", flush=True)
    sys.stdin.readline()
    grow(2000)
"""


@contextmanager
def python(folder: Path, **more: str) -> Iterator[tuple[Path, Path]]:
    environment = {"PATH": os.defpath, "HOME": str(folder), "LC_ALL": "C.UTF-8", **more}
    command: list[str | Path] = [rig.need("python3"), "-I", "-c", PYTHON]
    if more:
        command.remove("-I")  # which would not look at the environment
    with rig.running(
        command, folder, environment=environment, stdin=subprocess.PIPE
    ) as interpreter:
        assert interpreter.popen.stdin is not None
        old = dump(interpreter, folder / "old.core")
        interpreter.popen.stdin.write(b"\n")
        interpreter.popen.stdin.flush()
        interpreter.read_until("ready")
        yield old, dump(interpreter, folder / "new.core")


def grown_by(found: km.Difference, least: int, most: int) -> int:
    """Return by how many the groups of objects of such sizes have grown."""
    groups = [g for g in found.groups() if g.size is not None and least <= g.size <= most]
    return sum(group.growth.objects for group in groups)


@pytest.mark.parametrize("allocator", ["pymalloc", "malloc"])
def test_python_grows_by_what_it_keeps(folder: Path, allocator: str) -> None:
    more = {"PYTHONMALLOC": "malloc"} if allocator == "malloc" else {}
    with python(folder, **more) as (old, new):
        found = km.diff(old, new)
    assert found.by_address
    # What is larger than 512 bytes is malloc's in either case: payloads and arrays.
    assert abs(grown_by(found, 1501, 1520) - 2000) <= 2
    assert abs(grown_by(found, 733, 760) - 2000) <= 2
    assert found.growth.nbytes >= 2000 * 2200
    if allocator == "pymalloc":
        # Python's own heap, in which the dictionary and the nodes lie, holds them.
        assert found.holders[0].name == "anonymous mapping"
        assert found.holders[0].growth.nbytes >= 2000 * 2200
        return
    assert found.growth.objects >= 4 * 2000
    growth = {change.name: change.growth.objects for change in found.types}
    assert growth["__main__.Node"] == 2000
    assert abs(growth["bytes"] - 2000) <= 2
    # The table, an object of some 70 bytes that was there before, holds what was put into it.
    table = next(anchor for anchor in found.anchors() if anchor.address is not None)
    assert table.size is not None
    assert table.size < 128
    assert table.kind == "dict"
    assert table.amount.nbytes >= 2000 * 1500
    assert table.amount.objects >= 2 * 2000
