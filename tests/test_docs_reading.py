"""The page on reports, and the README, tell what really comes out, but for addresses and times."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kmemleak_core.dumps.capture import capture

from .builders.programs import running
from .pages import Command, Reader, commands
from .test_docs import DOCS, run_python

PAGE = DOCS / "reading.md"
README = DOCS.parent / "README.md"
EXAMPLES = DOCS.parent / "examples"

#: What differs from machine to machine, or run to run: what the C++ library allocates for itself,
#: how much of it is a root, what of it is not in the dump; what takes how long; where programs are.
VARIES = (
    r"\bpid \d+",
    r"\bof \d+ \([\d.]+ kB\) scanned",
    r"\bglibc \d\.\d+(?:-\d\.\d+)?",
    r"\bretains +[\d.,]+ k?B in +\d+",
    r"\b(?:image|root|words|candidates|hits) [\d.,]+(?: [kM]?B)?",
    r"\d+ mapped ranges of files",
    r"\([\d.]+ [kM]B, at 0x[0-9a-f]+\)",
    r"\btime: [^\n]*(?:\n  \S[^\n]*)?",
    r"(?<=\+)0x[0-9a-f]{4}\b",
    r"(?<=arguments: )\S+",
    r"(?<=held by )\S*[/…]\S*",
)


def compiled(compiler: str, source: Path, folder: Path) -> Path:
    """Compile an example, as its page tells; skips the test where that cannot be done."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    program = folder / source.stem
    subprocess.run([compiler, "-g", "-o", str(program), str(source)], check=True)
    return program


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the two dumps that the page tells of."""
    folder = tmp_path_factory.mktemp("relay")
    program = compiled("c++", EXAMPLES / "relay.cpp", folder)
    for name, arguments in (("core", []), ("core.later", ["37"])):
        with running(program, *arguments) as process:
            capture(process.pid, folder / name)
    return folder


def made_by_hand(command: Command) -> bool:
    """Whether a command is one of those that make the dumps."""
    return command.text.startswith(("c++ ", "./relay", "kmemleak dump"))


def test_what_the_commands_of_the_page_show_is_their_output(relay: Path) -> None:
    reader = Reader(relay, VARIES)
    read = 0
    for command in commands(PAGE.read_text(encoding="utf-8")):
        if not made_by_hand(command):
            reader.read(command)
            read += 1
    assert read > 10


def test_the_python_code_of_the_page_runs(
    relay: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(relay)
    from kmemleak_core.cli import main

    assert main(["export", "--quiet", "--force", "core", "-o", "tables"]) == 0
    run_python(PAGE, {})
    out = capsys.readouterr().out
    assert "std::string buffer     30   1200" in out
    assert "relay::Message 30 19200" in out


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the core that `make demo` scans."""
    folder = tmp_path_factory.mktemp("leaky")
    with running(compiled("cc", EXAMPLES / "leaky.c", folder)) as process:
        capture(process.pid, folder / "core")
    return folder


def test_the_readme_shows_what_the_example_leaks(leaky: Path) -> None:
    reader = Reader(leaky, VARIES)
    shown = [c for c in commands(README.read_text(encoding="utf-8")) if c.shown]
    for command in shown:
        reader.read(command)
    assert [c.text for c in shown] == ["kmemleak scan core"]


def test_the_python_code_of_the_readme_runs(leaky: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pandas")
    monkeypatch.chdir(leaky)
    run_python(README, {"buffer": bytes(4096)})


def test_the_readme_names_every_subcommand() -> None:
    folder = DOCS.parent / "kmemleak_core" / "cli"
    text = README.read_text(encoding="utf-8")
    modules = [path for path in folder.glob("*.py") if "def prepare_parser(" in path.read_text()]
    assert len(modules) > 10
    assert not [path.stem for path in modules if f"| `kmemleak {path.stem} " not in text]
