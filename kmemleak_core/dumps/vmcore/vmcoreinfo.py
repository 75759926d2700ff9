"""Turns the text that a kernel leaves for those who read its dump into a mapping of names.

Format: lines ``NAME=value``, as ``include/linux/vmcore_info.h`` (``crash_core.h`` before) makes
them. ``SYMBOL`` values are hexadecimal without a prefix, ``NUMBER`` values are decimal and
signed, but for some that begin with ``0x``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...physical import PhysicalMemory

#: The kernel has a page for it (of 64 KiB at most).
MOST = 1 << 16

_MOST_FOUND = 64
_NOTE = b"VMCOREINFO\0"
_FIRST = b"OSRELEASE="


def parse_vmcoreinfo(raw: bytes) -> dict[str, str]:
    """Decode it up to the first NUL; of a name that comes twice, the first counts."""
    info: dict[str, str] = {}
    for line in raw[:MOST].split(b"\0", 1)[0].decode("latin-1").splitlines():
        name, equals, value = line.partition("=")
        if equals:
            info.setdefault(name.strip(), value.strip())
    return info


def find_vmcoreinfo(physical: PhysicalMemory, page_size: int = 4096) -> list[dict[str, str]]:
    """Look for it in memory, where it begins a page: as text, or as the note that holds it.

    Returns
    -------
    list of dict
        Different ones, the longest first: another may be left from a kernel before.
    """
    found: list[dict[str, str]] = []
    first = int.from_bytes(_FIRST[:8], "little")
    for each in physical.ranges:
        skipped = -each.address % page_size
        pages = each.data[skipped:]
        pages = pages[: pages.size // page_size * page_size].reshape(-1, page_size)
        for at in (0, 24):  # as text, after the note's header and name
            begins = np.ascontiguousarray(pages[:, at : at + 8]).view("<u8")[:, 0]
            for i in np.flatnonzero(begins == first)[: _MOST_FOUND - len(found)].tolist():
                raw = each.data[skipped + i * page_size :][:MOST].tobytes()
                if raw[at : at + len(_FIRST)] != _FIRST or (at and raw[12:23] != _NOTE):
                    continue
                size = int.from_bytes(raw[4:8], "little") if at else MOST
                info = parse_vmcoreinfo(raw[at : at + size])
                if info not in found:
                    found.append(info)
    return sorted(found, key=len, reverse=True)


def symbol(info: Mapping[str, str], *names: str) -> int | None:
    """Return the address of the first of these symbols that it has."""
    for name in names:
        value = _integer(info.get(f"SYMBOL({name})"), 16)
        if value is not None and value >= 0:
            return value
    return None


def number(info: Mapping[str, str], name: str) -> int | None:
    """Return a ``NUMBER``; None where there is none of that name."""
    return _integer(info.get(f"NUMBER({name})"), 0)


def page_size(info: Mapping[str, str]) -> int:
    """Return the bytes of a page, 4096 where it does not tell."""
    size = _integer(info.get("PAGESIZE"), 10) or 4096
    return size if size in (4096, 16384, 65536) else 4096


def _integer(text: str | None, base: int) -> int | None:
    if text is None or len(text) > 32:
        return None
    try:
        value = int(text, base)
    except ValueError:
        return None
    return value if abs(value) < 1 << 64 else None
