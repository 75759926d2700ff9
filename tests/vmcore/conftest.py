"""Real kernels' dumps, unpacked once a session, and their memory as the neutral tables map it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zstandard

from kmemleak_core.dump import Dump, Machine
from kmemleak_core.image import MemoryImage
from kmemleak_core.physical import PhysicalMemory, PhysicalRange

from ..test_scan_vmcore import number, physical_memory, rows

SNAPSHOTS = ("snap1", "snap2", "big")


def unpack(packed: Path, into: Path) -> Path:
    with packed.open("rb") as source, into.open("wb") as out:
        zstandard.ZstdDecompressor(max_window_size=1 << 27).copy_stream(source, out)
    return into


@pytest.fixture(scope="session")
def vmcores(shared_data, tmp_path_factory):
    """Return where a snapshot's vmcore lies, unpacked."""
    made: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("vmcores")

    def vmcore(name: str) -> Path:
        if name not in made:
            packed = shared_data / "vmcore" / name / "vmcore.elf.zst"
            made[name] = unpack(packed, folder / f"{name}.elf")
        return made[name]

    return vmcore


@pytest.fixture(scope="session")
def vmlinux(shared_data, tmp_path_factory):
    """Return the kernel's file: its symbols and DWARF, no code, no BTF."""
    folder = tmp_path_factory.mktemp("vmlinux")
    return unpack(shared_data / "vmcore" / "vmlinux.debug.zst", folder / "vmlinux")


@pytest.fixture(scope="session")
def mapped(shared_data, vmcores):
    """Return a snapshot as a Dump, its memory mapped as the neutral tables tell."""
    made: dict[str, Dump] = {}

    def dump(name: str) -> Dump:
        if name not in made:
            made[name] = mapped_dump(shared_data / "vmcore" / name, vmcores(name))
        return made[name]

    return dump


def mapped_dump(folder: Path, core: Path) -> Dump:
    physical = physical_memory(core)
    segments = []
    for mapping in rows(folder / "mapping.csv"):
        va, pa, size = (number(mapping[k]) for k in ("va", "pa", "size"))
        for start, data in physical:
            begin, end = max(pa, start), min(pa + size, start + data.size)
            if begin < end:
                segments.append((va + begin - pa, data[begin - start : end - start]))
    meta = json.loads((folder / "meta.json").read_text())
    return Dump(
        MemoryImage.from_segments(segments),
        path=str(core),
        format="vmcore",
        architecture="x86_64",
        machine=Machine(
            PhysicalMemory(PhysicalRange(*one) for one in physical), meta["vmcoreinfo"]
        ),
    )
