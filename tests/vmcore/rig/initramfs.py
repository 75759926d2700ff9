"""Turns a busybox, a script and modules into the archive that a kernel boots from (cpio, newc)."""

from __future__ import annotations

import gzip
import lzma
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import zstandard

from .packages import Packages


def build(files: Mapping[str, bytes], programs: Iterable[str] = ()) -> bytes:
    """Return a root file system.

    Parameters
    ----------
    files
        Contents by path from the root, folders above them included by themselves.
    programs
        Which of `files` can be run.
    """
    runs = set(programs)
    folders = {"dev", "proc", "sys", "tmp"}
    for path in files:
        folders.update(str(parent) for parent in Path(path).parents if str(parent) != ".")
    out = bytearray()
    for path in sorted(folders):
        _add(out, path, stat.S_IFDIR | 0o755)
    # Without it, the first process has no output to complain to.
    _add(out, "dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    for path, content in sorted(files.items()):
        _add(out, path, stat.S_IFREG | (0o755 if path in runs else 0o644), content)
    _add(out, "TRAILER!!!", 0)
    return bytes(out)


def _add(
    out: bytearray, path: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)
) -> None:
    name = path.encode() + b"\0"
    # inode, mode, uid, gid, links, mtime, size, device, device of a node, name's size, checksum;
    # Documentation/driver-api/early-userspace/buffer-format.rst
    fields = (len(out), mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
    out += b"070701" + b"".join(b"%08x" % value for value in fields) + name
    out += bytes(-len(out) % 4) + content
    out += bytes(-len(out) % 4)


def modules(packages: Packages, names: Iterable[str]) -> dict[str, bytes]:
    """Return modules with all that they depend on, in the order in which they can be loaded.

    A module that the kernel does not have, or has built in, is left out.
    """
    found: dict[str, bytes] = {}
    for name in names:
        _with_dependencies(packages, name, found)
    return found


def with_modules(folder: str, found: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return modules as files of a folder, with their order as the guest's script reads it."""
    files = {f"{folder}/{name}.ko": content for name, content in found.items()}
    return {**files, f"{folder}/order": "\n".join([*found, ""]).encode()}


def _with_dependencies(packages: Packages, name: str, found: dict[str, bytes]) -> None:
    path = packages.module(name)
    if name in found or path is None:
        return
    content = decompress(path)
    listed = re.search(rb"\0depends=([^\0]*)\0", content)
    for needed in listed[1].decode().split(",") if listed else []:
        if needed:
            _with_dependencies(packages, needed, found)
    found[name] = content


def decompress(path: Path) -> bytes:
    """Read a module that may be compressed, as packages of newer suites have them."""
    raw = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(raw)
    if path.suffix == ".gz":
        return gzip.decompress(raw)
    if path.suffix == ".zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(raw)
    return raw
