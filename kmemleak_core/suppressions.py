"""Turns a file of suppressions into verdicts on leaks: which are known, and by which line.

The format is LeakSanitizer's, ``leak:PATTERN`` and ``#`` for comments, with four words more::

    # of a function or module of the backtrace, anywhere in its name; ^ and $ anchor it
    leak:make_thing
    # what an object is: the whole name, with * for anything
    type:kmalloc-64
    # its size: N, N-M, >N, <N, with K, M, G
    size:4K-8K
    # the module of a frame: the whole name
    module:ext4
    # where it starts: from the first address on, before the second
    addr:0x7f0000000000-0x7f0000010000
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError
from .frame_patterns import FramePattern, module_of, names_of
from .quantities import Span, parse_addresses, parse_sizes

_HINT = (
    "write leak:PATTERN, where the pattern is a part of a function's or module's name; or "
    "type:NAME, size:RANGE, module:NAME, addr:RANGE"
)
_RANGES: dict[str, Callable[[str], Span]] = {"size": parse_sizes, "addr": parse_addresses}
_NAMES = ("leak", "type", "module")

#: Stands for the path of the file that this package brings.
BUILTIN = "built-in"

#: No file of suppressions is larger.
_MOST = 1 << 24


@dataclass(frozen=True, slots=True)
class Suppression:
    """One line of a suppressions file.

    Parameters
    ----------
    what
        ``"leak"``, ``"type"``, ``"size"``, ``"module"``, ``"addr"``.
    text
        What stands behind the colon.
    line, path
        Where it stands.
    pattern
        What a name has to match; for ``leak`` with a ``+`` in it, the symbol with its offset can,
        too.
    span
        The sizes or addresses.
    """

    what: str
    text: str
    line: int = 0
    path: str = ""
    pattern: FramePattern | None = None
    span: Span | None = None

    @classmethod
    def parse(cls, text: str, line: int = 0, path: str = "") -> Suppression:
        """Read one line.

        Raises
        ------
        ValueError
            It is none.
        """
        what, colon, value = text.partition(":")
        what, value = what.strip(), value.strip()
        if colon and what in _RANGES:
            return cls(what, value, line, path, span=_RANGES[what](value))
        if not colon or what not in _NAMES or not value.strip("*^$ \t"):
            raise ValueError(f"{text[:80]!r}")
        return cls(what, value, line, path, FramePattern(value, whole=what != "leak"))

    def matches_symbol(self, symbol: str) -> bool:
        """Whether this is of frames, and one with that symbol meets it."""
        if self.pattern is None or self.what == "type":
            return False
        if self.what == "module":
            module = module_of(symbol)
            return module is not None and self.pattern.matches(module)
        # Offsets and bare addresses have x, digits and letters that no name has to be: only a
        # pattern that asks for them meets them.
        if symbol.startswith("0x") and "0x" not in self.text:
            return False
        among = (*names_of(symbol), symbol) if "+" in self.text else names_of(symbol)
        return any(self.pattern.matches(name) for name in among)

    def matches_kind(self, kind: str) -> bool:
        """Whether this is of what objects are, and such a one meets it."""
        return self.what == "type" and self.pattern is not None and self.pattern.matches(kind)

    def __str__(self) -> str:
        return f"{self.what}:{self.text}"


@dataclass(frozen=True, slots=True)
class SuppressionUse:
    """What one suppression did.

    Parameters
    ----------
    pattern, line
        As it stands in its file; of one that is not a ``leak:``, with its first word.
    count, nbytes
        The leaks that it suppressed.
    path
        The file.
    what
        Its first word.
    possible
        Possibly lost objects that it took out of the report.
    """

    pattern: str
    line: int
    count: int = 0
    nbytes: int = 0
    path: str = ""
    what: str = "leak"
    possible: int = 0

    @property
    def builtin(self) -> bool:
        """Whether this package brought it."""
        return self.path == BUILTIN

    @classmethod
    def of(cls, entry: Suppression, count: int, nbytes: int, possible: int = 0) -> SuppressionUse:
        """Count for an entry."""
        pattern = entry.text if entry.what == "leak" else str(entry)
        return cls(pattern, entry.line, count, nbytes, entry.path, entry.what, possible)

    @property
    def used(self) -> bool:
        """Whether it did anything; otherwise it can go."""
        return bool(self.count or self.possible)


class Suppressions:
    """Leaks that are known; of several entries that a leak meets the first counts."""

    def __init__(self, entries: Iterable[Suppression] = (), path: str = "") -> None:
        self.entries = tuple(entries)
        self.path = path
        self._symbols: dict[str, int] = {}
        self._kinds: dict[str, int] = {}
        self._ranges = [(i, e) for i, e in enumerate(self.entries) if e.span is not None]

    @classmethod
    def parse(cls, text: str, path: str = "") -> Suppressions:
        """Read lines; empty ones and those that begin with ``#`` say nothing.

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
            try:
                entries.append(Suppression.parse(line, number, path))
            except ValueError as error:
                raise UsageError(
                    f"{path or 'suppressions'}: line {number} is no suppression: {error}",
                    hint=_HINT,
                ) from None
        return cls(entries, path)

    @classmethod
    def load(cls, *paths: Path) -> Suppressions:
        """Read files; see `parse`. Entries stand in the order of the files."""
        entries: list[Suppression] = []
        for path in paths:
            try:
                with path.open(encoding="utf-8", errors="surrogateescape") as file:
                    text = file.read(_MOST + 1)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise UsageError(f"{path}: the suppressions cannot be read: {reason}") from None
            if len(text) > _MOST:
                raise UsageError(f"{path}: too large for a file of suppressions")
            entries += cls.parse(text, str(path)).entries
        return cls(entries, ", ".join(map(str, paths)))

    @classmethod
    def builtin(cls) -> Suppressions:
        """Return those that this package brings: what libraries are known to keep on purpose."""
        text = Path(__file__).with_name("builtin.supp").read_text(encoding="utf-8")
        return cls.parse(text, BUILTIN)

    @property
    def ranges(self) -> Sequence[tuple[int, Suppression]]:
        """The entries of sizes and addresses, with their indices."""
        return self._ranges

    def of_frames(self, symbols: Iterable[str]) -> int:
        """Return the first entry that a backtrace meets; ``len(entries)`` if there is none."""
        best = len(self.entries)
        for symbol in symbols:
            index = self._symbols.get(symbol)
            if index is None:
                index = self._first(Suppression.matches_symbol, symbol)
                self._symbols[symbol] = index
            best = min(best, index)
        return best

    def of_kind(self, kind: str) -> int:
        """Return the first entry that a kind of object meets; ``len(entries)`` for none."""
        index = self._kinds.get(kind)
        if index is None:
            index = self._kinds[kind] = self._first(Suppression.matches_kind, kind)
        return index

    def find(
        self,
        symbols: Sequence[str],
        *,
        kind: str = "",
        size: int | None = None,
        address: int | None = None,
    ) -> int | None:
        """Return the index of the first entry that suppresses a leak; None if none does."""
        if not self.entries:
            return None
        best = min(self.of_frames(symbols), self.of_kind(kind) if kind else len(self.entries))
        for index, entry in self._ranges:
            value = size if entry.what == "size" else address
            if entry.span is not None and value is not None and value in entry.span:
                best = min(best, index)
        return best if best < len(self.entries) else None

    def _first(self, meets: Callable[[Suppression, str], bool], name: str) -> int:
        entries = enumerate(self.entries)
        return next((i for i, entry in entries if meets(entry, name)), len(self.entries))
