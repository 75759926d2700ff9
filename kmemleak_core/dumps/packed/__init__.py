"""Turns a compressed file into units that unpack apart from one another: one module a format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

#: Units smaller than this, unpacked, are joined: handing out work has its price.
_JOINED = 4 << 20


class Unit(NamedTuple):
    """Part of a compressed file that unpacks without the parts before it.

    Parameters
    ----------
    begin, end
        Where it is in the file.
    most
        Bytes that it unpacks to at most; None where only unpacking tells.
    head, tail
        What makes it a file of its own when it is put before and behind.
    """

    begin: int
    end: int
    most: int | None = None
    head: bytes = b""
    tail: bytes = b""


class Packing(Protocol):
    """One format of compression."""

    name: str

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """What `unpack` raises for a damaged stream, besides `DamagedError` and EOFError."""
        ...

    def matches(self, head: bytes) -> bool:
        """Whether a file that begins like this is of this format."""
        ...

    def units(self, data: memoryview) -> Iterator[Unit]:
        """Cut a file into units, in their order.

        Nothing is raised: from a place on that is damaged, cut off or cannot be cut, all the
        rest is one unit of unknown size.
        """
        ...

    def unpack(self, data: memoryview, unit: Unit) -> Iterator[bytes]:
        """Yield the content in pieces of bounded size, without the interpreter's lock.

        Raises
        ------
        EOFError
            The stream is cut off; what there was has been yielded.
        DamagedError
            The stream is damaged; as are `failures`.
        """
        ...


class DamagedError(Exception):
    """A compressed stream contradicts itself."""


def packing(head: bytes) -> Packing | None:
    """Find the format of a file that begins like this; None if it is not compressed."""
    from .gzip import Gzip
    from .lz4 import Lz4
    from .xz import Xz
    from .zstd import Zstd

    known: tuple[Packing, ...] = (Zstd(), Gzip(), Xz(), Lz4())
    return next((format for format in known if format.matches(head)), None)


def joined(units: Iterator[Unit]) -> Iterator[Unit]:
    """Join small units that stand side by side and need nothing around them."""
    last: Unit | None = None
    for unit in units:
        if last is not None:
            alone = unit.most is None or last.most is None or unit.head or last.head
            if alone or unit.begin != last.end or last.most + unit.most > _JOINED:  # type: ignore[operator]
                yield last
            else:
                unit = Unit(last.begin, unit.end, last.most + unit.most)  # type: ignore[operator]
        last = unit
    if last is not None:
        yield last
