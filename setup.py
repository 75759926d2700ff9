"""Builds the Cython engine; everything else is declared in pyproject.toml.

Environment switches:

KMEMLEAK_DEBUG=1
    Bounds, wraparound, initialisation and overflow checks in every extension, ``-O0 -g``.
KMEMLEAK_SANITIZE=address,undefined
    Builds with these sanitizers (``thread`` too); the interpreter must preload their runtime.
KMEMLEAK_COVERAGE=1
    Line tracing, for coverage.py's Cython plug-in.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = bool(os.environ.get("KMEMLEAK_DEBUG"))
SANITIZE = os.environ.get("KMEMLEAK_SANITIZE", "")
COVERAGE = bool(os.environ.get("KMEMLEAK_COVERAGE"))

compile_args = ["-std=c11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-cast-function-type"]
# The interpreter's own flags ask for debugging symbols: eleven times the size, a fifth more time.
compile_args += ["-O0", "-g"] if DEBUG else ["-O3", "-g0"]
link_args: list[str] = []
if SANITIZE:
    flags = [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"]
    compile_args += flags
    link_args += flags

directives = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": DEBUG,
    "initializedcheck": DEBUG,
    "overflowcheck": DEBUG,
    "cdivision": not DEBUG,
    "freethreading_compatible": True,
    "linetrace": COVERAGE,
}

extensions = [
    Extension(
        f"kmemleak_core.{path.stem}",
        [str(path)],
        include_dirs=["kmemleak_core"],
        depends=sorted(str(header) for header in Path("kmemleak_core").glob("*.h")),
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        define_macros=[("CYTHON_TRACE_NOGIL", "1")] if COVERAGE else [],
    )
    for path in sorted(Path("kmemleak_core").glob("*.pyx"))
]

setup(
    ext_modules=cythonize(extensions, compiler_directives=directives),
    options={"build_ext": {"parallel": len(os.sched_getaffinity(0))}},
)
