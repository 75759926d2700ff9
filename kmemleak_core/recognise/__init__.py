"""Turns objects into what they are, without instrumentation; one module a recogniser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..dump import Dump
from ..objects import ObjectTable
from ..plugins import mentioned, registered
from ..provenance import Provenance
from ..roots import Roots
from ..shared_property import shared_property
from .context import Context

_GROUP = "kmemleak_core.recognisers"


@dataclass(frozen=True, slots=True, eq=False)
class Recognised:
    """What one recogniser knows of some objects.

    Parameters
    ----------
    code : ndarray of int32, shape (n,)
        Index into `names`; −1 for what it does not know.
    names
        Types.
    """

    code: NDArray[np.int32]
    names: Sequence[str]


class Recogniser(Protocol):
    """One family of types: looks for what its objects have in common."""

    name: str

    def recognise(
        self, context: Context, rows: NDArray[np.int64], asked: NDArray[np.int64]
    ) -> Recognised | None:
        """Return what some objects are, or None where this family left no trace in the process.

        Parameters
        ----------
        context
            The dump, its objects, its symbols.
        rows
            ``(n,)``, rising: of those asked for what no one has recognised yet.
        asked
            ``(m,)``, rising: all objects, or the leaks.
        """
        ...


def recognisers() -> Iterable[Recogniser]:
    """Yield ours, the most certain first, then those of ``kmemleak_core.recognisers``."""
    from .cpython import CPythonObjects
    from .cxx_buffers import CxxBuffers
    from .cxx_nodes import CxxNodes
    from .cxx_objects import CxxObjects
    from .glib import GLibObjects
    from .glibc import GlibcThreads
    from .gobject import GObjects

    yield GlibcThreads()
    yield CPythonObjects()
    yield CxxNodes()
    # Before objects: a buffer of some with virtual functions begins as the first of these does.
    yield CxxBuffers()
    yield CxxObjects()
    yield GObjects()
    yield GLibObjects()
    if mentioned(_GROUP):
        for entry in registered(_GROUP):
            yield entry.load()()


class Types:
    """What the objects of a process are, found out when it is asked.

    Parameters
    ----------
    dump, objects, roots, sysroot
        As of a `Context`.
    """

    def __init__(
        self, dump: Dump, objects: ObjectTable, roots: Roots, sysroot: Path | None = None
    ) -> None:
        self.context = Context(dump, objects, roots, sysroot)

    def of(self, rows: NDArray[np.int64], beside: Provenance | None = None) -> Provenance | None:
        """Return what some objects are; `beside` where nothing in the process tells.

        Parameters
        ----------
        rows
            ``(n,)``, rising: all objects, or leaks.
        beside
            What else is known of these, row by row; what it has of kinds stays.
        """
        if beside is not None and beside.kind is not None:
            return beside
        code = np.full(rows.size, -1, np.int32)
        names: dict[str, int] = {}
        left = np.arange(rows.size)
        tells = not rows.size
        for recogniser in recognisers():
            if not left.size:
                break
            found = recogniser.recognise(self.context, rows[left], rows)
            if found is None:
                continue
            tells = True
            known = found.code >= 0
            used, which = np.unique(found.code[known], return_inverse=True)
            numbers = [names.setdefault(found.names[i], len(names)) for i in used.tolist()]
            code[left[known]] = np.array(numbers, np.int32)[which]
            left = left[~known]
        if not tells:
            return beside
        return replace(beside or Provenance(), kind=code, kinds=tuple(names), typed=True)

    @property
    def coverage(self) -> Coverage:
        """What was not as it should be, as far as it was looked at."""
        # Symbols that nobody has asked for are not read for this.
        asked = "symbols" in self.context.__dict__
        return self.context.symbols.coverage if asked else Coverage()

    @shared_property
    def all(self) -> Provenance | None:
        """What every object is; None where nothing in the process tells."""
        return self.of(np.arange(len(self.context.objects)))
