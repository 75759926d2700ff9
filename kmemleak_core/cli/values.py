"""Turns the words of a command line into values, or into errors that say what is wanted."""

from __future__ import annotations

import argparse
import re

from ..quantities import parse_size


def size(text: str) -> int:
    """Read a number of bytes: ``"100"``, ``"4K"``, ``"0x40"``; units are powers of 1024."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def mask(text: str) -> int:
    """Read a hexadecimal mask of 64 bits, with or without ``0x``."""
    if re.fullmatch(r"(0x)?[0-9a-f]{1,16}", text.strip().lower()):
        value = int(text, 16)
        if value:
            return value
    raise argparse.ArgumentTypeError(
        f"{text!r} is no hexadecimal 64-bit mask, such as 0x0000ffffffffffff"
    )


def count(text: str) -> int:
    """Read a number that is not negative."""
    if re.fullmatch(r"[0-9]{1,18}", text.strip()):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number of 0 or more")


def positive(text: str) -> int:
    """Read a number of 1 or more, of at most four digits."""
    if re.fullmatch(r"[0-9]{1,4}", text.strip()) and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 9999")


def process_id(text: str) -> int:
    """Read a process id."""
    if re.fullmatch(r"[0-9]{1,10}", text.strip()) and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no process id")


def names(text: str) -> frozenset[str]:
    """Read names separated by commas."""
    found = frozenset(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise argparse.ArgumentTypeError("names separated by commas are wanted")
    return found


def heuristics(text: str) -> frozenset[str] | None:
    """Read names separated by commas, ``"none"``, or ``"all"``, which is None."""
    if text == "all":
        return None
    return frozenset() if text == "none" else names(text)


def yes_or_no(text: str) -> bool:
    """Read ``"yes"`` or ``"no"``."""
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"'yes' or 'no' is wanted, not {text!r}")
    return text == "yes"


def seconds(text: str) -> float:
    """Read a number of seconds of up to a day: ``"5"``, ``"0.2"``."""
    if re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,9})?", text.strip()) and float(text) <= 86400:
        return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, from 0 to 86400")


def address(text: str) -> int:
    """Read a hexadecimal address of 64 bits, with or without ``0x``."""
    if re.fullmatch(r"(0x)?[0-9a-f]{1,16}", text.strip().lower()):
        return int(text, 16)
    raise argparse.ArgumentTypeError(f"{text!r} is no hexadecimal address")
