"""The page on a hunt in a core file tells what really comes out, but for addresses and numbers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kmemleak_core.dumps.capture import capture

from .builders.programs import running
from .test_docs import DOCS

PAGE = (DOCS / "hunt.md").read_text(encoding="utf-8")
BLOCKS = [
    block[1].splitlines()
    for block in re.finditer(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
]
#: What is another in every run: addresses, and those in hex dumps; ids of the process.
_OTHERS = re.compile(r"0x[0-9a-f]{9,16}|\bpid \d+|\bthread \d+")
_OFFSET = re.compile(r"\+0x[0-9a-f]+(?= \(server\))|(?<=server)\+0x[0-9a-f]+")
_HEX = re.compile(r"^ +(?:[0-9a-f]{2} ){8}")


class Page:
    """What the page calls by one name is one thing in the run, too."""

    def __init__(self, folder: Path) -> None:
        self.real = {"/srv/server": str(folder / "server")}

    def command(self, line: str) -> str:
        return re.sub(r"0x[0-9a-f]+", lambda found: self.real[found[0]], line.removeprefix("$ "))

    def shows(self, line: str, real: str) -> bool:
        """Whether a line of the page is one of the run; takes down what stands for what."""
        if _HEX.match(line) and re.search(r"(5[56]|7f) 00 00", line):
            return _HEX.match(real) is not None  # a pointer
        line, real = (_OFFSET.sub("+…", text).replace("/srv/", "") for text in (line, real))
        real = real.replace(self.real["/srv/server"].removesuffix("server"), "")
        ours, theirs = _OTHERS.findall(line), _OTHERS.findall(real)
        if _OTHERS.sub("…", line) != _OTHERS.sub("…", real):
            return False
        known = {**self.real, **dict(zip(ours, theirs, strict=True))}
        if any(
            self.real.get(name, thing) != thing for name, thing in zip(ours, theirs, strict=True)
        ):
            return False
        self.real = known
        return True


@pytest.fixture(scope="module")
def hunt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example, compiled as the page tells, and its core."""
    folder = tmp_path_factory.mktemp("hunt")
    source = DOCS.parent / "examples" / "server.c"
    (compile_line,) = re.findall(r"`cc (.*?)`", PAGE)
    words = [str(source) if word == "server.c" else word for word in compile_line.split()]
    subprocess.run(["cc", *words], cwd=folder, check=True)
    with running(folder / "server") as process:
        capture(process.pid, folder / "core")
    return folder


def test_what_the_commands_show_is_their_output(
    hunt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "97")
    (hunt / "kmemleak").write_text(f'#!/bin/sh\nexec {sys.executable} -m kmemleak_core "$@"\n')
    (hunt / "kmemleak").chmod(0o755)
    monkeypatch.setenv("PATH", f"{hunt}:{os.environ['PATH']}")
    page = Page(hunt)
    shown = 0
    for block in BLOCKS:
        if block[0].startswith("$ kmemleak dump "):
            continue
        done = subprocess.run(
            ["sh", "-c", page.command(block[0])], cwd=hunt, capture_output=True, text=True
        )
        assert done.stderr == ""
        lines = iter(done.stdout.splitlines())
        for line in block[1:]:
            # What stands for the rest, and empty lines, are the page's own.
            if line.strip() not in ("", "…"):
                assert any(page.shows(line, real) for real in lines), (block[0], line)
                shown += 1
    assert shown > 60
