"""Names the allocator of a program that does not use glibc's, by evidence in its dump."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..dump import Dump
from ..image import MemoryImage, Segment

#: Mapped libraries that bring an allocator; a pattern on the file's base name.
_LIBRARIES = (
    ("jemalloc", re.compile(r"libjemalloc(_pic)?\b")),
    ("tcmalloc", re.compile(r"libtcmalloc")),
    ("mimalloc", re.compile(r"libmimalloc")),
    ("snmalloc", re.compile(r"libsnmalloc")),
    ("Hoard", re.compile(r"libhoard")),
    ("rpmalloc", re.compile(r"librpmalloc")),
    ("hardened_malloc", re.compile(r"libhardened_malloc")),
    ("scudo", re.compile(r"libscudo|libclang_rt\.scudo")),
    ("AddressSanitizer's allocator", re.compile(r"libasan\.so|libclang_rt\.asan")),
    ("uClibc's malloc", re.compile(r"ld-uClibc|libuClibc")),
    ("Bionic's malloc", re.compile(r"^linker(64)?$")),
    ("musl's malloc", re.compile(r"^ld-musl-|^libc\.musl-")),
)

#: Strings that a linked allocator, or a runtime with its own, leaves in the executable.
_STRINGS = (
    ("Go's runtime", b"\xff Go buildinf:"),
    ("Go's runtime", b"\xff Go build ID:"),
    ("jemalloc", b"<jemalloc>"),
    ("jemalloc", b"JE_MALLOC_CONF"),
    ("jemalloc", b"MALLOC_CONF\0"),
    ("tcmalloc", b"TCMALLOC_"),
    ("mimalloc", b"mimalloc: "),
    ("snmalloc", b"snmalloc"),
)

#: Bytes of each mapping of the executable that are searched for them.
WINDOW = 16 << 20


def name_foreign_allocator(dump: Dump) -> str | None:
    """Name the allocator other than glibc's that a process uses, None if there is no sign of one.

    Parameters
    ----------
    dump
        The mapped files' names are looked at first; then the executable's own pages, as far as
        the dump holds them, for the strings of an allocator that is linked into it.
    """
    names = {f.path.rsplit("/", 1)[-1] for f in dump.files}
    for allocator, pattern in _LIBRARIES:
        if any(pattern.search(name) for name in names):
            return allocator
    for segment in _executable(dump):
        data = segment.data[:WINDOW].tobytes()
        for allocator, text in _STRINGS:
            if text in data:
                return allocator
    return None


def _executable(dump: Dump) -> Iterable[Segment]:
    """Yield the segments of the executable: the file that holds the program's entry point."""
    entry = dump.auxv.get(9)  # AT_ENTRY
    path = next((f.path for f in dump.files if entry and f.address <= entry < f.end), None)
    if path is None:
        path = dump.files[0].path if dump.files else None
    return _file_segments(dump.image, path)


def _file_segments(image: MemoryImage, path: str | None) -> Iterable[Segment]:
    for segment in image.segments:
        if segment.kind == "file" and (path is None or segment.name == path):
            yield segment
