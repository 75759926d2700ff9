"""Builds BTF, record by record."""

from __future__ import annotations

import struct

import numpy as np

from kmemleak_core.symbols.btf import Kind


class Btf:
    """Records and strings; each method returns the number of the type that it adds."""

    def __init__(self, first_id: int = 1, text_base: int = 0) -> None:
        self.first_id = first_id
        self.text_base = text_base
        self.text = bytearray(b"\0") if not text_base else bytearray()
        self.records: list[bytes] = []

    def string(self, name: str) -> int:
        if not name:
            return 0
        raw = name.encode() + b"\0"
        at = (b"\0" + bytes(self.text)).find(b"\0" + raw)
        if at < 0:
            at = len(self.text)
            self.text += raw
        return self.text_base + at

    def add(self, kind: int, name: str = "", value: int = 0, *more: int, vlen=0, flag=False) -> int:
        info = kind << 24 | vlen | flag << 31
        words = (self.string(name), info, value, *more)
        self.records.append(struct.pack(f"<{len(words)}I", *(w & 0xFFFFFFFF for w in words)))
        return self.first_id + len(self.records) - 1

    def int(self, name: str, size: int, *, signed: bool = False, bits: int = 0) -> int:
        return self.add(Kind.INT, name, size, signed << 24 | (bits or 8 * size))

    def struct(
        self, name: str, size: int, *members: tuple, union: bool = False, flag: bool = False
    ) -> int:
        """Members are (name, type, bit) or, with the flag, (name, type, bit, width)."""
        words = []
        for member, kind, bit, *width in members:
            words += [self.string(member), kind, bit | (width[0] if width else 0) << 24]
        kind = Kind.UNION if union else Kind.STRUCT
        return self.add(kind, name, size, *words, vlen=len(members), flag=flag)

    def enum(self, name: str, *values: tuple[str, int], size: int = 4, flag: bool = False) -> int:
        words = []
        for text, value in values:
            words += [self.string(text), value]
            if size == 8:
                words.append(value >> 32)
        kind = Kind.ENUM64 if size == 8 else Kind.ENUM
        return self.add(kind, name, size, *words, vlen=len(values), flag=flag)

    def array(self, kind: int, length: int) -> int:
        return self.add(Kind.ARRAY, "", 0, kind, kind, length)

    def bytes(self) -> bytes:
        types = b"".join(self.records)
        header = struct.pack(
            "<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(self.text)
        )
        return header + types + bytes(self.text)

    def data(self) -> np.ndarray:
        return np.frombuffer(self.bytes(), np.uint8)
