"""Who holds a block is told by name: of programs that say themselves where they keep what."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from kmemleak_core.cli import main
from kmemleak_core.report.who_json import schema
from kmemleak_core.symbols.demangle import demangled
from kmemleak_core.symbols.elf_file import open_elf

from .conftest import Held


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("global", "cache_head in .bss of held+"),
        ("member", "table+0x20 in .data of held+"),
        ("library", "kept_by_library+0x10 in .bss of libkeep.so+"),
        ("unit", "unit in .bss of held+"),
        ("thread-local", "of_thread in TLS of thread "),
        ("register", "register r12 of thread "),
        ("list-0", "list in .bss of held+"),
    ],
)
def test_a_root_is_named(held: Held, name: str, text: str) -> None:
    # Copies in a dead vector register or a red zone may be there, too.
    assert any(told.startswith(text) for told in held.texts(name))


def test_a_local_variable_is_named_by_its_function(held: Held) -> None:
    (told,) = (text for text in held.texts("local") if "frame of worker_with_local+" in text)
    assert told.startswith("stack of thread ")


def test_an_object_that_refers_is_told_with_the_offset(held: Held) -> None:
    texts = held.texts("by-unit")
    assert any(text.startswith(f"object {held.blocks['unit']:#x}+0x18") for text in texts)


def test_a_path_leads_through_a_list(held: Held) -> None:
    (route,) = held.explainer.paths(held.blocks["list-2"])
    assert route.origin == "root"
    assert [s.target for s in route.steps] == [held.blocks[f"list-{i}"] for i in range(3)]
    assert route.steps[0].holder.symbol == "list"


def test_a_leak_s_path_begins_at_its_head(held: Held) -> None:
    (route,) = held.explainer.paths(held.blocks["behind-head"])
    assert (route.origin, route.start) == ("leak", held.blocks["head"])
    assert [s.target for s in route.steps] == [held.blocks["behind-head"]]


@pytest.mark.parametrize("name", ["head", "behind-head", "by-freed", "stale-stack"])
def test_a_lost_block_is_a_leak(held: Held, name: str) -> None:
    told = held.explainer.explain(held.blocks[name])
    assert told.verdict == ("indirect" if name == "behind-head" else "direct")
    assert told.head == (held.blocks["head"] if name == "behind-head" else None)


def test_what_is_left_below_a_stack_pointer_is_told_and_does_not_count(held: Held) -> None:
    words = held.explainer.holders(held.blocks["stale-stack"])
    assert words
    assert {w.word.kind for w in words} == {"dead-stack"}
    assert all("below the stack pointer" in w.stale for w in words)


def test_what_lies_on_a_stack_that_was_left_out_is_told_as_such(
    held: Held, capsys: pytest.CaptureFixture[str]
) -> None:
    address = hex(held.blocks["local"])
    main(["referrers", "--no-roots", "stacks,registers", str(held.core), address])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("stale\t") and "left out of the roots" in line for line in lines)


def test_what_is_left_in_freed_memory_is_told_and_does_not_count(held: Held) -> None:
    words = held.explainer.holders(held.blocks["by-freed"])
    assert any(w.word.kind == "freed" for w in words)
    assert not any(w.word.live for w in words)


@pytest.mark.parametrize("command", ["explain", "referrers", "paths"])
def test_the_json_is_as_the_schema_tells(
    held: Held, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, address in held.blocks.items():
        code = main([command, str(held.core), hex(address), "--json"])
        document = json.loads(capsys.readouterr().out)
        jsonschema.validate(document, schema())
        assert code == (1 if name in held.lost else 0)


def test_redacted_nothing_of_the_content_is_shown(
    held: Held, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["explain", str(held.core), hex(held.blocks["unit"]), "--redact"])
    text = capsys.readouterr().out
    assert "unit in .bss" in text
    assert "21 21" not in text
    assert "text" not in text


def test_an_address_outside_of_all_objects_is_wrong_usage_and_the_nearest_is_told(
    held: Held, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(held.core), "1234"]) == 2
    assert "the nearest object" in capsys.readouterr().err


def test_without_files_names_degrade_to_module_and_offset(
    held: Held, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = hex(held.blocks["library"])
    main(["referrers", str(held.core), address, "--sysroot", str(tmp_path)])
    assert "\t.bss of libkeep.so+0x" in capsys.readouterr().out


def test_a_damaged_file_has_fewer_names_and_nothing_worse(held: Held) -> None:
    whole = bytearray((held.core.parent / "libkeep.so").read_bytes())
    import numpy as np

    random = np.random.default_rng(1)
    for _ in range(300):
        damaged = np.array(whole, np.uint8)
        at = random.integers(0, damaged.size, 20)
        at[:10] = random.integers(16, 64, 10)
        damaged[at] = random.integers(0, 256, 20)
        file = open_elf(damaged[: random.integers(0, damaged.size)])
        for address in (0x1000, 0x4050) if file is not None else ():
            file.find(address)
            file.find(address, of_threads=True)
            file.section_at(address)


@pytest.mark.parametrize(
    ("mangled", "name"),
    [
        ("_ZTVN3foo3BarE", "vtable for foo::Bar"),
        ("_ZN12_GLOBAL__N_15cacheE", "(anonymous namespace)::cache"),
        ("main", "main"),
        ("_Z" + "9" * 50, "_Z" + "9" * 50),
        ("_Z1f" + "P" * 5000 + "i", "_Z1f" + "P" * 5000 + "i"),
    ],
)
def test_names_of_cpp_are_for_people(mangled: str, name: str) -> None:
    pytest.importorskip("itanium_demangler")
    assert demangled(mangled) == name


def test_the_text_names_holder_path_and_contents(
    held: Held, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(held.core), hex(held.blocks["list-1"])]) == 0
    text = capsys.readouterr().out
    assert "held: a root leads to it" in text
    assert "Shortest path from a root (2 references)" in text
    assert "list in .bss of held+" in text
    assert f"→ {held.blocks['list-2']:#x}" in text


def test_the_text_tells_what_every_way_leads_through(
    held: Held, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["explain", str(held.core), hex(held.blocks["list-2"])])
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("Every way to it leads through, the nearest first")
    names = [line.split("  ", 2)[-1].strip() for line in lines[at + 1 : at + 4]]
    assert names[0].startswith(f"object {held.blocks['list-1']:#x}")
    assert names[1].startswith(f"object {held.blocks['list-0']:#x}")
    assert names[2] == "list of held"


def test_the_text_tells_what_a_leak_alone_keeps(
    held: Held, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["explain", str(held.core), hex(held.blocks["head"])])
    assert "it alone keeps 1 other object: 144 B with its own" in capsys.readouterr().out


def test_retained_sizes_can_be_left_out(held: Held, capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "--no-retained", "--json", str(held.core), hex(held.blocks["head"])])
    document = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, schema())
    assert document["retained"] is None


def test_names_of_files_are_escaped(held: Held, capsys: pytest.CaptureFixture[str]) -> None:
    from io import StringIO

    from kmemleak_core.graph import Referrer
    from kmemleak_core.report.who_text import list_holders
    from kmemleak_core.who.holders import Holder

    word = Referrer(1, 2, "start", "data", "x", True)
    out = StringIO()
    list_holders([Holder(word, "evil\x1b[31m\tname\n")], out)
    assert out.getvalue() == "live\t0x1\t0x2\tstart\tevil\\x1b[31m\\x09name\\x0a\n"
