"""Where names and types come from, behind one small interface; one module a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name at an address.

    Parameters
    ----------
    name
        As its source spells it.
    address
        Where it begins.
    size
        Bytes up to the next symbol (or what the source says); 0 if unknown.
    kind
        The letter that ``nm`` gives it, if known: ``"T"``, ``"d"``, ….
    module
        The module that it belongs to; empty for the kernel or program itself.
    """

    name: str
    address: int
    size: int = 0
    kind: str = ""
    module: str = ""


class SymbolTable(Protocol):
    """Address → name and name → address."""

    def address(self, name: str) -> int | None:
        """Return where a symbol is; None where there is none of that name."""
        ...

    def find(self, address: int) -> Symbol | None:
        """Return the symbol that an address lies in."""
        ...

    def text(self, address: int) -> str:
        """Return what the kernel's ``%pS`` prints: ``name+0x1/0x20 [module]``, or ``0x…``."""
        ...


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a structure.

    Parameters
    ----------
    name
        Its path from the structure; members of anonymous members are the structure's own.
    offset, size
        Bytes; of a bit field, those that hold it.
    bit_offset, bit_size
        Of a bit field: its lowest bit, counted from the value of those bytes' lowest; width.
        Both 0 for others.
    signed
        Whether it is a signed integer.
    count
        Elements of an array (`size` is that of all together); 0 if it is none, or a flexible one.
    type
        What it is, as C would write it, as far as the source tells: ``"struct list_head"``,
        ``"void *"``, ``"unsigned long"``.
    """

    name: str
    offset: int
    size: int
    bit_offset: int = 0
    bit_size: int = 0
    signed: bool = False
    count: int = 0
    type: str = ""


@dataclass(frozen=True, slots=True)
class Struct:
    """A structure or union.

    Parameters
    ----------
    name, size
        Without the word ``struct``; bytes.
    members
        By name. A member of a named member has a path (``"list.next"``): `Types.struct` need
        not list it, `Types.member` finds it.
    """

    name: str
    size: int
    members: Mapping[str, Member] = field(default_factory=dict)

    def __contains__(self, member: str) -> bool:
        return member in self.members


class Types(Protocol):
    """Structures by name: what a member is recognised by is its presence, never a version.

    Of a kernel's, ``"name"`` asks the kernel alone, ``"module:name"`` a module and what it builds
    on, ``"*:name"`` all modules.
    """

    #: Where they come from: ``"BTF in the dump"``, ``"DWARF of vmlinux"``, ….
    origin: str

    def struct(self, name: str) -> Struct | None:
        """Return a structure or union; None where there is none of that name."""
        ...

    def member(self, struct: str, path: str) -> Member | None:
        """Return a member by its path (``"list.next"``), its offset counted from `struct`."""
        ...

    def enumerator(self, name: str) -> int | None:
        """Return the value of an enumerator, of whichever enumeration."""
        ...
