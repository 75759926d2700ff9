"""Turns what people write for sizes and addresses into numbers and ranges of numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE = re.compile(r"([0-9]{1,18})([kmg]?)(?:i?b)?")
_HEX = re.compile(r"0x[0-9a-f]{1,16}")

#: No size and no address is greater.
HIGHEST = (1 << 64) - 1


def parse_size(text: str) -> int:
    """Read a number of bytes: ``"100"``, ``"4K"``, ``"1MB"``, ``"0x40"``; units are 1024's powers.

    Raises
    ------
    ValueError
        It is none.
    """
    word = text.strip().lower()
    match = _SIZE.fullmatch(word)
    if match:
        return int(match[1]) * _UNITS[match[2]]
    if _HEX.fullmatch(word):
        return int(word, 16)
    raise ValueError(f"{text!r} is no size: bytes, or with K, M, G")


@dataclass(frozen=True, slots=True)
class Span:
    """Numbers from `low` to `high`, both of them included."""

    low: int = 0
    high: int = HIGHEST

    def __contains__(self, value: int) -> bool:
        return self.low <= value <= self.high


def parse_sizes(text: str) -> Span:
    """Read a range of sizes: ``"64"``, ``"64-128"`` (128 too), ``">4K"``, ``"<=1M"``.

    Raises
    ------
    ValueError
        It is none, or an empty one.
    """
    text = text.strip()
    span: Span
    match = re.fullmatch(r"([<>]=?)(.*)", text, re.DOTALL)
    if match:
        size, beyond = parse_size(match[2]), "=" not in match[1]
        span = Span(low=size + beyond) if text[0] == ">" else Span(high=size - beyond)
    elif "-" in text:
        low, _, high = text.partition("-")
        span = Span(parse_size(low), parse_size(high))
    else:
        span = Span(parse_size(text), parse_size(text))
    if not 0 <= span.low <= span.high <= HIGHEST:
        raise ValueError(f"{text!r} is no range of sizes: no size is in it")
    return span


def parse_addresses(text: str) -> Span:
    """Read ``"0x1000-0x2000"``, whose end is not part of it, or one address.

    Raises
    ------
    ValueError
        It is none, or an empty one.
    """
    first, dash, second = text.strip().lower().partition("-")
    words = [first.strip(), second.strip()] if dash else [first.strip()]
    if not all(_HEX.fullmatch(word) for word in words):
        raise ValueError(f"{text!r} is no range of addresses, such as 0x1000-0x2000")
    low, high = int(words[0], 16), int(words[-1], 16) - bool(dash)
    if low > high:
        raise ValueError(f"{text!r} is no range of addresses: no address is in it")
    return Span(low, high)
