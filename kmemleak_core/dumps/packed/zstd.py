"""Turns zstd files into their frames, and frames into bytes.

A frame unpacks apart from all others (RFC 8878). ``pzstd``, seekable files and files put
together with ``cat`` have many; ``zstd`` alone writes one, whatever its ``-T``. How long a frame
is stands nowhere, but the lengths of its blocks do, and each unpacks to 128 KiB at most.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import DamagedError, Unit

_MAGIC = 0xFD2FB528
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)
_BLOCK = 128 << 10
_HEADER = 18  # bytes of a frame's header at most
#: A frame that may unpack to more is not walked to its end: that would read the whole file.
_LONGEST = 128 << 20
_RAW, _RLE, _COMPRESSED = range(3)


class Zstd:
    """See `Packing`."""

    name = "zstd"

    @property
    def failures(self) -> tuple[type[Exception], ...]:
        """See `Packing`."""
        import zstandard

        return (zstandard.ZstdError,)

    def matches(self, head: bytes) -> bool:
        """See `Packing`."""
        magic = int.from_bytes(head[:4], "little")
        return magic == _MAGIC or (len(head) > 8 and magic in _SKIPPABLE)

    def units(self, data: memoryview) -> Iterator[Unit]:
        """See `Packing`."""
        at = 0
        while at < len(data):
            begin = at
            if _word(data, at) in _SKIPPABLE:
                at += 8 + _word(data, at + 4)
                if at <= len(data):
                    continue
            elif _word(data, at) == _MAGIC:
                most = 0
                for at in _blocks(data, begin):  # noqa: B007
                    most += _BLOCK
                    if most > _LONGEST:
                        break
                else:
                    if at > begin:
                        yield Unit(begin, at, most)
                        continue
            yield Unit(begin, len(data))
            return

    def unpack(self, data: memoryview, unit: Unit) -> Iterator[bytes]:
        """See `Packing`."""
        import zstandard

        # The largest window that the format's tools use (zstd --long=31).
        context = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        data = data[: unit.end]
        at = unit.begin
        while at < unit.end:
            if _word(data, at) in _SKIPPABLE:
                at += 8 + _word(data, at + 4)
                if at > unit.end:
                    raise EOFError("the last frame is incomplete")
                continue
            frame = context.decompressobj(write_size=_BLOCK)
            # A block at a time bounds the memory: four bytes can stand for 128 KiB.
            for end in _blocks(data, at):
                yield frame.decompress(data[at:end])
                at = end
            if not frame.eof:
                # What the walk could not follow: the decompressor knows what is wrong with it.
                yield frame.decompress(data[at : at + _BLOCK])
                if len(data) - at > _BLOCK:
                    raise DamagedError("a block is damaged")
                raise EOFError("the last frame is incomplete")


def _word(data: memoryview, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _blocks(data: memoryview, at: int) -> Iterator[int]:
    """Yield where each block of the frame at an offset ends; stop early where the file does."""
    import zstandard

    head = data[at : at + _HEADER]
    try:
        at += zstandard.frame_header_size(head)
    except zstandard.ZstdError:
        return
    checksum = 4 if head[4] & 4 else 0
    last = False
    while not last:
        header = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        if kind > _COMPRESSED or size > _BLOCK:
            return
        at += 3 + (1 if kind == _RLE else size) + (checksum if last else 0)
        if at > len(data):
            return
        yield at
