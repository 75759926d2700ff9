"""What is scanned, and by which rules, is asked for in the same words in every subcommand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kmemleak_core.cli import main
from kmemleak_core.cli.command import build_parser
from kmemleak_core.cli.scan_options import analyse_options, source
from kmemleak_core.options import AnalyseOptions, KernelOptions, RawSource

OF_ALL = ["scan", "retained", "export", "types", "census"]
OF_ONE = ["explain", "referrers", "paths", "cluster"]
NEEDED = {"export": ["-o", "folder"], "census": ["-o", "file"]}
BASE = 0x10000


def parsed(command: str, *options: str):
    return build_parser([command]).parse_args([command, *NEEDED.get(command, []), *options])


@pytest.mark.parametrize("command", OF_ALL + OF_ONE)
def test_every_subcommand_understands_every_option(command: str) -> None:
    words = "--sysroot /srv --no-roots stacks,tls --pointer-mask ffffffffffff --starts-only"
    words += " --alignment 4 --end-pointers no --threads 2 --as kernel --no-rules ages"
    words += " --records slub --layout l.json"
    address = ["1234"] if command in OF_ONE else []
    asked = parsed(command, *words.split(), "core", *address)
    assert source(asked) == Path("core")
    assert analyse_options(asked) == AnalyseOptions(
        sysroot=Path("/srv"),
        no_roots=frozenset({"stacks", "tls"}),
        pointer_mask=0xFFFFFFFFFFFF,
        interior=False,
        alignment=4,
        end_pointers=False,
        threads=2,
        kernel=KernelOptions(
            layout=Path("l.json"),
            records="slub",
            verdict="kernel",
            no_rules=frozenset({"ages"}),
        ),
    )


@pytest.mark.parametrize("command", OF_ALL + OF_ONE)
def test_without_options_every_subcommand_scans_in_the_usual_way(command: str) -> None:
    asked = parsed(command, "core", *(["1234"] if command in OF_ONE else []))
    assert analyse_options(asked) == AnalyseOptions()


@pytest.mark.parametrize("command", OF_ALL + OF_ONE)
def test_every_subcommand_takes_plain_memory(command: str) -> None:
    words = "--memory 0x1000:ram --objects o.csv --roots r.csv --word-size 4 --byteorder big"
    asked = parsed(command, *words.split(), *(["0xabc"] if command in OF_ONE else []))
    assert source(asked) == RawSource(
        ("0x1000:ram",), Path("o.csv"), Path("r.csv"), word_size=4, byteorder="big"
    )
    assert command in OF_ALL or asked.address == 0xABC


@pytest.mark.parametrize("command", OF_ONE)
@pytest.mark.parametrize(
    "words",
    ["core 0xabc --redact", "core --redact abc", "--redact core abc", "--redact -- core abc"],
)
def test_options_may_stand_anywhere(command: str, words: str) -> None:
    asked = parsed(command, *words.split())
    assert (source(asked), asked.address) == (Path("core"), 0xABC)


@pytest.mark.parametrize("command", OF_ONE[:3])
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "nothing to scan"),
        ("core", "no address"),
        ("abc", "no address"),
        ("--memory 0:x core 1", "plain memory"),
        ("--memory 0:x core", "no hexadecimal address"),
    ],
)
def test_a_half_question_is_wrong_usage(
    command: str, words: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *words.split()]) == 2
    assert told in capsys.readouterr().err


@pytest.fixture
def plain_memory(tmp_path: Path) -> list[str]:
    """Two objects of one class of roots each, and one that only a misplaced word refers to."""
    memory = np.zeros(0x400, np.uint8)
    words = memory.view(np.uint64)
    words[0:2] = BASE + 0x100, BASE + 0x180
    memory[0x14:0x1C] = np.array([BASE + 0x200], np.uint64).view(np.uint8)
    memory.tofile(tmp_path / "ram")
    objects = "".join(f"{BASE + at:#x},32\n" for at in (0x100, 0x180, 0x200))
    (tmp_path / "objects.csv").write_text("address,size\n" + objects)
    roots = f"{BASE:#x},8,first\n{BASE + 8:#x},8,second\n{BASE + 16:#x},16,third\n"
    (tmp_path / "roots.csv").write_text("address,size,kind\n" + roots)
    files = {"--objects": "objects.csv", "--roots": "roots.csv"}
    named = [word for option, name in files.items() for word in (option, str(tmp_path / name))]
    return ["--memory", f"{BASE:#x}:{tmp_path / 'ram'}", *named]


@pytest.mark.parametrize("command", OF_ONE[:3])
def test_what_was_asked_for_changes_the_answer_of_each(
    command: str, plain_memory: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def code(at: int, *options: str) -> int:
        return main([command, *plain_memory, *options, hex(BASE + at)])

    assert [code(0x100), code(0x180), code(0x200)] == [0, 0, 1]
    assert code(0x100, "--no-roots", "first") == 1
    assert code(0x180, "--no-roots", "first") == 0
    assert code(0x200, "--alignment", "4") == 0


def test_retained_sizes_depend_on_the_roots(
    plain_memory: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def count(*options: str) -> int:
        assert main(["retained", "--json", *plain_memory, *options]) == 0
        document = json.loads(capsys.readouterr().out)
        return int(document["summary"]["reachable_objects"])

    assert count() == 2
    assert count("--no-roots", "first") == 1
    assert count("--alignment", "4") == 3
