"""Turns the C files of `bench/programs` into programs and libraries, once a session."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

PROGRAMS = Path(__file__).with_name("programs")


class CannotBuildError(Exception):
    """A compiler, or what it needs, is missing: what is said is why a benchmark is skipped."""


@cache
def _folder() -> Path:
    folder = tempfile.mkdtemp(prefix="kmemleak-bench-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@cache
def build(
    source: str, *options: str, compiler: str = "cc", name: str = "", package: str = "gcc"
) -> Path:
    """Compile one of the programs; return where it is.

    Parameters
    ----------
    source
        File in `PROGRAMS`.
    *options
        Of the compiler, before the file; those that begin with ``-l`` come after it.
    compiler
        Its command.
    name
        Of the result; the source's own without it.
    package
        Debian's name of what is missing, if it does not compile.

    Raises
    ------
    CannotBuildError
        There is no such compiler, or it says no: its first error.
    """
    command = shutil.which(compiler)
    if command is None:
        raise CannotBuildError(f"no {compiler}: apt-get install {package}")
    out = _folder() / (name or Path(source).stem)
    libraries = [option for option in options if option.startswith("-l")]
    flags = [option for option in options if not option.startswith("-l")]
    done = subprocess.run(
        [command, "-O2", *flags, PROGRAMS / source, "-o", out, *libraries],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line or "cannot" in line]
        reason = (errors or ["failed"])[0].strip()
        raise CannotBuildError(f"{compiler} {source}: {reason}: apt-get install {package}")
    return out


def build_library(source: str, *options: str, package: str = "gcc") -> Path:
    """Compile one of the files as a shared library; see `build`."""
    name = f"{Path(source).stem}.so"
    return build(source, "-shared", "-fPIC", *options, name=name, package=package)
