"""Turns addresses of structures into columns of their members, many at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .._structures import (
    LIST_ENDED,
    LIST_LEAVES,
    LIST_LOOPS,
    follow_list,
    follow_lists,
    read_bytes,
    read_members,
)
from ..errors import DumpError
from ..image import MemoryImage
from ..symbols import Member, Struct, Types


class Structures:
    """Reads members of many structures at once.

    Parameters
    ----------
    image
        The kernel's memory, by virtual address.
    types
        Where its structures' layouts come from.

    Attributes
    ----------
    missing : int
        Values that were asked for and are not in the image, so far; they read as 0.
    """

    def __init__(self, image: MemoryImage, types: Types) -> None:
        self.image = image
        self.types = types
        self.missing = 0

    def has(self, struct: str, *paths: str) -> bool:
        """Whether there is such a structure with all these members."""
        if self.types.struct(struct) is None:
            return False
        return all(self.types.member(struct, path) is not None for path in paths)

    def struct(self, name: str) -> Struct:
        """Return a structure; `DumpError` where its layout is not known."""
        found = self.types.struct(name)
        if found is None:
            raise DumpError(
                f"the layout of struct {name} is not known from {self.types.origin}",
                hint="give the kernel's vmlinux with debugging symbols: --vmlinux FILE",
            )
        return found

    def member(self, struct: str, path: str) -> Member:
        """Return a member; `DumpError` where there is none."""
        found = self.types.member(struct, path)
        if found is None:
            self.struct(struct)
            raise DumpError(f"struct {struct} has no member {path} in {self.types.origin}")
        return found

    def column(self, address: ArrayLike, struct: str, path: str) -> NDArray[Any]:
        """Read one member of many structures.

        Parameters
        ----------
        address
            ``(n,)`` uint64: where the structures are.
        struct, path
            Which member; a bit field is shifted and masked.

        Returns
        -------
        ndarray, shape (n,)
            ``uint64``, or ``int64`` for signed members; 0 where the image lacks it.

        Raises
        ------
        DumpError
            There is no such member, or it is not a number of 1 to 8 bytes.
        """
        return self.columns(address, struct, path)[0]

    def columns(self, address: ArrayLike, struct: str, *paths: str) -> list[NDArray[Any]]:
        """Read several members of many structures in one pass over them, each as `column` does."""
        members = [self.member(struct, path) for path in paths]
        for member in members:
            if member.size not in (1, 2, 4, 8):
                raise DumpError(
                    f"struct {struct}'s member {member.name} is no number: {member.size} bytes"
                )
        values, present = self._read(
            address, [m.offset for m in members], [m.size for m in members]
        )
        self.missing += int(present.size - np.count_nonzero(present))
        return [_value(column, member) for column, member in zip(values, members, strict=True)]

    def numbers(
        self, address: ArrayLike, offset: int = 0, size: int = 8
    ) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Read numbers of `size` bytes at ``address + offset``.

        Returns
        -------
        values : ndarray of uint64, shape (n,)
            0 where the image lacks any of the bytes.
        present : ndarray of bool, shape (n,)
            Whether all bytes were there.
        """
        values, present = self._read(address, [offset], [size])
        return values[0], present[0].view(bool)

    def bytes(
        self, address: ArrayLike, offset: int, size: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Read `size` bytes at each ``address + offset``: ``(n, size)``, and which were there."""
        where = np.ascontiguousarray(address, dtype=np.uint64) + np.uint64(offset)
        out = np.empty((where.size, size), np.uint8)
        present = np.empty(where.size, np.uint8)
        read_bytes(self.image.engine, where, out, present)
        return out, present.view(bool)

    def _read(
        self, address: ArrayLike, offsets: list[int], sizes: list[int]
    ) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
        where = np.ascontiguousarray(address, dtype=np.uint64)
        values = np.empty((len(sizes), where.size), np.uint64)
        present = np.empty((len(sizes), where.size), np.uint8)
        read_members(
            self.image.engine,
            where,
            np.array(offsets, np.uint64),
            np.array(sizes, np.uint8),
            values,
            present,
        )
        return values, present

    def number(self, address: int, size: int = 8) -> int:
        """Read one number; `FaultError` where it is not in the image."""
        return int.from_bytes(self.image.read(address, size), self.image.byteorder)

    def value(self, address: int, struct: str, path: str) -> int:
        """Read one member of one structure; `FaultError` where it is not in the image."""
        self.image.view(address + self.member(struct, path).offset, 1)
        return int(self.column(np.array([address], np.uint64), struct, path)[0])

    def text(self, address: int, most: int = 256) -> str:
        """Read a string up to its NUL, at most so many bytes; empty where it is not there."""
        segment = self.image.find(address)
        if segment is None:
            return ""
        at = address - segment.address
        raw = segment.data[at : at + most].tobytes()
        return raw.split(b"\0", 1)[0].decode("latin-1")

    def follow(
        self, first: int, offset: int, *, end: int = 0, most: int = 1 << 28
    ) -> tuple[NDArray[np.uint64], str]:
        """Follow the links of a list.

        Parameters
        ----------
        first
            The first element (or the head's ``next``).
        offset
            Where in an element the address of the next one lies.
        end
            What the last element's link holds: 0, or the head of a circular list.
        most
            Elements after which a list is taken to be damaged.

        Returns
        -------
        elements : ndarray of uint64, shape (n,)
            In the list's order.
        problem : str
            Why it ended early: a link that leads out of the image, back into the list, or never
            to its end; empty where all is well.
        """
        # No list has more elements than the image has words; a loop is found within three times
        # as many links.
        room = 4 * (self.image.nbytes // self.image.word_size) + 4
        elements, state, at = follow_list(self.image.engine, first, offset, end, min(most, room))
        if state == LIST_ENDED:
            return elements, ""
        if state == LIST_LEAVES:
            return elements, f"the list leads to {at:#x}, which is not in the dump"
        if state == LIST_LOOPS:
            return elements, f"the list comes back to {at:#x}"
        return elements, f"the list does not end after {elements.size:,} elements"

    def follow_many(
        self, first: ArrayLike, offset: int, *, end: ArrayLike = 0, most: int = 1 << 28
    ) -> tuple[NDArray[np.uint64], NDArray[np.int64], int]:
        """Follow many lists, as `follow` does one.

        Parameters
        ----------
        first, end
            ``(n,)``: of each list.
        most
            Elements of all lists together; lists that come after so many are taken to be damaged.

        Returns
        -------
        elements : ndarray of uint64, shape (m,)
            Of all lists, in their order.
        owner : ndarray of int64, shape (m,)
            Which list each belongs to.
        damaged : int
            How many lists ended early.
        """
        heads = np.ascontiguousarray(first, dtype=np.uint64)
        ends = np.ascontiguousarray(np.broadcast_to(np.asarray(end, np.uint64), heads.shape))
        room = 4 * (self.image.nbytes // self.image.word_size) + 4
        elements, offsets, states = follow_lists(
            self.image.engine, heads, offset, ends, min(most, room)
        )
        owner = np.repeat(np.arange(heads.size), np.diff(offsets))
        return elements, owner, int(np.count_nonzero(states != LIST_ENDED))


def _value(values: NDArray[np.uint64], member: Member) -> NDArray[Any]:
    """Cut a member out of the bytes that hold it."""
    if member.bit_size:
        values = values >> np.uint64(member.bit_offset)
        values &= np.uint64((1 << member.bit_size) - 1)
    if not member.signed:
        return values
    shift = np.int64(64 - (member.bit_size or member.size * 8))
    return (values.view(np.int64) << shift) >> shift
