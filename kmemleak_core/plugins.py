"""Turns the name of a registry into what third parties have entered there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def registered(group: str) -> Iterable[EntryPoint]:
    """Return the entry points of a group; none is loaded yet.

    This reads the metadata of every installed package, which takes longer than many a scan: ask
    only where nothing of ours fits.

    Parameters
    ----------
    group
        ``"kmemleak_core.dumps"``, ``"kmemleak_core.heaps"``, ``"kmemleak_core.logs"`` or
        ``"kmemleak_core.reports"``.
    """
    from importlib.metadata import entry_points

    return entry_points(group=group)
