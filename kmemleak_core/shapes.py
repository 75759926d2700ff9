"""Turns the first words of objects into shapes: pointer, zero, small number, text, other."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .image import MemoryImage, Segment
from .objects import ObjectTable

#: How many words of an object make up its shape.
WORDS = 8

#: Objects looked at together: bounds the memory that classification needs.
_CHUNK = 1 << 16

#: Numbers of at most this many are small.
_SMALL = 1 << 16


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


_NAMES = {
    WordKind.MISSING: "?",
    WordKind.ZERO: "0",
    WordKind.OBJECT: "obj",
    WordKind.POINTER: "ptr",
    WordKind.INT: "int",
    WordKind.TEXT: "text",
    WordKind.DATA: "data",
    WordKind.VARIED: "any",
}


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
    codes = np.zeros((address.size, WORDS), np.uint8)
    ends = objects.address + objects.size
    for start in range(0, address.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        count = np.minimum(size[part] // np.uint64(image.word_size), np.uint64(WORDS))
        wanted = np.arange(WORDS, dtype=np.uint64) < count[:, None]
        words, present = _gather(image, address[part])
        part_codes = _kinds(image, objects.address, ends, words)
        part_codes[~present] = WordKind.MISSING
        part_codes[~wanted] = WordKind.ABSENT
        codes[part] = part_codes
    return codes


def shape_text(codes: NDArray[np.uint8], size: int, word_size: int) -> str:
    """Write one object's classified words, equal neighbours as one: ``"obj·0×3·text …"``."""
    parts: list[list[Any]] = []
    for code in codes.tolist():
        if code == WordKind.ABSENT:
            break
        if parts and parts[-1][0] == code:
            parts[-1][1] += 1
        else:
            parts.append([code, 1])
    if not parts:
        return "bytes" if size else "empty"
    text = "·".join(_NAMES[WordKind(c)] + (f"×{k}" if k > 1 else "") for c, k in parts)
    return text + " …" if size > WORDS * word_size else text


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


def _gather(
    image: MemoryImage, address: NDArray[np.uint64]
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Return the first words at each address, and which of them the image holds."""
    words = np.zeros((address.size, WORDS), np.uint64)
    present = np.zeros((address.size, WORDS), np.bool_)
    where = np.searchsorted(image.starts, address, side="right") - 1
    by_segment = np.argsort(where, kind="stable")
    limits = np.flatnonzero(np.diff(where[by_segment])) + 1
    for rows in np.split(by_segment, limits):
        i = int(where[rows[0]]) if rows.size else -1
        if i < 0:
            continue
        segment = image.segments[i]
        offset = (address[rows] - np.uint64(segment.address)).astype(np.int64)
        inside = (offset >= 0) & (offset < segment.size)
        rows = rows[inside]
        if rows.size:
            words[rows], present[rows] = _from_segment(image, segment, offset[inside])
    return words, present


def _from_segment(
    image: MemoryImage, segment: Segment, offset: NDArray[np.int64]
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    width = image.word_size
    at = offset[:, None] + np.arange(WORDS, dtype=np.int64) * width
    present = at <= segment.size - width
    at[~present] = 0
    if segment.size < width:
        return np.zeros(at.shape, np.uint64), present
    if not bool(np.any(offset % width)):
        whole = segment.data[: segment.size // width * width].view(image.word_dtype)
        return whole[at // width].astype(np.uint64), present
    raw = segment.data[at[:, :, None] + np.arange(width)]
    return raw.view(image.word_dtype)[:, :, 0].astype(np.uint64), present


def _kinds(
    image: MemoryImage,
    starts: NDArray[np.uint64],
    ends: NDArray[np.uint64],
    words: NDArray[np.uint64],
) -> NDArray[np.uint8]:
    """Classify words, ``(n, WORDS)``; the tests run from the strongest to the weakest sign."""
    flat = words.reshape(-1)
    flat_kinds: NDArray[np.uint8] = np.full(flat.size, WordKind.DATA, np.uint8)
    zero = flat == 0
    flat_kinds[zero] = WordKind.ZERO
    rest = np.flatnonzero(~zero)
    tests: tuple[tuple[WordKind, Callable[[NDArray[np.uint64]], NDArray[np.bool_]]], ...] = (
        (WordKind.OBJECT, lambda w: _inside(w, starts, ends)),
        (WordKind.INT, lambda w: _small(w, image.word_size)),
        (WordKind.POINTER, lambda w: _inside(w, image.starts, image.ends)),
        (WordKind.TEXT, lambda w: _textual(w, image, 4)),
    )
    for kind, fits in tests:
        found = fits(flat[rest])
        flat_kinds[rest[found]] = kind
        rest = rest[~found]
    kinds = flat_kinds.reshape(words.shape)

    # A string's last bytes alone look like a number.
    follows = np.zeros(kinds.shape, np.bool_)
    follows[:, 1:] = (kinds[:, :-1] == WordKind.TEXT) & (
        (kinds[:, 1:] == WordKind.INT) | (kinds[:, 1:] == WordKind.DATA)
    )
    rows, columns = np.nonzero(follows)
    if rows.size:
        goes_on = _textual(words[rows, columns - 1], image, image.word_size)
        tail = _textual(words[rows, columns], image, 1) & goes_on
        kinds[rows[tail], columns[tail]] = WordKind.TEXT
    return kinds


def _small(words: NDArray[np.uint64], width: int) -> NDArray[np.bool_]:
    top = np.uint64((1 << (8 * width)) - _SMALL)
    small: NDArray[np.bool_] = (words < np.uint64(_SMALL)) | (words >= top)
    if width == 8:
        low, high = words & np.uint64(0xFFFFFFFF), words >> np.uint64(32)
        limit = np.uint64(_SMALL)
        small |= (low < limit) & (high < limit)
    return small


def _inside(
    words: NDArray[np.uint64], starts: NDArray[np.uint64], ends: NDArray[np.uint64]
) -> NDArray[np.bool_]:
    """Return which words lie in one of the sorted ranges."""
    if not starts.size:
        return np.zeros(words.size, np.bool_)
    inside: NDArray[np.bool_] = (words >= starts[0]) & (words < ends[-1])
    near = np.flatnonzero(inside)
    which = np.searchsorted(starts, words[near], side="right") - 1
    inside[near] = words[near] < ends[which]
    return inside


def _textual(words: NDArray[np.uint64], image: MemoryImage, least: int) -> NDArray[np.bool_]:
    """Return which words are so many printable characters or more, then nothing but zeros."""
    raw = words.astype(image.word_dtype).view(np.uint8).reshape(-1, image.word_size)
    printable = ((raw >= 0x20) & (raw < 0x7F)) | (raw == 0x09) | (raw == 0x0A) | (raw == 0x0D)
    run = np.logical_and.accumulate(printable, axis=1).sum(axis=1)
    zeros = (raw == 0).sum(axis=1)
    textual: NDArray[np.bool_] = (run >= least) & (run + zeros == image.word_size)
    return textual
