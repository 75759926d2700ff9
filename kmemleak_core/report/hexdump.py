"""Turns bytes into rows of hex and ASCII, laid out as the kernel's kmemleak prints them."""

from __future__ import annotations

from collections.abc import Iterator

#: Bytes in a row.
PER_ROW = 16

#: Column of a row where ASCII begins: the kernel leaves it there for short rows too.
_ASCII_COLUMN = PER_ROW * 3 + 1

_VISIBLE = bytes(c if 0x20 <= c < 0x7F else ord(".") for c in range(256))


def hex_rows(data: bytes) -> Iterator[str]:
    """Yield one row for every 16 bytes: two-digit hex, single spaces, padding, ASCII.

    The layout is that of the kernel's ``print_hex_dump`` with rows of 16 and groups of 1 byte;
    whatever is not printable ASCII is a dot.
    """
    for start in range(0, len(data), PER_ROW):
        row = data[start : start + PER_ROW]
        yield f"{row.hex(' '):<{_ASCII_COLUMN}}{row.translate(_VISIBLE).decode('ascii')}"
