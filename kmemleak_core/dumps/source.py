"""Turns a path into the descriptor of a regular file, and names an opened file's bytes."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..coverage import Coverage
from ..errors import DumpError


@dataclass(slots=True)
class Source:
    """An opened file.

    Parameters
    ----------
    path
        As the user named it.
    data
        Its bytes, ``uint8``, read-only, a view of an ``mmap``.
    coverage
        What was missing, so far: a `DumpFormat` adds to it and hands it on in its `Dump`.
    """

    path: str
    data: NDArray[np.uint8]
    coverage: Coverage = field(default_factory=Coverage)

    @property
    def head(self) -> bytes:
        """The first 4096 bytes, to recognise a format by."""
        return self.data[:4096].tobytes()


def open_regular(path: str | os.PathLike[str]) -> int:
    """Open a regular file for reading and return its descriptor.

    Raises
    ------
    DumpError
        It is missing, a directory, a device or a pipe, or may not be read.
    """
    name = os.fspath(path)
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise DumpError(
            "no such file",
            path=name,
            hint="where cores go is in /proc/sys/kernel/core_pattern; systemd keeps them: "
            "coredumpctl dump -o core",
        ) from None
    except PermissionError:
        raise DumpError(
            "may not be read",
            path=name,
            hint="cores belong to the user of the process: read it as that user or as root",
        ) from None
    except (OSError, ValueError) as error:
        raise DumpError(f"cannot be opened: {error}", path=name) from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise DumpError("is a directory", path=name, hint="name the core file itself")
    raise DumpError(
        "is a device, socket or pipe, not a file", path=name, hint="copy it to a file first"
    )
