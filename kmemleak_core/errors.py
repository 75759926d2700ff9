"""The typed errors of the package: what was being done, on what, and what to try."""

from __future__ import annotations


class KmemleakError(Exception):
    """Base of every error that this package raises on purpose.

    Parameters
    ----------
    message
        What was being done and what went wrong.
    hint
        What the user can try; shown on a line of its own.
    """

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}\n  try: {self.hint}" if self.hint else message


class UsageError(KmemleakError):
    """The request itself is wrong: options that contradict each other, a file that is not there."""


class DumpError(KmemleakError):
    """A dump, or a table that describes one, cannot be read.

    Parameters
    ----------
    message
        What is wrong.
    path
        The file, as the user named it.
    offset
        Byte offset in that file, where it is known.
    hint
        What the user can try.
    """

    def __init__(
        self, message: str, *, path: str = "", offset: int | None = None, hint: str = ""
    ) -> None:
        where = f"{path}: " if path else ""
        if offset is not None:
            message = f"{message} (at file offset {offset:#x})"
        super().__init__(where + message, hint=hint)
        self.path = path
        self.offset = offset


class FaultError(KmemleakError):
    """An address, or part of a range, is not in the image."""

    def __init__(self, address: int, message: str = "") -> None:
        super().__init__(message or f"address {address:#x} is not in the image")
        self.address = address


class OverlapError(KmemleakError):
    """Two tracked objects, or two segments, claim the same address."""

    def __init__(self, existing: tuple[int, int], new: tuple[int, int], *, what: str) -> None:
        super().__init__(
            f"{what} {new[0]:#x} (size {new[1]}) overlaps {what} "
            f"{existing[0]:#x} (size {existing[1]})"
        )
        self.existing = existing
        self.new = new


class HeapError(KmemleakError):
    """The image holds no heap that any allocator module can walk."""


class ControlError(KmemleakError):
    """A command to a detector failed, in the terms in which the kernel's file fails.

    Parameters
    ----------
    errno
        ``errno.EINVAL``, ``errno.EPERM``, ….
    message
        What was wrong, and which words are accepted.
    """

    def __init__(self, errno: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.errno = errno


class UnknownObjectError(KmemleakError):
    """A call names an object that is not tracked: freed already, or never allocated."""

    def __init__(self, call: str, address: int) -> None:
        super().__init__(f"{call}: no object starts at {address:#x}")
        self.address = address


class AliasError(KmemleakError):
    """A call that wants an object's start was given an address inside the object."""

    def __init__(self, call: str, address: int, existing: tuple[int, int]) -> None:
        super().__init__(
            f"{call}: {address:#x} lies inside object {existing[0]:#x} (size {existing[1]})"
        )
        self.address = address
        self.existing = existing


class DetectorDisabledError(KmemleakError):
    """The detector was disabled for good; the reason is in the message."""
