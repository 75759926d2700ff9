"""What each block of known structures retains, and how far it is from a root: the program that made
them tells it, by taking each block away."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from kmemleak_core.dumps.capture import capture
from kmemleak_core.options import AnalyseOptions
from kmemleak_core.pipeline import find_leaks
from kmemleak_core.who.explain import Explainer

from ..builders.programs import running

HERE = Path(__file__).parent
STRUCTURES = [
    "tree",
    "list",
    "std::list",
    "shared",
    "make_shared",
    "one owner",
    "ring",
    "lost ring",
]

Truth = dict[str, dict[int, tuple[int, int, int]]]


@pytest.fixture(scope="module", params=["-O0", "-O2"])
def told(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Explainer, Truth]:
    """The dump, and by structure and address: retained bytes, objects, steps from a root."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("structures")
    program, core = folder / "structures", folder / "core"
    flags = [request.param, "-std=c++17"]
    subprocess.run([compiler, *flags, "-o", program, HERE / "structures.cpp"], check=True)
    truth: Truth = defaultdict(dict)
    with running(program) as process:
        assert process.stdout is not None
        capture(process.pid, core)
        process.kill()
        for line in process.stdout.read().decode().splitlines():
            structure, address, *figures = line.rsplit(" ", 4)
            nbytes, count, steps = map(int, figures)
            truth[structure][int(address, 16)] = nbytes, count, steps
    # Pointers that calls left on the stack are none of what the program knows.
    asked = AnalyseOptions(no_roots=frozenset({"stacks", "registers"}))
    return Explainer(find_leaks(core, asked)), truth


@pytest.mark.parametrize("structure", STRUCTURES)
def test_each_block_retains_what_the_program_says(
    told: tuple[Explainer, Truth], structure: str
) -> None:
    explainer, truth = told
    assert truth[structure]
    for address, (nbytes, count, steps) in truth[structure].items():
        explanation = explainer.explain(address)
        keeping = explanation.keeping
        assert explanation.address == address
        assert keeping is not None
        assert explanation.leaked == (steps == 0)
        if explanation.verdict == "direct" or steps:
            assert (keeping.nbytes, keeping.count) == (nbytes, count)


@pytest.mark.parametrize("structure", STRUCTURES[:-1])
def test_the_shortest_path_is_as_long_as_the_program_says(
    told: tuple[Explainer, Truth], structure: str
) -> None:
    explainer, truth = told
    for address, (_, _, steps) in truth[structure].items():
        (route,) = explainer.paths(address)
        assert (route.origin, len(route.steps)) == ("root", steps)


def test_a_chain_s_keepers_are_the_links_before(told: tuple[Explainer, Truth]) -> None:
    explainer, truth = told
    before = sorted(truth["list"], key=lambda address: truth["list"][address][2])
    keeping = explainer.explain(before[-1]).keeping
    assert keeping is not None
    links = [keeper for keeper in keeping.keepers if keeper.kind == "object"]
    assert [keeper.address for keeper in links] == before[-2::-1]
    assert [keeper.count for keeper in links] == list(range(2, len(before) + 1))
    # Behind them: the variable, and all roots of that file.
    variable, module = keeping.keepers[len(links) :]
    assert (variable.kind, module.kind) == ("root", "module")
    assert variable.name.endswith("chain of structures")


def test_what_two_owners_share_neither_keeps_alone(told: tuple[Explainer, Truth]) -> None:
    explainer, truth = told
    shared = [a for a, (_, _, steps) in truth["shared"].items() if steps == 2]
    assert len(shared) == 2
    for address in shared:
        keeping = explainer.explain(address).keeping
        assert keeping is not None
        assert "object" not in {keeper.kind for keeper in keeping.keepers}


def test_a_lost_ring_is_kept_by_its_head(told: tuple[Explainer, Truth]) -> None:
    explainer, truth = told
    told_of = [explainer.explain(address) for address in truth["lost ring"]]
    (head,) = (t for t in told_of if t.verdict == "direct")
    assert head.keeping is not None
    assert head.keeping.keepers == ()
    assert head.keeping.count == len(told_of) == 7
    for other in told_of:
        if other is not head:
            assert other.keeping is not None
            assert other.keeping.keepers[-1].address == head.address
            assert other.head == head.address
