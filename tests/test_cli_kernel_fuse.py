"""kmemleak kernel on a real file: the control file of this very project, mounted by FUSE."""

from __future__ import annotations

import errno
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmemleak_core import UsageError
from kmemleak_core.kernel import KernelFile, KernelFileError, check_kernel
from kmemleak_core.kernel_record import KernelFrame, KernelRecord
from kmemleak_core.report.kernel_layouts import format_record

AGE = 0.2  # seconds


class Counters:
    interrupted = False
    new_leaks = 0


class Ageing:
    """As much of a detector as the control file asks for: objects leak, age and are reported."""

    strict_kernel = False
    stack_scan = True
    scan_period = 600.0

    def __init__(self) -> None:
        self.enabled = True
        self.disable_reason = ""
        self.leaks: dict[int, float] = {}
        self.seen: set[int] = set()
        self.reported: set[int] = set()

    def alloc(self, address: int, size: int) -> None:
        self.leaks[address] = time.monotonic()

    def scan(self, cancel: object = None) -> Counters:
        now = time.monotonic()
        self.reported |= {a for a in self.seen & self.leaks.keys() if self.leaks[a] + AGE <= now}
        self.seen |= self.leaks.keys()
        return Counters()

    def clear(self) -> int:
        for address in self.reported:
            self.leaks.pop(address, None)
        return 0

    def clear_all(self) -> int:
        return 0

    def disable(self, reason: str = "off") -> None:
        self.enabled, self.disable_reason = False, reason

    def start_scanning(self, period: float | None = None, first: float | None = None) -> None:
        pass

    def stop_scanning(self) -> None:
        pass

    def read(self, layout: str = "6.8") -> str:
        frame = KernelFrame(None, "make+0x1/0x2 [mod]")
        found = [a for a in self.leaks if a in self.reported]
        records = [KernelRecord(a, 64, comm="f\ng", crc=0, frames=(frame,)) for a in found]
        return "".join(f"{line}\n" for r in records for line in format_record(r, layout))

    def describe(self, address: int) -> str:
        return ""

    def stats(self) -> dict[str, int]:
        return {}

    def unreferenced(self) -> list[object]:
        return []


def ageing() -> Any:
    return Ageing()


def embedded() -> Any:
    """The detector itself, over memory in which nothing refers to anything."""
    try:
        found = importlib.import_module("kmemleak_core.detector").Kmemleak
    except ImportError:
        pytest.skip("there is no detector (kmemleak_core.detector) to serve")
    if not hasattr(found, "scan") or not hasattr(found, "read"):
        pytest.skip("the detector (kmemleak_core.detector) cannot scan yet")
    from kmemleak_core import MemoryImage

    image = MemoryImage.from_segments(
        [(0x1000, bytearray(4096)), (0x20000, bytearray(4096))], word_size=8, byteorder="little"
    )
    detector = found(image, min_age=AGE)
    detector.add_root(0x1000, 4096)
    return detector


@pytest.fixture(params=[ageing, embedded], ids=["double", "detector"])
def detector(request: pytest.FixtureRequest) -> Any:
    return request.param()


@pytest.fixture
def mounted(detector: Any, tmp_path: Path) -> Iterator[Path]:
    try:
        fuse_file = importlib.import_module("kmemleak_core.serve.fuse_file")
    except ImportError:
        pytest.skip("there is no FUSE server (kmemleak_core.serve.fuse_file) to test with")
    folder = tmp_path / "mnt"
    folder.mkdir()
    try:
        served = fuse_file.mount(detector, folder)
    except UsageError as error:
        pytest.skip(f"no FUSE here: {error}")
    with served:
        yield served.path


def check(file: Path, run: Any = None, **more: Any) -> Any:
    return check_kernel(KernelFile(file), run, wait=AGE + 0.1, confirm=0.1, **more)


def test_what_leaks_while_something_runs_is_found(detector: Any, mounted: Path) -> None:
    detector.alloc(0x20000, 64)
    for _ in range(2):
        time.sleep(AGE + 0.1)
        KernelFile(mounted).command("scan")

    def run() -> int:
        detector.alloc(0x20100, 64)
        return 0

    result = check(mounted, run)
    assert [record.address for record in result.report.records] == [0x20100]
    assert list(result.report.coverage) == []


def test_or_told_from_what_leaked_before(detector: Any, mounted: Path) -> None:
    detector.alloc(0x20000, 64)
    for _ in range(2):
        time.sleep(AGE + 0.1)
        KernelFile(mounted).command("scan")
    result = check(mounted, lambda: 0, clear=False)
    assert result.before is not None
    assert [record.address for record in result.before.records] == [0x20000]
    assert [record.address for record in result.report.records] == [0x20000]


def test_nothing_that_leaks_is_no_leak(mounted: Path) -> None:
    assert check(mounted, lambda: 0).report.records == ()


def test_the_command_reads_it(detector: Any, mounted: Path) -> None:
    detector.alloc(0x20000, 64)
    arguments = ["kernel", "--file", str(mounted), "--wait", "0.3", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "kmemleak_core", *arguments], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, b"")
    document = json.loads(done.stdout)
    assert [leak["address"] for leak in document["leaks"]] == ["0x20000"]


def test_so_does_parse(detector: Any, mounted: Path) -> None:
    detector.alloc(0x20000, 64)
    check(mounted)
    done = subprocess.run(
        [sys.executable, "-m", "kmemleak_core", "parse", "--list", mounted],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"0x20000 64 0 " in done.stdout


def test_one_that_is_off_is_told_to_be(mounted: Path) -> None:
    KernelFile(mounted).command("off")
    with pytest.raises(KernelFileError, match="kmemleak is disabled") as caught:
        check(mounted, lambda: pytest.fail("it ran"))
    assert caught.value.errno == errno.EPERM


def test_a_command_that_it_does_not_know_is_told(mounted: Path) -> None:
    with pytest.raises(KernelFileError, match="'scram' is not known there"):
        KernelFile(mounted).command("scram")


def test_a_missing_one_is_told(mounted: Path) -> None:
    with pytest.raises(KernelFileError, match="there is no such file"):
        KernelFile(os.fspath(mounted) + "x").command("scan")
