"""Turns the BTF of loaded modules into types that are asked beside the kernel's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from ..coverage import Coverage
from ..errors import DumpError, FaultError
from ..symbols import Member, Struct, SymbolTable, Types
from ..symbols.btf import BtfTypes
from .modules import MOST_MODULES, Module
from .structures import Structures

#: More than any module's BTF takes.
_LARGEST = 1 << 28


class KernelTypes:
    """The types of a kernel and of its modules (see `Types`).

    A name alone asks the kernel, and only that: what a kernel is recognised by must not come from
    a module. ``"ext4:ext4_inode_info"`` asks a module, ``"*:ext4_inode_info"`` all of them.

    Parameters
    ----------
    kernel
        The kernel's own types.
    modules
        Of the modules that have some, by name; read when first asked for.
    """

    def __init__(self, kernel: Types, modules: Mapping[str, ModuleBtf]) -> None:
        self.kernel = kernel
        self.modules = modules
        self.origin = kernel.origin

    def struct(self, name: str) -> Struct | None:
        """Return a structure or union; None where there is none of that name."""
        return next((s for t, n in self._asked(name) if (s := t.struct(n)) is not None), None)

    def member(self, struct: str, path: str) -> Member | None:
        """Return a member by its path, its offset counted from the structure's start."""
        for types, name in self._asked(struct):
            if types.struct(name) is not None:
                return types.member(name, path)
        return None

    def enumerator(self, name: str) -> int | None:
        """Return the value of an enumerator, of whichever enumeration."""
        return next((v for t, n in self._asked(name) if (v := t.enumerator(n)) is not None), None)

    def _asked(self, name: str) -> Iterator[tuple[Types, str]]:
        module, colon, rest = name.partition(":")
        if not colon:
            yield self.kernel, name
            return
        for btf in self.modules.values():
            if module in ("*", btf.name) and btf.types is not None:
                yield btf.types, rest


class ModuleBtf:
    """A module's BTF, read when first asked for.

    Parameters
    ----------
    structures
        The kernel's structures.
    name
        The module's.
    start, size
        Where its BTF is.
    base
        The kernel's types.
    coverage
        Told where it cannot be read.
    """

    def __init__(
        self,
        structures: Structures,
        name: str,
        start: int,
        size: int,
        base: BtfTypes,
        coverage: Coverage,
    ) -> None:
        self._structures = structures
        self._coverage = coverage
        self._base = base
        self.name = name
        self.start = start
        self.size = size

    @cached_property
    def types(self) -> BtfTypes | None:
        """Its types; None where they cannot be read."""
        image = self._structures.image
        try:
            if not 0 < self.size <= _LARGEST:
                raise DumpError(f"it claims to have {self.size:,} bytes")
            return BtfTypes(
                image.view(self.start, self.size),
                origin=f"BTF of module {self.name}",
                byteorder=image.byteorder,
                base=self._base,
                word_size=image.word_size,
            )
        except (DumpError, FaultError) as error:
            self._coverage.add(
                "kernel.module-types",
                f"the types of module {self.name} cannot be read: {error}",
                address=self.start,
            )
            return None


def with_modules(
    kernel: Types,
    base: BtfTypes | None,
    structures: Structures,
    symbols: SymbolTable,
    modules: Iterable[Module],
    coverage: Coverage,
) -> KernelTypes:
    """Add the types of modules to the kernel's own.

    Their BTF goes on where that of the kernel ends, `base`, wherever `kernel` comes from; without
    it they have no types.

    The kernel keeps its own copy of each module's BTF, listed in ``btf_modules`` (since 5.11,
    commit 36e68442d1af); that in the module itself may be freed memory by now.
    """
    found: dict[str, ModuleBtf] = {}
    if base is not None:
        for name, start, size in _listed(structures, symbols, modules, coverage):
            found[name] = ModuleBtf(structures, name, start, size, base, coverage)
    return KernelTypes(kernel, found)


def _listed(
    structures: Structures, symbols: SymbolTable, modules: Iterable[Module], coverage: Coverage
) -> Iterator[tuple[str, int, int]]:
    """Yield the name of each module that has BTF, and where that is."""
    head = symbols.address("btf_modules")
    if (
        head is None
        or not structures.has("btf_module", "list", "module", "btf")
        or not structures.has("btf", "data", "data_size")
    ):
        return
    try:
        first = structures.image.word(head)
    except FaultError:
        return
    names = {module.address: module.name for module in modules}
    links, problem = structures.follow(first, 0, end=head, most=MOST_MODULES)
    if problem:
        coverage.add("kernel.module-types", f"the list of modules' BTF is damaged: {problem}")
    at = links - structures.member("btf_module", "list").offset
    owner, btf = structures.columns(at, "btf_module", "module", "btf")
    start, size = structures.columns(btf, "btf", "data", "data_size")
    for module, where, length in zip(owner.tolist(), start.tolist(), size.tolist(), strict=True):
        if module in names and where:
            yield names[module], where, length
