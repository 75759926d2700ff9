"""A kernel that crashed: what kdump's kernel sees of it, as it is and as makedumpfile leaves it."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from kmemleak_core import Dump
from kmemleak_core.dumps import open_dump
from kmemleak_core.dumps.elf_headers import PT_LOAD, read_header, read_program_headers

from .crash import CrashError, crash

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    """Return a copy of /proc/vmcore and the head of /proc/kcore."""
    if importlib.util.find_spec("tests.vmcore.rig") is None:
        pytest.skip("the rig that fetches kernels is not here")
    from .rig.guests import cache_folder
    from .rig.packages import RigError, fetch

    try:
        packages = fetch("bookworm", "amd64", cache_folder())
        return crash(packages.image, packages.busybox, tmp_path_factory.mktemp("crash"))
    except (RigError, CrashError, subprocess.SubprocessError) as error:
        pytest.skip(f"no kernel to crash: {error}")


@pytest.fixture(scope="module")
def dump(files) -> Dump:
    return open_dump(files[0])


def test_the_kernel_and_its_processors_are_there(dump):
    assert (dump.format, dump.architecture) == ("vmcore", "x86_64")
    assert dump.image.read(int(dump.machine.info["SYMBOL(init_uts_ns)"], 16), 5) == b"Linux"
    assert [t.tid for t in dump.threads] == [0, 1]
    # They were in the kernel, on stacks that the dump has.
    assert all(dump.image.find(t.stack_pointer) for t in dump.threads)
    assert all(dump.image.find(t.registers["rip"]) for t in dump.threads)


def test_the_memory_of_the_second_kernel_alone_is_missing(dump):
    physical = dump.machine.physical
    assert physical.nbytes < 512 << 20
    large = [h for h in dump.image.holes if h.size > 2 << 20]
    assert [h.size for h in large] == [192 << 20]
    assert [n.code for n in dump.coverage] == ["vmcore.missing"]


def test_kallsyms_and_types_are_found_in_it(dump):
    from kmemleak_core.linux.kernel import open_kernel

    kernel = open_kernel(dump)
    # The processor that crashed had been asked to.
    assert "crash" in kernel.symbols.text(dump.threads[0].registers["rip"]) + "".join(
        kernel.symbols.text(int(word))
        for word in dump.image.words(dump.threads[0].stack_pointer, 64)
    )


@pytest.mark.parametrize("options", ["-l -d31", "-c -d31", "-E -d31"])
def test_what_makedumpfile_leaves_of_it_is_the_same(files, dump, tmp_path, options):
    program = shutil.which("makedumpfile")
    if program is None:
        pytest.skip("makedumpfile is not installed: apt-get install makedumpfile")
    made = tmp_path / "made"
    command = [program, *options.split(), str(files[0]), str(made)]
    subprocess.run(command, capture_output=True, check=True)
    left = open_dump(made)
    assert left.machine.missing > 0
    for part in left.machine.physical.ranges:
        assert np.array_equal(part.data, dump.machine.physical.view(part.address, part.data.size))
    assert (left.machine.info, left.threads) == (dump.machine.info, dump.threads)


def test_kcore_has_the_layout_that_the_small_machines_have(files):
    from kmemleak_core.coverage import Coverage

    data = np.fromfile(files[1], np.uint8)
    loads = read_program_headers(data, read_header(data), Coverage())
    loads = loads.select(loads.type == PT_LOAD)
    nowhere = loads.physical == np.uint64((1 << 64) - 1)
    assert nowhere.any()
    assert (~nowhere).any()
    assert (loads.address >= np.uint64(1 << 63)).all()
