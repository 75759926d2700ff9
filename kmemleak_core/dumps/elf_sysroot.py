"""Turns holes of a core into segments that are read from the mapped files under a sysroot.

Exact for what a process cannot have changed: Linux leaves a private file mapping out of a core
only while no page of it was written to, and what it writes there (the program's data, what the
loader relocated) becomes part of the core. A truncated core has lost such pages too, so there
only code is taken from the file.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..coverage import Coverage
from ..errors import DumpError, UsageError
from ..image import Hole, Segment
from .elf_headers import ELF_MAGIC, PT_NOTE, Bytes, iterate_notes, read_header, read_program_headers
from .mapping import map_readable

_NT_GNU_BUILD_ID = 3
_MAX_LINKS = 40
#: What a mapping may extend past the end of its file: less than a page, of at most 64 KiB.
_MAX_TAIL = 1 << 16


def fill_holes(
    segments: list[Segment], holes: list[Hole], sysroot: Path | None, coverage: Coverage
) -> tuple[list[Segment], list[Hole]]:
    """Read what the core lacks from mapped files; tell in the coverage what still lacks.

    Parameters
    ----------
    segments, holes
        Of the core.
    sysroot
        Folder under which the files are found by the names that the process knew; ``/`` if the
        dump is of this machine. None: nothing is filled.
    coverage
        Receives ``dump.sysroot-mismatch``, ``dump.not-dumped`` and ``dump.filtered``.

    Returns
    -------
    segments, holes
        New lists.

    Raises
    ------
    UsageError
        The sysroot is no folder.
    """
    if sysroot is not None:
        if not sysroot.is_dir():
            raise UsageError(f"--sysroot {sysroot}: no such folder")
        segments, holes = _fill(segments, holes, sysroot, coverage)
    _tell(holes, sysroot, coverage)
    return segments, holes


def _fill(
    segments: list[Segment], holes: list[Hole], sysroot: Path, coverage: Coverage
) -> tuple[list[Segment], list[Hole]]:
    wanted: dict[str, list[Hole]] = defaultdict(list)
    kept = []
    for hole in holes:
        if hole.kind == "file" and (
            hole.reason == "not-dumped" or ("x" in hole.permissions and "w" not in hole.permissions)
        ):
            wanted[hole.name].append(hole)
        else:
            kept.append(hole)
    heads = {s.name: s for s in reversed(segments) if s.kind == "file" and s.file_offset == 0}
    added = []
    for path, group in wanted.items():
        content = map_readable(resolve_under(sysroot, path))
        if content is None:
            kept += group
            continue
        problem = _mismatch(content, heads.get(path), group)
        if problem:
            coverage.add(
                "dump.sysroot-mismatch",
                f"{path} under {sysroot} is not the file that was mapped: {problem}",
                count=len(group),
                nbytes=sum(h.size for h in group),
                address=group[0].address,
            )
            kept += group
            continue
        is_module = content[:4].tobytes() == ELF_MAGIC
        for hole in group:
            if "w" in hole.permissions and not is_module:
                # A data file that is mapped writable is usually shared: it may have changed.
                kept.append(hole)
                continue
            added += _from_file(content, hole)
    return segments + added, kept


def _from_file(content: Bytes, hole: Hole) -> list[Segment]:
    data = content[hole.file_offset : hole.file_offset + hole.size]
    made = Segment(
        hole.address, data, hole.permissions, hole.kind, hole.name, hole.file_offset
    )  # fmt: skip
    if data.size == hole.size:
        return [made]
    # The last page of a file is filled up with zeros.
    rest = replace(
        made,
        address=made.end,
        data=np.zeros(hole.size - data.size, dtype=np.uint8),
        file_offset=hole.file_offset + int(data.size),
    )
    return [made, rest]


def _mismatch(content: Bytes, head: Segment | None, holes: list[Hole]) -> str:
    """Say why a file cannot be the one that was mapped; empty if it may be."""
    need = max(h.file_offset + h.size for h in holes)
    if need - content.size >= _MAX_TAIL:
        return f"it has {content.size:,} bytes, {need:,} were mapped"
    if head is None:
        return ""
    ours = build_id(head.data)
    if ours:
        theirs = build_id(content)
        if theirs == ours:
            return ""
        return f"its build id is {theirs.hex() or 'missing'}, the dump's {ours.hex()}"
    common = min(4096, head.size, int(content.size))
    if not head.writable and not np.array_equal(head.data[:common], content[:common]):
        return "its first page differs"
    return ""


def build_id(data: Bytes) -> bytes:
    """Return the GNU build id of a module, from its file or as much of it as there is.

    Parameters
    ----------
    data
        The file from its start, ``uint8``.

    Returns
    -------
    bytes
        Empty if there is none, or if it lies beyond `data`.
    """
    try:
        header = read_header(data)
        headers = read_program_headers(data, header, Coverage())
    except DumpError:
        return b""
    notes = headers.select(headers.type == PT_NOTE)
    for offset, size in zip(notes.offset.tolist()[:16], notes.filesz.tolist(), strict=False):
        end = min(offset + size, offset + 4096)
        for note in iterate_notes(data, offset, end, header.byteorder, []):
            if note.name == b"GNU" and note.type == _NT_GNU_BUILD_ID and note.size <= 64:
                return data[note.offset : note.offset + note.size].tobytes()
    return b""


def resolve_under(sysroot: Path, path: str) -> str | None:
    """Find a file as a process whose root is `sysroot` would, never outside of it.

    Parameters
    ----------
    sysroot
        The folder.
    path
        Absolute, as ``NT_FILE`` names it: untrusted.

    Returns
    -------
    str or None
        The file, free of symbolic links; None if there is none, or if the path is no path that
        Linux would write (relative, with ``..``, of a deleted file).
    """
    if not path.startswith("/") or path.endswith(" (deleted)") or "\0" in path:
        return None
    todo = [part for part in path.split("/") if part not in ("", ".")][::-1]
    if ".." in todo:
        return None
    root = os.path.realpath(sysroot)
    done: list[str] = []
    links = 0
    try:
        while todo:
            part = todo.pop()
            if part in ("", "."):
                continue
            if part == "..":
                del done[-1:]
                continue
            here = os.path.join(root, *done, part)
            if stat.S_ISLNK(os.lstat(here).st_mode):
                links += 1
                if links > _MAX_LINKS:
                    return None
                target = os.readlink(here)
                if target.startswith("/"):
                    done.clear()
                todo += target.split("/")[::-1]
            else:
                done.append(part)
    except (OSError, ValueError):
        return None
    return os.path.join(root, *done)


def _tell(holes: list[Hole], sysroot: Path | None, coverage: Coverage) -> None:
    missing = [h for h in holes if h.reason == "not-dumped" and h.kind != "special"]
    files = [h for h in missing if h.kind == "file"]
    if files:
        what = "were not found under" if sysroot else "are read from their files with"
        coverage.add(
            "dump.not-dumped",
            f"{len(files)} mapped ranges of files are not in the dump; they {what} --sysroot "
            f"{sysroot or 'DIR'}",
            count=len(files),
            nbytes=sum(h.size for h in files),
            address=files[0].address,
        )
    # What may not be accessed at all (guard pages, reserved address space) holds nothing.
    others = [h for h in missing if h.kind != "file" and h.permissions != "---"]
    if others:
        coverage.add(
            "dump.filtered",
            f"{len(others)} mapped ranges were left out of the dump (/proc/PID/coredump_filter, "
            "MADV_DONTDUMP): pointers in them are not seen",
            count=len(others),
            nbytes=sum(h.size for h in others),
            address=others[0].address,
        )
