"""Turns a table of public names into attributes of a package, each imported when first wanted."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


class LazyPackage(ModuleType):
    """A package whose public names live in its modules and are looked up there once.

    A public name is never hidden by a module of the same name: importing ``kmemleak_core.scan``
    leaves ``kmemleak_core.scan(...)`` the function.
    """

    #: Public name → module, relative to the package, that defines it.
    _homes: Mapping[str, str] = {}

    def __getattr__(self, name: str) -> Any:
        home = self._homes.get(name)
        if home is None:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{home}", self.__name__), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # What the import system does after it has loaded a module of the package.
        if name in self._homes and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self._homes})


def export(package: str, homes: Mapping[str, tuple[str, ...]]) -> None:
    """Let a package look up its public names when they are first wanted (after PEP 562).

    Parameters
    ----------
    package
        Its ``__name__``.
    homes
        Module, relative to the package → the public names that it defines.
    """
    module = sys.modules[package]
    module.__class__ = LazyPackage
    module.__dict__["_homes"] = {name: home for home, names in homes.items() for name in names}
