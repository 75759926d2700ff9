"""The page on vmcores tells what really comes out."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from ..test_docs import DOCS, run_python

PAGE = DOCS / "vmcore.md"
BLOCKS = [
    block[1].splitlines()
    for block in re.finditer(
        r"^```console\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
]
SHOWN = [block for block in BLOCKS if block[0].startswith("$ kmemleak scan ")]


def test_its_python_code_runs(vmcores, capsys):
    run_python(PAGE, {"VMCORE": vmcores("snap1")})
    assert "build+0x1f/0x50 [kml_dev]" in capsys.readouterr().out


@pytest.mark.parametrize("block", SHOWN, ids=lambda block: block[0][2:])
def test_what_a_command_shows_is_its_output(vmcores, tmp_path, monkeypatch, block):
    (tmp_path / "vmcore").symlink_to(vmcores("snap1"))
    monkeypatch.setenv("COLUMNS", "97")
    words = block[0].split()[2:]
    done = subprocess.run(
        [sys.executable, "-m", "kmemleak_core", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    lines = iter(done.stdout.splitlines())
    for line in block[1:]:
        # What stands for the rest, and empty lines, are the page's own.
        if line.strip() not in ("", "…"):
            assert line in lines, line
