"""The same verdict on the same machine, whatever its memory and its types come from."""

from __future__ import annotations

import pytest

from kmemleak_core.cli import main
from kmemleak_core.dumps import open_dump
from kmemleak_core.linux.kernel import Kernel, open_kernel
from kmemleak_core.linux.kmemleak import find_kmemleak
from kmemleak_core.linux.verdict import AS_KERNEL, find_verdict

from ..test_scan_vmcore import number, rows


@pytest.fixture(scope="module")
def expected(shared_data):
    return [number(r["address"]) for r in rows(shared_data / "vmcore" / "snap1" / "expected.csv")]


def reported(kernel: Kernel) -> list[int]:
    found = find_kmemleak(kernel)
    assert found is not None
    assert not list(found.heap.coverage)
    verdict = find_verdict(kernel, found, AS_KERNEL)
    assert not list(kernel.coverage)
    return found.objects.address[verdict.rows].tolist()


def test_out_of_a_compressed_and_filtered_dump(shared_data, expected):
    kernel = open_kernel(open_dump(shared_data / "vmcore" / "snap1" / "vmcore.lzo-d31.kdump"))
    assert reported(kernel) == expected


def test_with_the_types_of_a_vmlinux(vmcores, vmlinux, expected):
    pytest.importorskip("drgn", reason="drgn reads DWARF: pip install 'kmemleak-core[vmcore]'")
    kernel = open_kernel(open_dump(vmcores("snap1")), vmlinux=vmlinux)
    assert "DWARF" in kernel.types.origin
    assert reported(kernel) == expected


def test_with_a_layout_file(vmcores, vmlinux, tmp_path, expected):
    pytest.importorskip("drgn", reason="drgn reads DWARF: pip install 'kmemleak-core[vmcore]'")
    layout = tmp_path / "layout.json"
    assert main(["vmcore", "layout", str(vmlinux), "-o", str(layout)]) == 0
    kernel = open_kernel(open_dump(vmcores("snap1")), layout=layout)
    assert "layout" in kernel.types.origin
    assert reported(kernel) == expected
