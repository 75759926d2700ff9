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
