"""Turns numbers of bytes, objects and seconds into words for people."""

from __future__ import annotations


def size_text(nbytes: int) -> str:
    """Write a number of bytes with a decimal unit: ``"999 B"``, ``"6.6 MB"``."""
    if nbytes < 1000:
        return f"{nbytes} B"
    value = float(nbytes)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.95 or unit == "PB":
            break
    return f"{value:.1f} {unit}"


def count_text(count: int, noun: str) -> str:
    """Write a count with its noun: ``"1 object"``, ``"1,120 objects"``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
