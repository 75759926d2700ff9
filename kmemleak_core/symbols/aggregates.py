"""Turns what a source tells of a structure's parts into its members, those of nameless parts too.

A source of types is a subclass of `AggregateTypes` that knows which key a name has, which parts a
key's structure has, and enumerations. Everything else is the same for all of them.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace

from ..errors import DumpError
from ..image import ByteOrder
from . import Member, Struct

#: Nameless structures within each other, and members of one with all of theirs: more is damage.
_DEEPEST = 32
_MOST_MEMBERS = 1 << 16

_STEP = re.compile(r"([^.\[\]]+)((?:\[\d+\])?)")


@dataclass(frozen=True, slots=True)
class TypeFacts:
    """What a member's type says.

    Parameters
    ----------
    size
        Bytes, of an array's elements together.
    text
        As C would write it, typedefs resolved.
    signed
        Whether it is a signed integer.
    count
        Elements of an array.
    aggregate
        Key of the structure that it is, or that an array's elements are.
    bits
        Its width, where that is less than its bytes have; 0 for others.
    """

    size: int
    text: str = ""
    signed: bool = False
    count: int = 0
    aggregate: Hashable | None = None
    bits: int = 0


def array_facts(element: TypeFacts, length: int) -> TypeFacts:
    """Return what an array's type says; one of arrays is told as one, as BTF has them."""
    count = length * (element.count or 1)
    text = f"{element.text.partition(' [')[0]} [{count or ''}]"
    return TypeFacts(element.size * length, text, element.signed, count, element.aggregate)


def pointer_facts(target: TypeFacts, size: int) -> TypeFacts:
    """Return what a pointer's type says."""
    return TypeFacts(size, f"{target.text}{'' if target.text.endswith('*') else ' '}*")


@dataclass(frozen=True, slots=True)
class Part:
    """A member as its source has it.

    Parameters
    ----------
    name
        Empty for a nameless structure or union.
    bit
        Where it begins, in bits from the structure's start.
    bit_size
        Width of a bit field; 0 for others.
    type
        Its type.
    """

    name: str
    bit: int
    bit_size: int
    type: TypeFacts


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A structure as its source has it; parts in its order."""

    name: str
    size: int
    parts: tuple[Part, ...]


#: C's own spelling of what compilers call otherwise.
PLAIN_NAMES: Mapping[str, str] = {
    "long int": "long",
    "long unsigned int": "unsigned long",
    "short int": "short",
    "short unsigned int": "unsigned short",
    "long long int": "long long",
    "long long unsigned int": "unsigned long long",
    "_Bool": "bool",
}


class NamedTypes(ABC):
    """Structures by name, and members by path, from a source that knows structures by a key.

    Parameters
    ----------
    origin
        Where they come from.
    byteorder
        Of the memory that they describe.
    """

    def __init__(self, origin: str, byteorder: ByteOrder = "little") -> None:
        self.origin = origin
        self.byteorder = byteorder
        self._keys: dict[str, Hashable | None] = {}
        self._members: dict[tuple[str, str], Member | None] = {}

    @abstractmethod
    def find(self, name: str) -> Hashable | None:
        """Return the key of a structure, union, or a typedef of one."""

    @abstractmethod
    def described(self, key: Hashable) -> tuple[Struct, Mapping[str, Hashable]]:
        """Return a structure, and the keys of those of its members that are structures."""

    @abstractmethod
    def enumerator(self, name: str) -> int | None:
        """Return the value of an enumerator, of whichever enumeration."""

    def struct(self, name: str) -> Struct | None:
        """Return a structure or union; None where there is none of that name."""
        key = self._key(name)
        return None if key is None else self.described(key)[0]

    def member(self, struct: str, path: str) -> Member | None:
        """Return a member by its path, its offset counted from the structure's start.

        ``"list.next"`` and ``"mem[2].base"`` are paths; no index means an array's first element.
        """
        wanted = (struct, path)
        if wanted not in self._members:
            self._members[wanted] = self._member(struct, path)
        return self._members[wanted]

    def _key(self, name: str) -> Hashable | None:
        if name not in self._keys:
            self._keys[name] = self.find(name)
        return self._keys[name]

    def _member(self, struct: str, path: str) -> Member | None:
        key = self._key(struct)
        offset = 0
        found: Member | None = None
        for step in path.split("."):
            match = _STEP.fullmatch(step)
            if key is None or match is None:
                return None
            name, index = match.groups()
            described, keys = self.described(key)
            found = described.members.get(name)
            if found is None:
                return None
            key = keys.get(name)
            if index:
                found = _element(found, int(index[1:-1]))
                if found is None:
                    return None
            offset += found.offset
        return None if found is None else replace(found, name=path, offset=offset)


class AggregateTypes(NamedTypes):
    """Structures by name, from a source that tells their parts; see `NamedTypes`.

    In a big-endian machine's, bit fields are counted from the other end.
    """

    def __init__(self, origin: str, byteorder: ByteOrder = "little") -> None:
        super().__init__(origin, byteorder)
        self._structs: dict[Hashable, tuple[Struct, Mapping[str, Hashable]]] = {}

    @abstractmethod
    def aggregate(self, key: Hashable) -> Aggregate:
        """Return the structure of a key."""

    @abstractmethod
    def enumeration(self, name: str) -> Mapping[str, int]:
        """Return the enumerators of an enumeration; empty where there is none of that name."""

    def described(self, key: Hashable) -> tuple[Struct, Mapping[str, Hashable]]:
        """Return a structure, and the keys of those of its members that are structures."""
        if key not in self._structs:
            top = self.aggregate(key)
            members: dict[str, Member] = {}
            keys: dict[str, Hashable] = {}
            # Nameless parts that are still to be opened, the next one last.
            stack: list[tuple[Iterable[Part], int, int]] = [(top.parts, 0, 0)]
            met = 0
            while stack:
                parts, base, depth = stack.pop()
                rest = iter(parts)
                for part in rest:
                    met += 1
                    if met > _MOST_MEMBERS or depth > _DEEPEST:
                        raise DumpError(
                            f"{self.origin}: struct {top.name} has more members than any"
                        )
                    if not part.name:
                        if part.type.aggregate is not None and not part.bit_size:
                            inner = self.aggregate(part.type.aggregate)
                            stack.append((rest, base, depth))
                            stack.append((inner.parts, base + part.bit, depth + 1))
                            break
                        continue  # a nameless bit field is padding
                    if part.name not in members:
                        members[part.name] = self._made(part, base)
                        if part.type.aggregate is not None:
                            keys[part.name] = part.type.aggregate
            self._structs[key] = (Struct(top.name, top.size, members), keys)
        return self._structs[key]

    def _made(self, part: Part, base: int) -> Member:
        kind, bit = part.type, base + part.bit
        if not part.bit_size:
            return Member(
                part.name,
                bit // 8,
                kind.size,
                signed=kind.signed,
                count=kind.count,
                type=kind.text,
            )
        # Its type's own bytes, unless it straddles two of them (packed structures do).
        size = kind.size if kind.size in (1, 2, 4, 8) else 8
        offset = bit // (8 * size) * size
        if bit + part.bit_size > 8 * (offset + size):
            offset = bit // 8
            size = next((s for s in (1, 2, 4, 8) if bit + part.bit_size <= 8 * (offset + s)), 8)
        lowest = bit - 8 * offset
        if self.byteorder == "big":
            lowest = 8 * size - lowest - part.bit_size
        return Member(
            part.name,
            offset,
            size,
            bit_offset=lowest,
            bit_size=part.bit_size,
            signed=kind.signed,
            type=kind.text,
        )


def _element(array: Member, index: int) -> Member | None:
    """Return an element of an array; None where it has none of that index."""
    if index >= array.count:
        return None
    size = array.size // array.count
    text = array.type.partition(" [")[0]
    return replace(array, offset=array.offset + index * size, size=size, count=0, type=text)
