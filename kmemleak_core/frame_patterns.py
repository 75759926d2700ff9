"""Turns patterns into verdicts on names, such as: is this frame of a backtrace the allocator's."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: Functions that allocate on behalf of others: what they are called from is what leaks.
ALLOCATORS = (
    "kmemleak_*",
    "create_object*",
    "__create_object*",
    "slab_post_alloc_hook*",
    "slab_alloc*",
    "__slab_alloc*",
    "___slab_alloc*",
    "kmem_cache_alloc*",
    "__kmem_cache_alloc*",
    "kmem_cache_zalloc*",
    "kmalloc*",
    "__kmalloc*",
    "__do_kmalloc*",
    "kzalloc*",
    "kcalloc*",
    "krealloc*",
    "__krealloc*",
    "__do_krealloc*",
    "kvmalloc*",
    "__kvmalloc*",
    "kvzalloc*",
    "kvcalloc*",
    "kvrealloc*",
    "vmalloc*",
    "__vmalloc*",
    "vzalloc*",
    "vcalloc*",
    "pcpu_alloc*",
    "__alloc_percpu*",
    "__percpu_alloc*",
    "kmemdup*",
    "__kmemdup*",
    "memdup_user*",
    "vmemdup_user*",
    "kstrdup*",
    "kstrndup*",
    "kasprintf",
    "kvasprintf*",
    "devm_kmalloc*",
    "devm_kzalloc*",
    "devm_kmemdup*",
    "mempool_alloc*",
    "mempool_kmalloc*",
    "mempool_create*",
)

#: ``name+0x1/0x20 [module]``; the compiler's suffixes do not belong to the name.
_SYMBOL = re.compile(
    r"(?P<function>[^+\s]*?)(?P<suffix>\.(?:cold|constprop|isra|part|llvm)(?:\.[0-9]+)*)*"
    r"(?:\+0x[0-9a-f]+/0x[0-9a-f]+)?(?: \[(?P<module>[^\]\s]+)[^\]]*\])?"
)


class FramePattern:
    """A piece of text with ``*`` for anything, ``^`` and ``$`` for the begin and the end.

    As in the sanitizers' suppressions: without anchors it can stand anywhere. Matching takes
    linear time whatever the pattern is.

    Parameters
    ----------
    text
        The pattern.
    whole
        Whether it has to match from begin to end.
    """

    __slots__ = ("_begins", "_ends", "_pieces", "text")

    def __init__(self, text: str, *, whole: bool = False) -> None:
        self.text = text
        self._begins = whole or text.startswith("^")
        self._ends = whole or text.endswith("$")
        self._pieces = text.removeprefix("^").removesuffix("$").split("*")

    def matches(self, text: str) -> bool:
        """Whether the pattern is in a text."""
        pieces, at = self._pieces, 0
        for index, piece in enumerate(pieces):
            last = index == len(pieces) - 1
            if last and self._ends:
                # Where nothing is left open, the one piece has to be all.
                fixed = index == 0 and self._begins
                return (
                    text == piece
                    if fixed
                    else len(text) - len(piece) >= at and text.endswith(piece)
                )
            if index == 0 and self._begins:
                if not text.startswith(piece):
                    return False
                at = len(piece)
                continue
            found = text.find(piece, at)
            if found < 0:
                return False
            at = found + len(piece)
        return True

    def __repr__(self) -> str:
        return f"FramePattern({self.text!r})"


def names_of(symbol: str) -> tuple[str, ...]:
    """Return the names in a symbol: its function's, without suffixes, and its module's."""
    match = _SYMBOL.fullmatch(symbol)
    if match is None:
        return (symbol,)
    return tuple(name for name in (match["function"], match["module"]) if name)


def module_of(symbol: str) -> str | None:
    """Return the name of the module that a symbol tells; None where it tells none."""
    match = _SYMBOL.fullmatch(symbol)
    return None if match is None else match["module"]


def function_of(symbol: str) -> str:
    """Return the name of a symbol's function, without suffixes; the symbol where it is no name."""
    match = _SYMBOL.fullmatch(symbol)
    return symbol if match is None else match["function"] or symbol


class Skipper:
    """Tells which of a backtrace's first frames belong to the allocator.

    Parameters
    ----------
    more
        Patterns of function names beside `ALLOCATORS`; each has to match a whole name.
    """

    def __init__(self, more: Iterable[str] = ()) -> None:
        self._patterns = [FramePattern(text, whole=True) for text in (*ALLOCATORS, *more)]
        self._known: dict[str, bool] = {}

    def skips(self, symbol: str) -> bool:
        """Whether a frame is the allocator's."""
        known = self._known.get(symbol)
        if known is None:
            function = names_of(symbol)[:1]
            known = any(p.matches(name) for name in function for p in self._patterns)
            self._known[symbol] = known
        return known
