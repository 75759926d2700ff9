"""Fixtures of the tests that run real programs."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rig


@pytest.fixture(scope="session")
def big_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for core files that is gone when the session ends (pytest keeps its own)."""
    folder = tmp_path_factory.mktemp("real")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def folder(big_folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder for one test's processes and cores, gone when the test ends."""
    own = big_folder / f"test-{abs(hash(request.node.nodeid)):x}"
    own.mkdir()
    yield own
    shutil.rmtree(own, ignore_errors=True)


@pytest.fixture(scope="session")
def leakgen_source(shared_data: Path) -> Path:
    """The generator's source, which lives beside the dumps with known answers."""
    source = shared_data / "usercore" / "leakgen.c"
    if not source.is_file():
        pytest.skip(f"no generator at {source}")
    return source


Leakgen = Callable[..., rig.Generated]


@pytest.fixture(scope="session")
def leakgen(big_folder: Path, leakgen_source: Path) -> Leakgen:
    """``leakgen(n, leaks, seed, glibc=None, how="kernel")``: a core with known answers.

    Made once a session for the same arguments; call ``.delete()`` on those that are large
    (the next call then makes it anew).
    """
    made: dict[tuple[object, ...], rig.Generated] = {}

    def make(
        n: int, leaks: int, seed: int, *, glibc: str | None = None, how: rig.How = "kernel"
    ) -> rig.Generated:
        key = (n, leaks, seed, glibc, how)
        if key not in made or not made[key].core.exists():
            own = big_folder / f"leakgen-{n}-{leaks}-{seed}-{glibc or 'host'}-{how}"
            shutil.rmtree(own, ignore_errors=True)
            made[key] = rig.leakgen(
                n, leaks, seed, source=leakgen_source, folder=own, glibc=glibc, how=how
            )
        return made[key]

    return make
