"""Turns sorted columns of addresses and names into a SymbolTable that answers as the kernel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from . import Symbol
from .names import NameIndex


class SymbolColumns:
    """The symbols of the kernel, or of one of its modules, as columns.

    Parameters
    ----------
    address
        ``(n,)`` uint64, sorted; where several are equal, in the order of their source.
    text
        The names, each with a NUL behind it.
    start
        ``(n,)``: where in `text` each name begins.
    kind
        ``(n,)`` uint8: the letter that ``nm`` gives each.
    spans
        ``(low, high)`` address ranges outside which nothing is found by address.
    module
        Name of the module; empty for the kernel itself.
    """

    def __init__(
        self,
        address: NDArray[np.uint64],
        text: bytes,
        start: NDArray[np.integer],
        kind: NDArray[np.uint8],
        *,
        spans: Sequence[tuple[int, int]],
        module: str = "",
    ) -> None:
        self.addresses = address
        self.names = text
        self.starts = start
        self.kinds = kind
        self.spans = tuple(spans)
        self.module = module

    def __len__(self) -> int:
        return int(self.addresses.size)

    def __iter__(self) -> Iterator[Symbol]:
        return (self.symbol(i) for i in range(len(self)))

    def name(self, i: int) -> str:
        """Return the name of a row."""
        start = int(self.starts[i])
        return self.names[start : self.names.index(b"\0", start)].decode("latin-1")

    def symbol(self, i: int) -> Symbol:
        """Return a row, with the size up to the next address (0 for the last)."""
        address = int(self.addresses[i])
        end = self._end(address)
        kind = chr(int(self.kinds[i]))
        return Symbol(self.name(i), address, max(end - address, 0), kind, self.module)

    def rows(self, name: str) -> NDArray[np.intp]:
        """Return the rows of a name: by address; several statics may share one."""
        return self._index.rows(name)

    @cached_property
    def _index(self) -> NameIndex:
        return NameIndex(self.names, self.starts)

    def address(self, name: str) -> int | None:
        """Return where a symbol is, the first of those that share the name."""
        rows = self.rows(name)
        return int(self.addresses[rows[0]]) if rows.size else None

    def find(self, address: int) -> Symbol | None:
        """Return the symbol that an address lies in: the first where several begin there."""
        within = [(low, high) for low, high in self.spans if low <= address < high]
        if not within:
            return None
        i = int(np.searchsorted(self.addresses, np.uint64(address), side="right")) - 1
        if i < 0 or not any(low <= int(self.addresses[i]) < high for low, high in within):
            return None
        return self.symbol(int(np.searchsorted(self.addresses, self.addresses[i], side="left")))

    def text(self, address: int) -> str:
        """Return what the kernel's ``%pS`` prints."""
        return symbol_text(self.find(address), address)

    def _end(self, address: int) -> int:
        """Return where the symbols of an address end: at the next one, or with their span."""
        following = int(np.searchsorted(self.addresses, np.uint64(address), side="right"))
        end = int(self.addresses[following]) if following < len(self) else 0
        for low, high in self.spans:
            if low <= address < high and not address < end <= high:
                return high
        return end


class ModuleSymbols(Protocol):
    """A module whose symbols are read when first asked for."""

    name: str

    def __contains__(self, address: int) -> bool:
        """Whether an address lies in its memory."""
        ...

    @property
    def symbols(self) -> SymbolColumns:
        """Its symbols."""
        ...


class KernelSymbols:
    """The symbols of a kernel and of its modules.

    Parameters
    ----------
    kernel
        Those of the kernel itself.
    modules
        Asked by address in their order, by name after the kernel.
    """

    def __init__(self, kernel: SymbolColumns, modules: Iterable[ModuleSymbols] = ()) -> None:
        self.kernel = kernel
        self.modules = tuple(modules)
        self._addresses: dict[str, int | None] = {}
        self._texts: dict[int, str] = {}

    def address(self, name: str) -> int | None:
        """Return where a symbol is; ``"module:name"`` asks one module alone."""
        if name not in self._addresses:
            self._addresses[name] = self._address(name)
        return self._addresses[name]

    def _address(self, name: str) -> int | None:
        module, colon, rest = name.partition(":")
        if not colon and (found := self.kernel.address(name)) is not None:
            return found
        for table in self.modules:
            if (not colon or table.name == module) and (
                found := table.symbols.address(rest if colon else name)
            ) is not None:
                return found
        return None

    def find(self, address: int) -> Symbol | None:
        """Return the symbol that an address lies in."""
        found = self.kernel.find(address)
        if found is None:
            for module in self.modules:
                if address in module:
                    return module.symbols.find(address)
        return found

    def text(self, address: int) -> str:
        """Return what the kernel's ``%pS`` prints."""
        if address not in self._texts:
            self._texts[address] = symbol_text(self.find(address), address)
        return self._texts[address]


def symbol_text(symbol: Symbol | None, address: int) -> str:
    """Write an address as the kernel's ``%pS``: ``name+0x1/0x20 [module]``, or ``0x…``."""
    if symbol is None:
        return f"{address:#x}"
    module = f" [{symbol.module}]" if symbol.module else ""
    return f"{symbol.name}+{address - symbol.address:#x}/{symbol.size:#x}{module}"
