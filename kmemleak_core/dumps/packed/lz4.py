"""Turns lz4 frames into bytes, on one thread.

Blocks of a frame may be independent of one another, but the checksum that the ``lz4`` command
puts behind them covers all of them in order, and the library computes it only as it unpacks: to
unpack blocks apart would be to leave it unchecked. A core unpacks about as fast as a disk writes.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import Unit

_MAGIC = b"\x04\x22\x4d\x18"
#: A block unpacks to 255 times its size at most.
_FEED = 256 << 10
_PIECE = 1 << 20


class Lz4:
    """See `Packing`."""

    name = "lz4"

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """See `Packing`."""
        return (RuntimeError,)  # what the library raises for a damaged frame

    def matches(self, head: bytes) -> bool:
        """See `Packing`."""
        return head.startswith(_MAGIC)

    def units(self, data: memoryview) -> Iterator[Unit]:
        """See `Packing`."""
        yield Unit(0, len(data))

    def unpack(self, data: memoryview, unit: Unit) -> Iterator[bytes]:
        """See `Packing`."""
        import lz4.frame

        context = lz4.frame.create_decompression_context()
        at, ended = unit.begin, False
        while at < unit.end:
            piece, used, ended = lz4.frame.decompress_chunk(
                context, data[at : min(unit.end, at + _FEED)], max_length=_PIECE
            )
            at += used
            yield piece
            if not used and not piece and not ended:
                break
        if not ended:
            raise EOFError("the last frame is incomplete")
