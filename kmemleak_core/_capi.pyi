"""The C API's functions, and what C knows a detector by."""

from typing import Any, final

from .lifecycle import ObjectLifecycle

#: The capsule that ``kmemleak_import()`` imports: a ``const kmemleak_api *``.
API: Any

@final
class Attachment:
    """A detector as C sees it; keep it as long as C may call. Made by `attach`.

    Attributes
    ----------
    api : int
        Address of the table of functions, a ``const kmemleak_api *``.
    handle : int
        What the functions take first, a ``kmemleak_detector *``; valid as long as this object is.
    """

    @property
    def api(self) -> int: ...
    @property
    def handle(self) -> int: ...
    def disabled(self) -> None:
        """Hear that the detector was disabled."""

def attach(detector: ObjectLifecycle) -> Attachment:
    """Make a detector known to C.

    Raises
    ------
    UsageError
        Its early log has not been replayed: ``start()`` first.
    """
