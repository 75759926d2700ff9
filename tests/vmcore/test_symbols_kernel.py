"""What a dump alone tells of its kernel: names, types and places."""

from __future__ import annotations

import gzip
import json
from collections import Counter

import pytest

from kmemleak_core.dump import Dump
from kmemleak_core.dumps import open_dump
from kmemleak_core.errors import DumpError
from kmemleak_core.image import MemoryImage
from kmemleak_core.linux.kernel import open_kernel

from .conftest import SNAPSHOTS


def number(text: str) -> int:
    return int(text, 16)


@pytest.fixture(scope="module", params=SNAPSHOTS)
def snapshot(request, shared_data, vmcores):
    return shared_data / "vmcore" / request.param, open_kernel(open_dump(vmcores(request.param)))


def test_every_symbol_is_that_of_proc_kallsyms(snapshot):
    folder, kernel = snapshot
    with gzip.open(folder / "kallsyms.txt.gz", "rt") as file:
        lines = [line.split() for line in file]
    told = Counter(
        (int(address, 16), kind, name) for address, kind, name, *module in lines if not module
    )
    found = Counter((s.address, s.kind, s.name) for s in kernel.symbols.kernel)
    # The table was written with equal lines merged, and without kinds that nm does not know.
    assert told <= found
    more = found - told
    assert all(kind == "?" or (a, kind, name) in told for a, kind, name in more)


def test_the_places_are_those_that_the_tables_tell(snapshot):
    folder, kernel = snapshot
    meta = json.loads((folder / "meta.json").read_text())
    assert kernel.release == meta["kernel"]
    assert kernel.page_size == 4096
    assert kernel.direct_map == number(meta["page_offset"])
    assert kernel.page_array == number(meta["vmemmap"])
    assert kernel.per_cpu_offsets == tuple(map(number, meta["per_cpu_offset"]))
    assert kernel.types.struct("page").size == meta["struct_page_size"]


def test_what_is_no_machines_dump_is_refused():
    with pytest.raises(DumpError, match="whole machine"):
        open_kernel(Dump(MemoryImage([])))


def told_symbols(folder, *, modules: bool) -> Counter:
    with gzip.open(folder / "kallsyms.txt.gz", "rt") as file:
        lines = [line.split() for line in file]
    return Counter(
        (int(address, 16), kind, name, "".join(module).strip("[]"))
        for address, kind, name, *module in lines
        if bool(module) == modules
    )


def test_every_module_and_its_symbols_are_those_of_proc_kallsyms(snapshot):
    folder, kernel = snapshot
    found = Counter(
        (s.address, s.kind, s.name, s.module) for m in kernel.modules for s in m.symbols
    )
    assert found == told_symbols(folder, modules=True)
    assert not kernel.coverage.notes


def test_a_module_answers_for_its_own_symbols(snapshot):
    folder, kernel = snapshot
    for address, _, name, module in told_symbols(folder, modules=True):
        assert kernel.symbols.address(f"{module}:{name}") == address
    assert kernel.symbols.address("nosuch:_stext") is None


def test_every_frame_of_every_backtrace_has_the_kernels_text(snapshot):
    folder, kernel = snapshot
    with gzip.open(folder / "traces.json.gz", "rt") as file:
        frames = {tuple(frame) for frames in json.load(file).values() for frame in frames}
    loaded = {m.name for m in kernel.modules}
    compared = 0
    for address, told in frames:
        text = kernel.symbols.text(int(address, 16))
        name, _, module = text.partition("/0x")
        module = module.partition(" ")[2]
        if not told or told.startswith("0x"):
            continue
        # The tables write `name [module]+0x1`, the kernel `name+0x1/0x20 [module]`.
        function, _, offset = told.rpartition("+")
        function, _, owner = function.partition(" ")
        if owner and owner.strip("[]") not in loaded:
            continue
        assert (name, module) == (f"{function}+{offset}", owner)
        compared += 1
    assert compared > 1000


def test_the_types_of_a_module_are_asked_by_its_name(snapshot):
    _, kernel = snapshot
    if "kmemleak_test" not in {m.name for m in kernel.modules}:
        assert kernel.types.struct("*:test_node") is None
        return
    # samples/kmemleak: 25 longs, a list_head, 25 longs
    assert kernel.types.struct("test_node") is None
    assert kernel.types.member("kmemleak_test:test_node", "list.prev").offset == 208
    assert kernel.types.struct("*:test_node").size == 416
    assert kernel.types.struct("kmemleak_test:page") == kernel.types.struct("page")
