"""Turns the DWARF of a kernel's vmlinux into Types, through drgn.

drgn reads 65 MB of it in half a second; pyelftools takes minutes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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

_DEEPEST = 64


class DwarfTypes(AggregateTypes):
    """The types of a kernel, out of its file with debugging symbols.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    DumpError
        drgn is not installed, the file cannot be read, or it has no DWARF.
    """

    def __init__(self, path: str | Path) -> None:
        drgn = _drgn()
        program = drgn.Program()
        with _reading(path):
            module = program.extra_module("vmlinux", create=True)
            module.try_file(path, force=True)
        if module.debug_file_status != drgn.ModuleFileStatus.HAVE:
            raise DumpError(
                "has no debugging symbols (DWARF)",
                path=str(path),
                hint="give the vmlinux of the kernel's package of debugging symbols",
            )
        order: ByteOrder = "little"
        if not program.platform.flags & drgn.PlatformFlags.IS_LITTLE_ENDIAN:
            order = "big"
        super().__init__(f"DWARF of {path}", order)
        self._path = path
        self._drgn = drgn
        self._program = program
        #: drgn's types by key: a named one's kind, name and size, a number of a nameless one's.
        self._types: dict[Hashable, Any] = {}

    def find(self, name: str) -> Hashable | None:
        """Return the key of a structure, union, or a typedef of one."""
        for word in ("struct ", "union ", ""):
            with _reading(self._path):
                try:
                    found = self._program.type(word + name)
                except (LookupError, SyntaxError):
                    continue
                facts = self.facts(found)
            if facts.aggregate is not None and not facts.count:
                return facts.aggregate
        return None

    def aggregate(self, key: Hashable) -> Aggregate:
        """Return the structure of a key."""
        found = self._types[key]
        with _reading(self._path):
            parts = tuple(
                Part(
                    member.name or "",
                    member.bit_offset,
                    member.bit_field_size or 0,
                    self.facts(member.type),
                )
                for member in found.members
            )
        return Aggregate(found.tag or "", found.size, parts)

    def enumerator(self, name: str) -> int | None:
        """Return the value of an enumerator, of whichever enumeration."""
        with _reading(self._path):
            try:
                return int(self._program.constant(name).value_())
            except (LookupError, TypeError, ValueError):
                return None

    def enumeration(self, name: str) -> Mapping[str, int]:
        """Return the enumerators of an enumeration; empty where there is none of that name."""
        with _reading(self._path):
            try:
                found = self._program.type(f"enum {name}").enumerators
            except (LookupError, SyntaxError):
                return {}
            return {text: int(value) for text, value in found or ()}

    def facts(self, found: Any, depth: int = 0) -> TypeFacts:
        """Return what a type of drgn's says of a member."""
        kinds = self._drgn.TypeKind
        kind = found.kind
        if depth > _DEEPEST:
            raise DumpError(f"{self.origin} is damaged: its types lead round and round")
        if kind == kinds.TYPEDEF:
            facts = self.facts(found.type, depth + 1)
            if facts.text in ("struct", "union", "enum"):
                # A structure that has no name but this one.
                return TypeFacts(facts.size, found.name, facts.signed, facts.count, facts.aggregate)
            return facts
        if kind == kinds.POINTER:
            return pointer_facts(self.facts(found.type, depth + 1), found.size)
        if kind == kinds.ARRAY:
            return array_facts(self.facts(found.type, depth + 1), found.length or 0)
        if kind in (kinds.STRUCT, kinds.UNION, kinds.CLASS):
            word = "union" if kind == kinds.UNION else "struct"
            text = f"{word} {found.tag or ''}".rstrip()
            if not found.is_complete():
                return TypeFacts(0, text)
            key: Hashable = (word, found.tag, found.size) if found.tag else len(self._types)
            self._types.setdefault(key, found)
            return TypeFacts(found.size, text, aggregate=key)
        if kind == kinds.ENUM:
            text = f"enum {found.tag or ''}".rstrip()
            if not found.is_complete():
                return TypeFacts(0, text)
            signed = any(value < 0 for _, value in found.enumerators)
            return TypeFacts(found.type.size, text, signed)
        if kind in (kinds.INT, kinds.BOOL, kinds.FLOAT):
            signed = kind == kinds.INT and found.is_signed
            return TypeFacts(found.size, PLAIN_NAMES.get(found.name, found.name), signed)
        return TypeFacts(0, "void" if kind == kinds.VOID else "function")


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """Word what drgn says of a damaged file: its errors are of many kinds, some plain ones."""
    try:
        yield
    except (DumpError, MemoryError, OSError):
        raise
    except Exception as error:
        raise DumpError(f"its debugging symbols are damaged: {error}", path=str(path)) from error


def _drgn() -> Any:
    try:
        import drgn
    except ImportError:
        raise DumpError(
            "the types of a vmlinux are read with drgn, which is not installed",
            hint='pip install "kmemleak-core[vmcore]", or `kmemleak vmcore layout` on a machine '
            "that has it, and --layout FILE here",
        ) from None
    return drgn
