"""Turns the first words of objects into shapes: pointer, zero, small number, text, other."""

from __future__ import annotations

from enum import IntEnum
from functools import lru_cache, partial
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from . import workers
from ._shapes import classify_words
from .image import MemoryImage
from .objects import ObjectTable

#: How many words of an object make up its shape.
WORDS = 8

#: Objects that are classified at a time, where only a part of what is found out is kept.
_BLOCK = 1 << 17

#: So few objects of one size are never merged for looking different.
_FEW = 4


class WordKind(IntEnum):
    """What a word looks like."""

    ABSENT = 0  # beyond the object's end
    MISSING = 1  # not in the image
    ZERO = 2
    OBJECT = 3  # points into an allocated object
    POINTER = 4  # points elsewhere into the image
    INT = 5  # a small number, or two small halves
    TEXT = 6
    DATA = 7
    VARIED = 8  # differs among the members of a group


#: By number.
_NAMES = ("", "?", "0", "obj", "ptr", "int", "text", "data", "any")


def classify(
    image: MemoryImage,
    objects: ObjectTable,
    address: NDArray[np.uint64],
    size: NDArray[np.uint64],
) -> NDArray[np.uint8]:
    """Classify the first words of objects.

    Parameters
    ----------
    image, objects
        What words are compared with.
    address, size
        ``(n,)``: the objects; any order, fastest sorted.

    Returns
    -------
    ndarray of uint8, shape (n, `WORDS`)
        `WordKind` values.
    """
    return classify_words(
        image.engine,
        objects.address,
        objects.size,
        np.ascontiguousarray(address),
        np.ascontiguousarray(size),
    )


def pointer_masks(image: MemoryImage, objects: ObjectTable, threads: int = 1) -> NDArray[np.uint16]:
    """Tell which of the first words of all objects are pointers: what stays from run to run.

    Parameters
    ----------
    image, objects
        The memory, and what is in it.
    threads
        How many may work at once; the result is the same.

    Returns
    -------
    ndarray of uint16, shape (n,)
        Bit 15 − k: word k points into an object; bit 7 − k: elsewhere into the image.
    """
    masks = np.zeros(len(objects), np.uint16)

    def fill(begin: int) -> None:
        rows = slice(begin, begin + _BLOCK)
        codes = classify(image, objects, objects.address[rows], objects.size[rows])
        into = np.packbits(codes == WordKind.OBJECT, axis=1)[:, 0].astype(np.uint16)
        masks[rows] = (into << 8) | np.packbits(codes == WordKind.POINTER, axis=1)[:, 0]

    workers.run(threads, [partial(fill, begin) for begin in range(0, masks.size, _BLOCK)])
    return masks


def mask_words(mask: int) -> tuple[str, ...]:
    """Return what a mask of `pointer_masks` says of each word, what follows the last one left out:
    ``("obj", "-", "ptr")``.
    """
    words = [
        "obj" if mask >> 15 - k & 1 else "ptr" if mask >> 7 - k & 1 else "-" for k in range(WORDS)
    ]
    while words and words[-1] == "-":
        words.pop()
    return tuple(words)


def shape_text(codes: bytes, size: int, word_size: int) -> str:
    """Write one object's classified words, equal neighbours as one: ``"obj·0×3·text …"``."""
    text = _words_text(codes)
    if not text:
        return "bytes" if size else "empty"
    return text + " …" if size > WORDS * word_size else text


@lru_cache(4096)
def _words_text(codes: bytes) -> str:
    runs = ((_NAMES[code], len(list(run))) for code, run in groupby(codes.rstrip(b"\0")))
    return "·".join(f"{name}×{length}" if length > 1 else name for name, length in runs)


def pack(codes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return each object's shape, ``(n, WORDS)``, as one number, ``(n,)``."""
    return np.ascontiguousarray(codes).view(">u8")[:, 0].astype(np.uint64)


def coarse(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Forget what data looks like, except for text at the start: one record, many contents.

    In what begins with text, zeros are forgotten too: strings differ in length.
    """
    table = np.arange(len(WordKind), dtype=np.uint8)
    table[[WordKind.INT, WordKind.TEXT]] = WordKind.DATA
    result: NDArray[np.uint8] = table[codes]
    strings = codes[:, 0] == WordKind.TEXT
    table[WordKind.ZERO] = WordKind.DATA
    result[strings] = table[codes[strings]]
    result[strings, 0] = WordKind.TEXT
    return result


def common(
    codes: NDArray[np.uint8], members: NDArray[np.int64], starts: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Return the shape of each group, ``(g, WORDS)``; VARIED where its members differ.

    Group k is ``members[starts[k]:starts[k + 1]]``; no group is empty.
    """
    lowest = np.minimum.reduceat(codes[members], starts, axis=0)
    highest = np.maximum.reduceat(codes[members], starts, axis=0)
    return np.where(lowest == highest, lowest, np.uint8(WordKind.VARIED))


def merge_varied(codes: NDArray[np.uint8], size: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Give objects of one size one shape where nearly every one has its own.

    Buffers and records full of numbers seldom look alike; apart, they would drown the rest.
    Where more than half as many shapes as objects occur, the words that differ become VARIED.

    Parameters
    ----------
    codes
        ``(n, WORDS)``, from `coarse`.
    size
        ``(n,)``.
    """
    if not size.size:
        return codes
    packed = pack(codes)
    rows = np.lexsort((packed, size))
    by_size, by_shape, sorted_codes = size[rows], packed[rows], codes[rows]
    new_size = np.append(True, by_size[1:] != by_size[:-1])
    new_shape = new_size | np.append(True, by_shape[1:] != by_shape[:-1])
    starts = np.flatnonzero(new_size)
    members = np.diff(np.append(starts, size.size))
    shapes = np.add.reduceat(new_shape.astype(np.int64), starts)
    merged = common(codes, rows, starts)
    diverse = (members >= _FEW) & (2 * shapes > members)
    result = codes.copy()
    result[rows] = np.where(
        np.repeat(diverse, members)[:, None], np.repeat(merged, members, axis=0), sorted_codes
    )
    return result
