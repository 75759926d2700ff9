"""Builds the kallsyms tables of a kernel, in each form that Linux has had."""

from __future__ import annotations

import struct

import numpy as np

from kmemleak_core.image import MemoryImage

#: Where the tables lie, and where the kernel's code begins.
TABLES = 0xFFFF_FFFF_8200_0000
STEXT = 0xFFFF_FFFF_8100_0000

FORMS = ("absolute", "relative", "percpu", "place")


def kallsyms(
    symbols: list[tuple[int, str, str]],
    *,
    form: str = "percpu",
    tokens: tuple[str, ...] = ("kmem", "leak", "_", "alloc", "a much longer token"),
) -> tuple[dict[str, str], dict[str, bytearray]]:
    """Return VMCOREINFO, and the tables by the name of their symbol.

    Symbols are (address, kind, name), sorted by address. The form is how addresses are stored:
    as they are, from a base, from a base with per-CPU ones as they are, from their own place.
    """
    table, index, codes = _tokens(tokens)
    names = bytearray()
    for _, kind, name in symbols:
        code = _compress(kind + name, codes)
        length = len(code)
        names += bytes([length]) if length < 128 else bytes([length & 0x7F | 0x80, length >> 7])
        names += code
    parts: dict[str, bytearray] = {
        "num_syms": bytearray(struct.pack("<I", len(symbols))),
        "names": names,
        "token_table": table,
        "token_index": index,
    }
    addresses = [address for address, _, _ in symbols]
    if form == "absolute":
        parts["addresses"] = bytearray(struct.pack(f"<{len(symbols)}Q", *addresses))
    else:
        base = min((a for a in addresses if a >> 63), default=STEXT)
        offsets = bytearray()
        place = place_of(parts)["num_syms"] + 0x1000_0000  # far from the other tables
        for i, address in enumerate(addresses):
            if form == "relative":
                offsets += struct.pack("<I", address - base & 0xFFFFFFFF)
            elif form == "percpu":
                offsets += struct.pack("<i", base - 1 - address if address >> 63 else address)
            else:
                offsets += struct.pack("<i", address - (place + 4 * i))
        parts["offsets"] = offsets
        if form != "place":
            parts["relative_base"] = bytearray(struct.pack("<Q", base))
    places = place_of(parts)
    info = {f"SYMBOL(kallsyms_{name})": f"{places[name]:x}" for name in parts}
    for address, _, name in symbols:
        if name == "_stext":
            info["SYMBOL(_stext)"] = f"{address:x}"
    return info, parts


def place_of(parts: dict[str, bytearray]) -> dict[str, int]:
    """Return where each table lies: 64 KiB and more apart, the addresses' in their own memory."""
    places = {}
    at = TABLES
    for name, data in parts.items():
        if name == "offsets":
            places[name] = TABLES + 0x1000_0000
            continue
        places[name] = at
        at += max(len(data), 1) + 0xFFFF & ~0xFFFF
    return places


def image_of(parts: dict[str, bytearray]) -> MemoryImage:
    """Return the tables in memory, nothing behind them."""
    places = place_of(parts)
    return MemoryImage.from_segments(
        (places[name], np.frombuffer(bytes(data), np.uint8)) for name, data in parts.items()
    )


def _tokens(words: tuple[str, ...]) -> tuple[bytearray, bytearray, dict[str, int]]:
    """Return token table and index; letters stand for themselves, words for other codes."""
    free = iter(range(128, 256))
    texts = {code: chr(code) for code in range(32, 127)} | dict(zip(free, words, strict=False))
    table, offsets = bytearray(), []
    for code in range(256):
        offsets.append(len(table))
        table += texts.get(code, "").encode() + b"\0"
    return table, bytearray(struct.pack("<256H", *offsets)), {t: c for c, t in texts.items()}


def _compress(text: str, codes: dict[str, int]) -> bytes:
    code = bytearray()
    words = sorted((t for t in codes if len(t) > 1), key=len, reverse=True)
    while text:
        word = next((w for w in words if text.startswith(w)), text[0])
        code.append(codes[word])
        text = text[len(word) :]
    return bytes(code)
