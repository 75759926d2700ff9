"""Turns a kernel's memory into where its kallsyms tables are, where VMCOREINFO does not tell.

Before Linux 6.0 VMCOREINFO is silent about them. They lie behind each other in the kernel's
read-only data, as ``scripts/kallsyms.c`` wrote them until 6.3: addresses, or offsets and their
base; how many; names; further tables; tokens; where each token begins. The tokens betray
themselves: digits stand for themselves, one behind the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from ..errors import FaultError
from ..image import MemoryImage

#: How far behind its first code a kernel's read-only data ends at most, and how far before their
#: tokens the names begin.
_KERNEL = 1 << 29
_MOST_NAMES = 1 << 26

#: More than the tokens and their index take; symbols of no kernel are as few, or as many.
_MOST_TOKENS = 1 << 14
_FEWEST, _MOST = 1 << 8, 1 << 23
_MOST_TRIED = 64

_DIGITS = re.compile(b"\0" + b"\0".join(b"%d" % i for i in range(10)) + b"\0")


def find_tables(image: MemoryImage, code: int) -> Iterator[dict[str, int]]:
    """Find the tables.

    Parameters
    ----------
    image
        The kernel's memory, by virtual address.
    code
        Where its code begins (``_stext``).

    Yields
    ------
    dict
        A table's address by its name, without ``kallsyms_``: each set that may be meant, the
        likelier first.
    """
    for segment in image.segments:
        if segment.end <= code or segment.address >= code + _KERNEL:
            continue
        for match in _DIGITS.finditer(segment.data.data):
            found = _tokens(image, segment.address + match.start() + 1)
            if found is not None:
                index, tokens = found
                for tables in _names(image, tokens, code):
                    yield tables | {"token_table": tokens, "token_index": index}


def _tokens(image: MemoryImage, zero: int) -> tuple[int, int] | None:
    """Return where tokens' places are told, and where they begin: they hold a token ``0``."""
    order = "<" if image.byteorder == "little" else ">"
    start = _aligned(zero)
    try:
        raw = image.upto(start, _MOST_TOKENS)
    except FaultError:
        return None
    words = raw[: raw.size & ~1].view(f"{order}u2").astype(np.int64)
    if words.size < 256:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(words, 256)
    digit = ord("0")
    likely = (windows[:, 0] == 0) & (windows[:, digit + 1] == windows[:, digit] + 2)
    for i in np.flatnonzero(likely).tolist():
        at, first = start + 2 * i, zero - int(windows[i, digit])
        if np.all(np.diff(windows[i]) > 0) and first + int(windows[i, -1]) < at:
            return at, first
    return None


def _names(image: MemoryImage, tokens: int, code: int) -> Iterator[dict[str, int]]:
    """Yield where names may begin: behind their number, and that behind an address in the kernel.

    The address is the offsets' base, or the last one of absolute addresses. Of the number's word
    only 32 bits are used since 4.20.
    """
    segment = image.find(tokens)
    if segment is None:
        return
    word = image.word_size
    room = min(_MOST_NAMES, tokens - segment.address) & ~7
    start = tokens - room
    raw = image.view(start, room)
    words = raw.view(image.word_dtype)
    before, number = words[:-1], words[1:]
    likely = (before >= max(code - _KERNEL, 0)) & (before < code + _KERNEL)
    likely &= (number >= _FEWEST) & (number <= _MOST)
    # No number like that is likely to stand between the names and the tokens.
    for i in np.flatnonzero(likely)[: -_MOST_TRIED - 1 : -1].tolist():
        base, count = start + word * i, int(number[i])
        tables = {"num_syms": base + word, "names": base + 2 * word}
        yield tables | {"relative_base": base, "offsets": base - _aligned(4 * count)}
        yield tables | {"addresses": base + word - word * count}


def _aligned(value: int) -> int:
    return value + 7 & ~7
