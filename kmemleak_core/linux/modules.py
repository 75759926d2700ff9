"""Turns the kernel's list of modules into their places, symbols and types.

Layouts are those of ``struct module`` since 4.4: ``module_core`` and ``module_init`` beside their
sizes, then ``core_layout`` and ``init_layout`` (4.5), then ``mem[]`` by kind of memory (6.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..errors import DumpError, FaultError
from ..symbols import SymbolTable
from ..symbols.table import SymbolColumns
from .structures import Structures

#: More modules, symbols of one, and bytes of their names than any kernel has.
MOST_MODULES = 1 << 16
_MOST_SYMBOLS = 1 << 20
_MOST_NAMES = 1 << 26
_LARGEST = 1 << 31
_MOST_KINDS = 64

#: Names that mark places for tools, not for people (``is_mapping_symbol``).
_MAPPING = (b"$", b".L", b"L0")

#: What ``enum mod_mem_type`` names (6.4).
_MEMORY_KINDS = {
    "MOD_TEXT": "text",
    "MOD_DATA": "data",
    "MOD_RODATA": "rodata",
    "MOD_RO_AFTER_INIT": "ro_after_init",
    "MOD_INIT_TEXT": "init text",
    "MOD_INIT_DATA": "init data",
    "MOD_INIT_RODATA": "init rodata",
}

#: An entry of ELF's table of symbols, by the size of a word.
_SYMBOL = {
    4: np.dtype("<u4, <u4, <u4, u1, u1, <u2"),
    8: np.dtype("<u4, u1, u1, <u2, <u8, <u8"),
}
_SYMBOL[4].names = ("name", "value", "size", "info", "other", "section")
_SYMBOL[8].names = ("name", "info", "other", "section", "value", "size")


@dataclass(frozen=True, slots=True)
class ModuleMemory:
    """Memory of a module.

    Parameters
    ----------
    start, size
        Virtual address, bytes.
    kind
        ``"text"``, ``"data"``, ``"rodata"``, ``"ro_after_init"``, and ``"init text"`` and the
        like, which are freed once it is loaded. Kernels that do not tell them apart call
        everything after the text ``"data"``.
    """

    start: int
    size: int
    kind: str

    @property
    def end(self) -> int:
        """Address of the first byte after it."""
        return self.start + self.size


class Module:
    """A loaded module; its symbols are read when first asked for.

    Parameters
    ----------
    structures
        The kernel's structures.
    address
        Of its ``struct module``.
    name
        As ``lsmod`` has it.
    memory
        Where it is.
    per_cpu
        Its static per-CPU area: the address as its symbols have it, bytes; both 0 if none.
    coverage
        Told what of it could not be read.
    """

    def __init__(
        self,
        structures: Structures,
        address: int,
        name: str,
        memory: tuple[ModuleMemory, ...],
        per_cpu: tuple[int, int],
        coverage: Coverage,
    ) -> None:
        self._structures = structures
        self._coverage = coverage
        self.address = address
        self.name = name
        self.memory = memory
        self.per_cpu = per_cpu

    def __repr__(self) -> str:
        return f"<Module {self.name} {self.address:#x}>"

    def __contains__(self, address: int) -> bool:
        return any(m.start <= address < m.end for m in self.memory)

    @cached_property
    def symbols(self) -> SymbolColumns:
        """Its symbols; none where they cannot be read."""
        try:
            address, text, start, kind = _symbols(self._structures, self.address)
        except (FaultError, DumpError) as error:
            self._coverage.add(
                "kernel.module-symbols",
                f"the symbols of module {self.name} cannot be read: {error}",
                address=self.address,
            )
            address, text = np.empty(0, np.uint64), b""
            start, kind = np.empty(0, np.uint32), np.empty(0, np.uint8)
        spans = [(m.start, m.end) for m in self.memory]
        return SymbolColumns(address, text, start, kind, spans=spans, module=self.name)


def read_modules(
    structures: Structures, symbols: SymbolTable, coverage: Coverage
) -> tuple[Module, ...]:
    """Read the list of loaded modules.

    Parameters
    ----------
    structures
        The kernel's structures.
    symbols
        Its symbols.
    coverage
        Told where the list cannot be read, or is damaged.

    Returns
    -------
    tuple of Module
        In the list's order, the youngest first.
    """
    head = symbols.address("modules")
    if head is None or not structures.has("module", "list", "name"):
        coverage.add("kernel.modules", "the kernel's list of modules is not known")
        return ()
    try:
        first = structures.image.word(head)
    except FaultError as error:
        coverage.add("kernel.modules", f"the kernel's list of modules is not there: {error}")
        return ()
    links, problem = structures.follow(first, 0, end=head, most=MOST_MODULES)
    if problem:
        coverage.add("kernel.modules", f"the kernel's list of modules is damaged: {problem}")
    at = links - np.uint64(structures.member("module", "list").offset)
    unformed = structures.types.enumerator("MODULE_STATE_UNFORMED")
    if unformed is not None and structures.has("module", "state"):
        at = at[structures.column(at, "module", "state") != unformed]
    described = structures.member("module", "name")
    names, present = structures.bytes(at, described.offset, described.size)
    if lost := int(np.count_nonzero(~present)):
        coverage.add("kernel.modules", "modules' descriptions are not in the dump", count=lost)
    columns = zip(
        at.tolist(), names, present, _memory(structures, at), _per_cpu(structures, at), strict=True
    )
    return tuple(
        Module(structures, address, _text(name), memory, per_cpu, coverage)
        for address, name, there, memory, per_cpu in columns
        if there
    )


def _text(raw: NDArray[np.uint8]) -> str:
    return raw.tobytes().split(b"\0", 1)[0].decode("latin-1")


def _memory(structures: Structures, at: NDArray[np.uint64]) -> list[tuple[ModuleMemory, ...]]:
    """Return where each module is, by kind of memory."""

    def column(path: str) -> list[int]:
        values: list[int] = structures.column(at, "module", path).tolist()
        return values

    parts: list[tuple[list[int], list[int], str]] = []
    array = structures.types.member("module", "mem")
    if array is not None:
        kinds = {structures.types.enumerator(n): kind for n, kind in _MEMORY_KINDS.items()}
        for i in range(min(array.count, _MOST_KINDS)):
            base, size = column(f"mem[{i}].base"), column(f"mem[{i}].size")
            parts.append((base, size, kinds.get(i, "data")))
    else:
        if structures.has("module", "core_layout.base"):
            names = ("{}_layout.base", "{}_layout.size", "{}_layout.text_size")
        else:
            names = ("module_{}", "{}_size", "{}_text_size")
        for which, prefix in (("core", ""), ("init", "init ")):
            base, size, text = (column(name.format(which)) for name in names)
            text = [min(t, s) for t, s in zip(text, size, strict=True)]
            rest = [s - t for t, s in zip(text, size, strict=True)]
            behind = [b + t for t, b in zip(text, base, strict=True)]
            parts += [(base, text, f"{prefix}text"), (behind, rest, f"{prefix}data")]
    return [
        tuple(
            ModuleMemory(base[i], size[i], kind)
            for base, size, kind in parts
            if base[i] and 0 < size[i] <= _LARGEST and base[i] + size[i] < 1 << 64
        )
        for i in range(at.size)
    ]


def _per_cpu(structures: Structures, at: NDArray[np.uint64]) -> list[tuple[int, int]]:
    if not structures.has("module", "percpu", "percpu_size"):
        return [(0, 0)] * at.size
    places, sizes = structures.columns(at, "module", "percpu", "percpu_size")
    return [
        (int(place), int(size)) if size else (0, 0)
        for place, size in zip(places, sizes, strict=True)
    ]


def _symbols(
    structures: Structures, at: int
) -> tuple[NDArray[np.uint64], bytes, NDArray[np.uint32], NDArray[np.uint8]]:
    """Return addresses, sorted, the table of names, where in it each begins, and kinds."""
    if structures.has("module", "kallsyms"):
        at = structures.value(at, "module", "kallsyms")
        struct = "mod_kallsyms"
    else:
        struct = "module"
    image = structures.image
    table = structures.value(at, struct, "symtab")
    strings = structures.value(at, struct, "strtab")
    count = structures.value(at, struct, "num_symtab")
    if not 0 < count <= _MOST_SYMBOLS:
        raise DumpError(f"it claims to have {count:,} of them")
    record = _SYMBOL[image.word_size]
    if image.byteorder == "big":
        record = record.newbyteorder(">")
    rows = image.view(table, count * record.itemsize).view(record)
    if structures.has(struct, "typetab"):  # since 5.2; before it took the place of `info`
        kind = image.view(structures.value(at, struct, "typetab"), count)
    else:
        kind = rows["info"]
    start = rows["name"].astype(np.uint32)
    last = int(start.max())
    if last >= _MOST_NAMES:
        raise DumpError("a name lies outside their table")
    # The last name's end is not known: as far as memory goes, up to what a name can have.
    text = image.upto(strings, last + 512).tobytes()
    if len(text) <= last or (end := text.find(b"\0", last)) < 0:
        raise DumpError("the table of their names is not whole in the dump")
    text = text[: end + 1]
    named = np.frombuffer(text, np.uint8)[start] != 0
    for prefix in _MAPPING:
        same = named.copy()
        for i, letter in enumerate(prefix):
            padded = np.frombuffer(text + b"\0\0", np.uint8)
            same &= padded[start + np.uint32(i)] == letter
        named &= ~same
    # The first one is ELF's own; a section of 0 means that it is defined elsewhere.
    wanted = np.flatnonzero(named & (rows["section"] != 0) & (np.arange(count) > 0))
    address = rows["value"][wanted].astype(np.uint64)
    sort = np.argsort(address, kind="stable")
    wanted = wanted[sort]
    return address[sort], text, start[wanted], kind[wanted].copy()
