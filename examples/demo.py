"""Compiles a small leaky program, runs it, dumps it and scans its core."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from kmemleak_core.cli import main
from kmemleak_core.dumps.capture import capture


def run_and_dump(folder: Path) -> Path:
    """Return the core of the leaky program, taken while it waits."""
    program, core = folder / "leaky", folder / "core"
    source = Path(__file__).with_name("leaky.c")
    command = [*shlex.split(os.environ.get("CC", "cc")), "-O1", "-g", str(source), "-o"]
    print("$", shlex.join([*command, program.name]))
    subprocess.run([*command, str(program)], check=True)
    print(f"$ ./{program.name} &")
    with subprocess.Popen(
        [f"./{program.name}"], cwd=folder, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            print(f"$ kmemleak dump {process.pid} -o {core.name}")
            capture(process.pid, core)
        finally:
            process.kill()
    return core


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        core = run_and_dump(Path(name))
        os.chdir(name)
        print(f"$ kmemleak scan {core.name}\n", flush=True)
        status = main(["scan", core.name])
        print(f"\nexit status {status}: leaks were found")
        sys.exit(status != 1)
