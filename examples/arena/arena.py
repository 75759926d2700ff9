"""Embeds the detector in an arena allocator written in C, plants leaks, and finds them.

    python examples/arena/arena.py

`load` compiles `arena.c` with the C compiler and loads it; `Arena` is what a program would use.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import shlex
import subprocess
import tempfile
from pathlib import Path

import kmemleak_core as km

HERE = Path(__file__).resolve().parent
WORD = ctypes.sizeof(ctypes.c_void_p)


def load(folder: Path) -> ctypes.CDLL:
    """Compile the arena into a shared library and load it."""
    library = folder / "libarena.so"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    flags.append(f"-I{km.get_include()}")
    source = str(HERE / "arena.c")
    subprocess.run([*compiler, *flags, source, "-o", str(library), "-lpthread"], check=True)
    lib = ctypes.CDLL(str(library))
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for name, result, arguments in [
        ("arena_create", pointer, [size, pointer, pointer]),
        ("arena_destroy", None, [pointer]),
        ("arena_alloc", pointer, [pointer, size]),
        ("arena_alloc_permanent", pointer, [pointer, size]),
        ("arena_alloc_data", pointer, [pointer, size]),
        ("arena_free", None, [pointer, pointer]),
        ("arena_roots", pointer, [pointer]),
    ]:
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


class Arena:
    """An arena and the detector that watches it.

    Parameters
    ----------
    lib
        What `load` returned.
    size
        Bytes.
    options
        For `kmemleak_core.Kmemleak`.
    """

    ROOTS = 8

    def __init__(self, lib: ctypes.CDLL, size: int = 1 << 20, **options: object) -> None:
        self.lib = lib
        # The arena's memory belongs to this process: read so that nothing can crash.
        self.detector = km.Kmemleak(km.ProcessMemory(), **options)
        self.attachment = km.attach(self.detector)
        self.arena = lib.arena_create(size, self.attachment.api, self.attachment.handle)
        if not self.arena:
            raise MemoryError(f"no memory for an arena of {size} bytes")
        roots = lib.arena_roots(self.arena)
        self.roots = (ctypes.c_void_p * self.ROOTS).from_address(roots)
        self.detector.add_root(roots, self.ROOTS * WORD, "arena roots")

    def alloc(self, size: int) -> int:
        """Allocate a block."""
        return self.lib.arena_alloc(self.arena, size)

    def alloc_permanent(self, size: int) -> int:
        """Allocate a block that is never freed, and no leak."""
        return self.lib.arena_alloc_permanent(self.arena, size)

    def alloc_data(self, size: int) -> int:
        """Allocate a block without pointers."""
        return self.lib.arena_alloc_data(self.arena, size)

    def free(self, block: int) -> None:
        """Free a block."""
        self.lib.arena_free(self.arena, block)

    @staticmethod
    def store(place: int, value: int) -> None:
        """Write a pointer into a block."""
        ctypes.c_void_p.from_address(place).value = value

    def leaks(self) -> list[int]:
        """Scan as often as a report needs; return the leaked blocks."""
        # The second scan confirms: a block's content must not change in between.
        self.detector.scan()
        self.detector.scan()
        return [leak.address for leak in self.detector.unreferenced()]

    def close(self) -> None:
        """Free the arena."""
        self.lib.arena_destroy(self.arena)
        self.arena = None


def main() -> int:
    """Plant leaks and print what the detector finds."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arena = Arena(load(Path(folder)), min_age=0.0)
        kept, child, lost, orphan = (arena.alloc(n) for n in (64, 48, 100, 32))
        arena.roots[0] = kept
        arena.store(kept + 8, child)  # a root leads to kept, kept to child
        arena.store(lost, orphan)  # nobody leads to lost: orphan is lost with it
        arena.alloc_permanent(40)
        arena.free(arena.alloc(24))
        found = arena.leaks()
        print(arena.detector.read(), end="")
        print(f"planted {lost:#x} and {orphan:#x}, found {', '.join(map(hex, found))}")
        arena.close()
    return 0 if found == [lost, orphan] else 1


if __name__ == "__main__":
    raise SystemExit(main())
