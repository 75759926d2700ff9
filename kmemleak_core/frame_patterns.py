"""Turns patterns into verdicts on the frames of a backtrace: the allocator's, or suppressed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError

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


@dataclass(frozen=True, slots=True)
class Suppression:
    """One line of a suppressions file.

    Parameters
    ----------
    pattern
        What a frame's function or its module has to match; with a ``+`` in it, the symbol with
        its offset can, too.
    line
        Where it stands in its file.
    """

    pattern: FramePattern
    line: int


class Suppressions:
    """Leaks that are known, told by any frame of their backtrace."""

    def __init__(self, entries: Iterable[Suppression] = (), path: str = "") -> None:
        self.entries = tuple(entries)
        self.path = path
        self._known: dict[str, int] = {}

    @classmethod
    def parse(cls, text: str, path: str = "") -> Suppressions:
        """Read lines ``leak:pattern``; empty ones and those that begin with ``#`` say nothing.

        Raises
        ------
        UsageError
            A line is something else.
        """
        entries = []
        for number, line in enumerate(text.split("\n"), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            kind, colon, pattern = line.partition(":")
            if not colon or kind.strip() != "leak" or not pattern.strip("*^$ \t"):
                raise UsageError(
                    f"{path or 'suppressions'}: line {number} is no suppression: {line[:80]!r}",
                    hint="write leak:PATTERN, where the pattern is a part of a function's or "
                    "module's name",
                )
            entries.append(Suppression(FramePattern(pattern.strip()), number))
        return cls(entries, path)

    @classmethod
    def load(cls, path: Path) -> Suppressions:
        """Read a file; see `parse`."""
        try:
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"{path}: the suppressions cannot be read: {reason}") from None
        return cls.parse(text, str(path))

    def find(self, symbols: Sequence[str]) -> int | None:
        """Return the index of the first entry that suppresses a backtrace; None if none does."""
        if not self.entries:
            return None
        best = len(self.entries)
        for symbol in symbols:
            index = self._known.get(symbol)
            if index is None:
                index = self._known[symbol] = self._first(symbol)
            best = min(best, index)
        return best if best < len(self.entries) else None

    def _first(self, symbol: str) -> int:
        names = names_of(symbol)
        for index, entry in enumerate(self.entries):
            # Offsets and bare addresses have x, digits and letters that no name has to be: only
            # a pattern that asks for them meets them.
            text = entry.pattern.text
            if symbol.startswith("0x") and "0x" not in text:
                continue
            among = (*names, symbol) if "+" in text else names
            if any(entry.pattern.matches(name) for name in among):
                return index
        return len(self.entries)


def names_of(symbol: str) -> tuple[str, ...]:
    """Return the names in a symbol: its function's, without suffixes, and its module's."""
    match = _SYMBOL.fullmatch(symbol)
    if match is None:
        return (symbol,)
    return tuple(name for name in (match["function"], match["module"]) if name)


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
