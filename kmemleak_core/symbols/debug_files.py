"""Turns a program's build-id into its debug file, and that into the one that it shares parts with.

Debug files lie under ``/usr/lib/debug/.build-id``, of a sysroot or of this machine: the build-id
tells that it is the right one, wherever it lies. What several have in common dwz moves into another
file, which they name in ``.gnu_debugaltlink``, with its build-id.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..dumps.elf_sysroot import build_id, resolve_under
from ..dumps.mapping import map_readable
from .elf_file import ElfFile, open_elf

#: Bytes of the section that names the other file.
_LONGEST = 4096


def debug_file(wanted: bytes, sysroot: Path) -> ElfFile | None:
    """Return the debug file of a program or library with a build-id; None where there is none."""
    if len(wanted) < 2:
        return None
    name = wanted.hex()
    where = f"/usr/lib/debug/.build-id/{name[:2]}/{name[2:]}.debug"
    return _first(((root, where) for root in dict.fromkeys((sysroot, Path("/")))), wanted)


def shared_file(file: ElfFile, sysroot: Path) -> ElfFile | None:
    """Return the file that a debug file shares parts with; None where it names none that is there.

    Parameters
    ----------
    file
        The debug file; its path counts where the other's is relative to it.
    sysroot
        Where an absolute path is looked for at first.
    """
    section = next((s for s in file.sections if s.name == ".gnu_debugaltlink"), None)
    if section is None or section.size > _LONGEST:
        return None
    raw = file.data[section.offset : section.offset + section.size].tobytes()
    path, end, wanted = raw.partition(b"\0")
    if not end or not path:
        return None
    where = os.fsdecode(path)
    if os.path.isabs(where):
        return _first(((root, where) for root in dict.fromkeys((sysroot, Path("/")))), wanted)
    beside = os.path.normpath(os.path.join(os.path.dirname(file.path), where))
    return _first([(Path("/"), beside)], wanted)


def _first(places: Iterable[tuple[Path, str]], wanted: bytes) -> ElfFile | None:
    """Return the first file that is there and has a build-id."""
    for root, where in places:
        path = resolve_under(root, where)
        content = map_readable(path)
        file = None if content is None else open_elf(content, path or "")
        if file is not None and wanted in (build_id(file.data), _build_id_section(file)):
            return file
    return None


def _build_id_section(file: ElfFile) -> bytes:
    """Return the build-id of a file that is never loaded: it has sections alone."""
    section = next((s for s in file.sections if s.name == ".note.gnu.build-id"), None)
    if section is None or section.size > _LONGEST:
        return b""
    raw = file.data[section.offset : section.offset + section.size].tobytes()
    # Sizes of name and content, the type, the name in four bytes.
    return raw[16:] if raw[12:16] == b"GNU\0" else b""
