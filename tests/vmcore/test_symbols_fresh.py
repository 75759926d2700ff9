"""Kernels that nobody here built: every name, every module and its types, from the dump alone."""

from __future__ import annotations

import pytest

from kmemleak_core.dumps import open_dump
from kmemleak_core.linux.kernel import open_kernel
from kmemleak_core.symbols.kallsyms import read_kallsyms

rig = pytest.importorskip("tests.vmcore.rig", reason="the rig that boots kernels is not there")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module", params=["bookworm", "trixie", "sid"])
def guest(request):
    try:
        fresh = rig.fresh(request.param)["plain"]
    except rig.RigError as error:
        pytest.skip(str(error))
    return fresh, open_kernel(open_dump(fresh.vmcore))


def told(fresh) -> list[tuple[int, str, str, str]]:
    """Return /proc/kallsyms: address, letter, name, module."""
    found = []
    for line in fresh.text("kallsyms").splitlines():
        address, letter, rest = line.split(None, 2)
        name, _, module = rest.partition("\t")
        found.append((int(address, 16), letter, name, module.strip("[]")))
    return found


def test_every_symbol_is_that_of_proc_kallsyms_in_its_order(guest):
    fresh, kernel = guest
    expected = [line[:3] for line in told(fresh) if not line[3]]
    assert len(expected) > 50_000
    assert [(s.address, s.kind, s.name) for s in kernel.symbols.kernel] == expected


def test_every_symbol_of_a_module_is_that_of_proc_kallsyms(guest):
    fresh, kernel = guest
    # It writes exported ones in capitals, and places that are marked for tools too.
    expected = {
        (address, letter.lower(), name, module)
        for address, letter, name, module in told(fresh)
        if module in {m.name for m in kernel.modules} and not name.startswith((".L", "$"))
    }
    found = {(s.address, s.kind, s.name, s.module) for m in kernel.modules for s in m.symbols}
    assert found == expected
    assert len(kernel.modules) >= 8
    assert not kernel.coverage.notes


def test_modules_bring_their_types(guest):
    _, kernel = guest
    assert set(kernel.types.modules) == {m.name for m in kernel.modules}
    assert kernel.types.struct("xfs_inode") is None
    assert kernel.types.member("xfs:xfs_inode", "i_vnode.i_ino").size == 8
    assert kernel.types.struct("*:xfs_inode") == kernel.types.struct("xfs:xfs_inode")
    assert not kernel.coverage.notes


def test_the_places_of_memory_are_found(guest):
    _, kernel = guest
    assert kernel.release
    for address in (kernel.direct_map, kernel.page_array):
        assert kernel.image.find(address + 0x10_0000 * (address == kernel.direct_map)) is not None
    assert len(kernel.per_cpu_offsets) == 2


def test_kernels_before_6_2_have_tables_that_are_found_without_vmcoreinfo(guest):
    _, kernel = guest
    if not kernel.release.startswith("6.1."):
        pytest.skip("its tables lie in another order")
    info = kernel.dump.machine.info
    silent = {name: value for name, value in info.items() if "kallsyms" not in name}
    found = read_kallsyms(kernel.image, silent)
    assert found.names == kernel.symbols.kernel.names
    assert found.addresses.tolist() == kernel.symbols.kernel.addresses.tolist()
