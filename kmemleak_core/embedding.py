"""Turns a detector into what other languages and test suites hold on to: headers, pointers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._capi import Attachment
    from .lifecycle import ObjectLifecycle


def get_include() -> str:
    """Return the folder of ``kmemleak_core.h``, for a compiler's ``-I``."""
    return str(Path(__file__).resolve().parent / "include")


def attach(detector: ObjectLifecycle) -> Attachment:
    """Make a detector known to C.

    Parameters
    ----------
    detector
        A `Kmemleak` that has started.

    Returns
    -------
    Attachment
        ``.api`` and ``.handle``: addresses of the table of functions and of what they take first,
        as ``kmemleak_core.h`` declares them. Keep it as long as C may call.

    Raises
    ------
    UsageError
        The detector's early log has not been replayed: ``start()`` first.
    """
    from ._capi import attach as attach_detector

    return attach_detector(detector)
