"""Who holds a kernel's objects: variables and tasks by the kernel's own names."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest

from kmemleak_core.cli import main
from kmemleak_core.pipeline import find_leaks
from kmemleak_core.report.who_json import schema
from kmemleak_core.who.explain import Explainer


@pytest.fixture(scope="module")
def explainer(vmcores) -> Explainer:
    return Explainer(find_leaks(vmcores("snap1")))


def test_a_variable_of_the_kernel_is_named(explainer) -> None:
    symbols = explainer.found.symbols
    place = symbols.address("init_task")
    texts = []
    objects = explainer.found.result.objects
    for row in np.linspace(0, len(objects) - 1, 200).astype(int).tolist():
        texts += [h.text for h in explainer.holders(int(objects.address[row]))]
    assert place is not None
    assert any(" in .data+0x" in text or " in .bss+0x" in text for text in texts)
    assert any(text.startswith("stack of ") and "frame of " in text for text in texts)


def test_every_held_object_has_a_path_that_its_words_bear_out(explainer) -> None:
    result = explainer.found.result
    rows = np.flatnonzero(~result.white & (result.objects.min_count > 0))
    for row in rows[:: max(1, rows.size // 20)].tolist():
        address = int(result.objects.address[row])
        (route,) = explainer.paths(address)
        at = route.start
        for step in route.steps:
            assert step.holder.word.holder in (None, at)
            found = result.objects.find(step.holder.word.value)
            at = step.target
            assert found is not None
            assert int(result.objects.address[found]) == at
        assert at == address


def test_a_leak_is_explained_as_the_schema_tells(explainer, vmcores, capsys) -> None:
    leak = next(iter(explainer.found.result.leaks))
    assert main(["explain", "--json", str(vmcores("snap1")), hex(leak.address)]) == 1
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, schema())
    assert document["origin"]["backtrace"]


def test_a_variable_is_where_a_path_begins(explainer) -> None:
    symbols, result = explainer.found.symbols, explainer.found.result
    table = int(result.image.word(symbols.address("nl_table")))
    (route,) = explainer.paths(table)
    (step,) = route.steps
    assert (route.origin, step.target) == ("root", table)
    assert step.holder.text.startswith("nl_table in .data+0x")
    keeping = explainer.explain(table).keeping
    assert [keeper.name for keeper in keeping.keepers] == ["nl_table", ".data"]
    assert explainer.explain(symbols.address("nl_table")).keeping is None
