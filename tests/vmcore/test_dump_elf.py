"""Real kernels' ELF dumps, opened: the kernel's memory where its page tables have it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from kmemleak_core.dump import Dump
from kmemleak_core.dumps import open_dump

from .conftest import SNAPSHOTS


@pytest.fixture(scope="module", params=SNAPSHOTS)
def snapshot(request, shared_data, vmcores) -> tuple[Dump, Path]:
    return open_dump(vmcores(request.param)), shared_data / "vmcore" / request.param


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_page_is_where_the_kernels_tables_map_it(snapshot):
    dump, folder = snapshot
    image, physical = dump.image, dump.machine.physical
    file = physical.ranges[0].data.ctypes.data
    found = [(s.address, s.data.ctypes.data - file, s.size) for s in image.segments]
    expected, missing = [], []
    for row in rows(folder / "mapping.csv"):
        virtual, at, size = (int(row[k], 0) for k in ("va", "pa", "size"))
        held = max(0, min(at + size, physical.nbytes) - at)
        if held:
            expected.append((virtual, at, held))
        if held < size:
            missing.append((virtual + held, size - held))
    assert found == expected
    assert [(h.address, h.size) for h in image.holes] == missing


def test_pages_that_are_mapped_and_not_in_the_dump_are_counted(snapshot):
    dump, _ = snapshot
    # The registers of the two APICs and of the timer, which is mapped twice.
    (note,) = dump.coverage
    assert (note.code, note.nbytes, note.address) == ("vmcore.missing", 4 * 4096, note.address)
    assert dump.machine.missing == 0


def test_registers_are_the_processors(snapshot):
    dump, folder = snapshot
    names = {"rflags": "eflags", "fs.base": "fs_base", "gs.base": "gs_base"}
    for row in rows(folder / "regs.csv"):
        name = names.get(row["register"], row["register"])
        assert dump.threads[int(row["cpu"])].registers[name] == int(row["value"], 0)
    assert [t.tid for t in dump.threads] == [0, 1]


def test_what_the_kernel_left_for_its_dump_is_there(snapshot):
    dump, folder = snapshot
    assert dump.machine.info == json.loads((folder / "meta.json").read_text())["vmcoreinfo"]
    assert (dump.format, dump.architecture) == ("vmcore", "x86_64")


def test_symbols_addresses_lead_to_their_memory(snapshot):
    dump, _ = snapshot
    uts = int(dump.machine.info["SYMBOL(init_uts_ns)"], 16)
    assert dump.image.read(uts, 5) == b"Linux"


def test_memory_is_not_copied(snapshot):
    dump, _ = snapshot
    physical = dump.machine.physical.ranges[0].data
    assert all(np.shares_memory(s.data, physical) for s in dump.image.segments[:20])
