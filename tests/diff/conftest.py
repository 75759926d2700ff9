"""A program that says what it allocates, frees and loses, dumped before and after it has grown."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import kmemleak_core as km
from kmemleak_core.dumps.capture import capture

from ..builders.programs import compile_c, running

HERE = Path(__file__).parent


@dataclass
class Ledger:
    """What the program said of one stage: size by address, of each tag."""

    made: dict[str, dict[int, int]] = field(default_factory=dict)
    freed: dict[str, dict[int, int]] = field(default_factory=dict)
    lost: dict[str, dict[int, int]] = field(default_factory=dict)

    def read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        into = {"alloc": self.made, "free": self.freed, "lose": self.lost}
        for raw in iter(process.stdout.readline, b"ready\n"):
            if raw != b"begin\n":
                did, tag, address, size = raw.decode().split()
                into[did].setdefault(tag, {})[int(address, 16)] = int(size)


def amount(*blocks: dict[int, int]) -> tuple[int, int]:
    """Count blocks, and their bytes."""
    return sum(map(len, blocks)), sum(sum(some.values()) for some in blocks)


@dataclass
class Grown:
    """The dumps of one process, what it said before each, and a dump of the program's next run."""

    old: Path
    new: Path
    again: Path
    before: Ledger
    after: Ledger
    difference: km.Difference


@pytest.fixture(scope="session")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Grown:
    folder = tmp_path_factory.mktemp("grown")
    program = compile_c(folder, "growing", (HERE / "growing.c").read_text())
    old, new, again = (folder / name for name in ("old.core", "new.core", "again.core"))
    ledgers = [Ledger(), Ledger()]
    for cores in ((old, new), (None, again)):
        with running(program) as process:
            ledger = [Ledger(), Ledger()]
            for stage, core in enumerate(cores):
                if stage:
                    assert process.stdin is not None
                    process.stdin.write(b"\n")
                    process.stdin.flush()
                ledger[stage].read(process)
                if core is not None:
                    time.sleep(0.05)  # until it waits for the next line
                    capture(process.pid, core)
            if cores[0] is not None:
                ledgers = ledger
    return Grown(old, new, again, *ledgers, km.diff(old, new))


def group_of(groups: list[km.GroupChange], size: int) -> km.GroupChange:
    """Return the one group of objects of a size; else fail with what there is."""
    (found,) = (group for group in groups if group.size == size)
    return found


def sizes(blocks: dict[int, int]) -> Counter[int]:
    return Counter(blocks.values())
