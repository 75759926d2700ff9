"""Turns BTF, the compact description of its types that a kernel carries, into Types.

The format is that of ``Documentation/bpf/btf.rst`` and ``include/uapi/linux/btf.h``: a header, a
section of records of 32-bit words (a type's number is its record's), a section of strings.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..errors import DumpError
from ..image import ByteOrder
from .aggregates import (
    PLAIN_NAMES,
    Aggregate,
    AggregateTypes,
    Part,
    TypeFacts,
    array_facts,
    pointer_facts,
)
from .names import NameIndex

_MAGIC = 0xEB9F

#: Typedefs of typedefs, pointers to pointers: more is damage.
_DEEPEST = 64


class Kind(IntEnum):
    """What a record describes (``BTF_KIND_*``)."""

    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


#: Words behind a record's three: once, and for each element.
_WORDS: dict[int, tuple[int, int]] = {
    Kind.INT: (1, 0),
    Kind.ARRAY: (3, 0),
    Kind.STRUCT: (0, 3),
    Kind.UNION: (0, 3),
    Kind.ENUM: (0, 2),
    Kind.FUNC_PROTO: (0, 2),
    Kind.VAR: (1, 0),
    Kind.DATASEC: (0, 3),
    Kind.DECL_TAG: (1, 0),
    Kind.ENUM64: (0, 3),
}
_UNKNOWN = 0xFFFFFFFF

#: Records that only lend a name or a qualifier to another type.
_TRANSPARENT = (Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG)

#: Records that are asked for by name.
_NAMED = (Kind.STRUCT, Kind.UNION, Kind.TYPEDEF, Kind.ENUM, Kind.ENUM64)


class BtfTypes(AggregateTypes):
    """The types of a kernel, or of a module on top of its kernel's.

    Parameters
    ----------
    data
        ``(n,)`` uint8: the whole of it, from the header on.
    origin
        Where it comes from, for messages.
    byteorder
        Of the machine.
    base
        The kernel's types, if these are a module's: numbers and strings go on from its own.

    Raises
    ------
    DumpError
        It is no BTF, or its records are damaged.
    """

    def __init__(
        self,
        data: NDArray[np.uint8],
        *,
        origin: str = "BTF in the dump",
        byteorder: ByteOrder = "little",
        base: BtfTypes | None = None,
        word_size: int = 8,
    ) -> None:
        super().__init__(origin, byteorder)
        self.base = base
        self.word_size = word_size
        order = "<" if byteorder == "little" else ">"
        head = data[:24].tobytes()
        if len(head) < 24 or int.from_bytes(head[:2], byteorder) != _MAGIC:
            raise self._damaged("it does not begin as BTF")
        header, types_at, types_size, text_at, text_size = np.frombuffer(head, f"{order}u4")[
            1:
        ].tolist()
        types_at, text_at = header + types_at, header + text_at
        if max(types_at + types_size, text_at + text_size) > data.size or types_size % 4:
            raise self._damaged("its sections lie outside it")
        self._text = data[text_at : text_at + text_size].tobytes()
        leading = base is not None or self._text.startswith(b"\0")
        if not leading or (text_size and self._text[-1] != 0):
            raise self._damaged("its strings are not whole")
        section = data[types_at : types_at + types_size]
        self._words: NDArray[np.uint32] = section.copy().view(f"{order}u4").astype(np.uint32)
        self._at = self._records()
        #: The number of the first record, of the last one + 1, and of the first character.
        self.first_id: int = base.end_id if base else 1
        self.end_id: int = self.first_id + self._at.size
        self._text_base: int = base.text_end if base else 0
        self.text_end: int = self._text_base + text_size
        self._info = self._words[self._at + np.uint32(1)] if self._at.size else self._words[:0]
        self._name_at = self._words[self._at] if self._at.size else self._words[:0]
        self._kind = ((self._info >> np.uint32(24)) & np.uint32(0x7F)).astype(np.uint8)

    def _records(self) -> NDArray[np.uint32]:
        from .._btf import index

        extra, each = np.full(128, _UNKNOWN, np.uint32), np.zeros(128, np.uint32)
        for kind in Kind:
            extra[kind], each[kind] = _WORDS.get(kind, (0, 0))
        at = np.empty(self._words.size // 3, np.uint32)
        count, end = index(self._words, extra, each, at)
        if end < self._words.size:
            raise self._damaged(f"type {count + 1} is of an unknown kind, or cut off")
        return at[:count].copy()

    def find(self, name: str) -> Hashable | None:
        """Return the number of a structure, union, or a typedef of one."""
        kinds = self._named(name)
        for wanted in (Kind.STRUCT, Kind.UNION):
            for number in kinds.get(wanted, ()):
                return number
        for number in kinds.get(Kind.TYPEDEF, ()):
            facts = self.facts(number)
            if facts.aggregate is not None and not facts.count:
                return facts.aggregate
        return self.base.find(name) if self.base else None

    def _named(self, name: str) -> dict[int, list[int]]:
        """Return the numbers of own records with a name, by kind."""
        found: dict[int, list[int]] = {}
        rows, indexes = self._types_by_name
        for row in rows[_find(indexes, name)].tolist():
            found.setdefault(int(self._kind[row]), []).append(self.first_id + row)
        return found

    @cached_property
    def _types_by_name(self) -> tuple[NDArray[np.intp], tuple[NameIndex, ...]]:
        """Which of the own records have a name that is asked for, and an index of those names."""
        rows = np.flatnonzero(np.isin(self._kind, _NAMED))
        return rows, self._indexed(self._name_at[rows])

    def _indexed(self, at: NDArray[np.uint32]) -> tuple[NameIndex, ...]:
        """Return indexes of names: those of the own text, and of what these types build on."""
        own = NameIndex(self._text, at.astype(np.int64) - self._text_base)
        return (own, *self.base._indexed(at)) if self.base else (own,)

    def name(self, at: int) -> str:
        """Return a string of the strings' section."""
        if self.base and at < self._text_base:
            return self.base.name(at)
        at -= self._text_base
        if not 0 <= at < len(self._text):
            raise self._damaged("a name lies outside its strings")
        return self._text[at : self._text.index(b"\0", at)].decode("latin-1")

    def _record(self, number: int) -> tuple[int, int, int, list[int]]:
        """Return a type's kind and flag, name, size or type, and its further words."""
        if self.base and number < self.first_id:
            return self.base._record(number)
        row = number - self.first_id
        if not 0 <= row < self._at.size:
            raise self._damaged(f"it speaks of type {number}, which it does not have")
        at, info = int(self._at[row]), int(self._info[row])
        kind = info >> 24 & 0x7F
        once, each = _WORDS.get(kind, (0, 0))
        more = self._words[at + 3 : at + 3 + once + each * (info & 0xFFFFFF)].tolist()
        return kind | info >> 31 << 8, int(self._words[at]), int(self._words[at + 2]), more

    def aggregate(self, key: Hashable) -> Aggregate:
        """Return the structure of a number."""
        assert isinstance(key, int)
        kind, name, size, more = self._record(key)
        sized = kind >> 8  # bit fields tell their width beside their place
        parts = []
        for at, number, place in zip(more[::3], more[1::3], more[2::3], strict=True):
            bit, bit_size = (place & 0xFFFFFF, place >> 24) if sized else (place, 0)
            facts = self.facts(number)
            # Before there was that flag, a bit field was of a narrower integer type.
            parts.append(Part(self.name(at), bit, bit_size or facts.bits, facts))
        return Aggregate(self.name(name), size, tuple(parts))

    def facts(self, number: int, depth: int = 0) -> TypeFacts:
        """Return what a type says of a member: its size, as C would write it, ….

        Raises
        ------
        DumpError
            The records are damaged: one that leads nowhere, or back to itself.
        """
        if depth > _DEEPEST:
            raise self._damaged("its types lead round and round")
        if number == 0:
            return TypeFacts(0, "void")
        flagged, name_at, value, more = self._record(number)
        kind = flagged & 0xFF
        if kind in _TRANSPARENT:
            facts = self.facts(value, depth + 1)
            if kind == Kind.TYPEDEF and facts.text in ("struct", "union", "enum"):
                # A structure that has no name but this one.
                return TypeFacts(
                    facts.size, self.name(name_at), facts.signed, facts.count, facts.aggregate
                )
            return facts
        if kind == Kind.PTR:
            return pointer_facts(self.facts(value, depth + 1), self.word_size)
        if kind == Kind.ARRAY:
            return array_facts(self.facts(more[0], depth + 1), more[2])
        name = self.name(name_at)
        if kind in (Kind.STRUCT, Kind.UNION):
            word = "struct" if kind == Kind.STRUCT else "union"
            return TypeFacts(value, f"{word} {name}".rstrip(), aggregate=number)
        if kind in (Kind.ENUM, Kind.ENUM64):
            high = more[1::2] if kind == Kind.ENUM else more[2::3]
            negative = flagged >> 8 or (kind == Kind.ENUM and not self._flags_signed)
            signed = negative and any(word >> 31 for word in high)
            return TypeFacts(value, f"enum {name}".rstrip(), bool(signed))
        if kind == Kind.INT:
            bits = more[0] & 0xFF
            return TypeFacts(
                value,
                PLAIN_NAMES.get(name, name),
                bool(more[0] >> 24 & 1),
                bits=bits if bits < 8 * value else 0,
            )
        if kind == Kind.FLOAT:
            return TypeFacts(value, name)
        if kind == Kind.FWD:
            return TypeFacts(0, f"{'union' if flagged >> 8 else 'struct'} {name}")
        return TypeFacts(0, "function")

    def enumeration(self, name: str) -> Mapping[str, int]:
        """Return the enumerators of an enumeration; empty where there is none of that name."""
        kinds = self._named(name)
        for number in (*kinds.get(Kind.ENUM, ()), *kinds.get(Kind.ENUM64, ())):
            kind, _, _, more = self._record(number)
            names = more[:: 2 if kind & 0xFF == Kind.ENUM else 3]
            found = {self.name(at): self.enumerator(self.name(at)) for at in names}
            return {text: value for text, value in found.items() if value is not None}
        return self.base.enumeration(name) if self.base else {}

    @cached_property
    def _flags_signed(self) -> bool:
        """Whether enumerations that have negative values are flagged (Linux 6.0, pahole 1.24)."""
        if self.base:
            return self.base._flags_signed
        flagged = self._info[self._kind == Kind.ENUM] >> np.uint32(31)
        return bool(flagged.any())

    def enumerator(self, name: str) -> int | None:
        """Return the value of an enumerator, of whichever enumeration."""
        values, indexes = self._enumerators
        rows = _find(indexes, name)
        if rows.size:
            return int(values[rows[0]])
        return self.base.enumerator(name) if self.base else None

    @cached_property
    def _enumerators(self) -> tuple[NDArray[np.int64], tuple[NameIndex, ...]]:
        """Values of all own enumerators, and an index of their names."""
        names, values = [], []
        for kind, step in ((Kind.ENUM, 2), (Kind.ENUM64, 3)):
            rows = np.flatnonzero(self._kind == kind)
            count = (self._info[rows] & np.uint32(0xFFFFFF)).astype(np.int64)
            before = np.cumsum(count) - count
            at = np.repeat(self._at[rows].astype(np.int64) + 3 - step * before, count)
            at += step * np.arange(at.size)
            names.append(self._words[at])
            low = self._words[at + 1]
            if kind == Kind.ENUM and self._flags_signed:
                flagged = np.repeat(self._info[rows] >> np.uint32(31), count).astype(bool)
                low64 = low.astype(np.int64)
                values.append(np.where(flagged, low.view(np.int32), low64))
            elif kind == Kind.ENUM:
                values.append(low.view(np.int32).astype(np.int64))
            else:
                high = self._words[at + 2].astype(np.uint64) << np.uint64(32)
                values.append((high | low.astype(np.uint64)).view(np.int64))
        return np.concatenate(values), self._indexed(np.concatenate(names))

    def _damaged(self, why: str) -> DumpError:
        return DumpError(
            f"{self.origin} is damaged: {why}", hint="give the kernel's vmlinux: --vmlinux FILE"
        )


def _find(indexes: tuple[NameIndex, ...], name: str) -> NDArray[np.intp]:
    """Return the rows of a name, of no row if it is empty."""
    found = [index.rows(name) for index in indexes] if name else []
    return np.sort(np.concatenate(found)) if found else np.empty(0, np.intp)
