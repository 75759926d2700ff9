"""A program with one block in each kind of hold, dumped once by each dumper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from kmemleak_core.dumps.capture import capture
from kmemleak_core.pipeline import find_leaks
from kmemleak_core.who.explain import Explainer

from ..builders.programs import compile_c, gdb_core, running

HERE = Path(__file__).parent


@dataclass
class Held:
    """The core, its folder, and where the program says that its blocks are."""

    core: Path
    blocks: dict[str, int]
    lost: set[str]
    explainer: Explainer

    def texts(self, name: str, *, live: bool = True) -> list[str]:
        holders = self.explainer.holders(self.blocks[name])
        return [h.text for h in holders if h.word.live == live]


@pytest.fixture(scope="session", params=["capture", "gcore"])
def held(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Held:
    folder = tmp_path_factory.mktemp("held")
    library = (HERE / "library.c").read_text()
    made = compile_c(folder, "keep", library, "-shared", "-fPIC")
    made.rename(folder / "libkeep.so")
    flags = ("-pthread", f"-L{folder}", "-lkeep", f"-Wl,-rpath,{folder}")
    program = compile_c(folder, "held", (HERE / "held.c").read_text(), *flags)
    core = folder / "core"
    blocks, lost = {}, set()
    with running(program) as process:
        assert process.stdout is not None
        if request.param == "gcore":
            core = gdb_core(folder, process.pid)
        else:
            capture(process.pid, core)
        process.kill()
        for raw in process.stdout.read().decode().splitlines():
            if raw == "ready":
                continue
            state, name, address = raw.split()
            blocks[name] = int(address, 16)
            if state == "lost":
                lost.add(name)
    return Held(core, blocks, lost, Explainer(find_leaks(core)))
