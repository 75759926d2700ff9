"""The start of a process, beside the least that any such process takes: Python, and numpy."""

from __future__ import annotations

import compileall
import subprocess
import sys
from pathlib import Path

import pytest

import kmemleak_core
from kmemleak_core.dumps.capture import capture

KMEMLEAK = (sys.executable, "-m", "kmemleak_core")


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Byte code is there, as after an installation, whatever PYTHONDONTWRITEBYTECODE says."""
    compileall.compile_dir(Path(kmemleak_core.__file__).parent, quiet=1)


@pytest.fixture(scope="module")
def small_core(tmp_path_factory):
    """The core of an idle interpreter: next to nothing to scan."""
    core = tmp_path_factory.mktemp("start") / "core"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            capture(process.pid, core)
        finally:
            process.kill()
    return core


def run(*command):
    return subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode


@pytest.mark.benchmark(group="start")
@pytest.mark.parametrize("code", ["pass", "import numpy", "import kmemleak_core"])
def bench_python(benchmark, code):
    assert benchmark(run, sys.executable, "-c", code) == 0


@pytest.mark.benchmark(group="start")
@pytest.mark.parametrize("arguments", ["--help", "scan --help"])
def bench_help(benchmark, arguments):
    assert benchmark(run, *KMEMLEAK, *arguments.split()) == 0


@pytest.mark.benchmark(group="start")
@pytest.mark.parametrize("form", ["list", "text", "json"])
def bench_scan_small(benchmark, small_core, form):
    assert benchmark(run, *KMEMLEAK, "scan", "--format", form, small_core) in (0, 1)
