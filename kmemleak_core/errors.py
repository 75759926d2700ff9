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
    """A command of the control file is refused.

    Parameters
    ----------
    errno
        The error number, as a write to the kernel's file would give it.
    message
        What was refused and why, for channels that can carry words.
    hint
        What the user can try.
    """

    def __init__(self, errno: int, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.errno = errno
