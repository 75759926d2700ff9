"""Turns the name of a registry into what third parties have entered there."""

from __future__ import annotations

import os
import sys
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
        ``"kmemleak_core.dumps"``, ``"kmemleak_core.heaps"``, ``"kmemleak_core.logs"``,
        ``"kmemleak_core.recognisers"`` or ``"kmemleak_core.reports"``.
    """
    from importlib.metadata import entry_points

    return entry_points(group=group)


def mentioned(group: str) -> bool:
    """Return whether an installed package seems to have entered something in a group.

    Takes a millisecond where `registered` takes fifty: for what is asked of every scan.
    """
    heading = f"[{group}]".encode()
    for folder in sys.path:
        try:
            names = [
                name for name in os.listdir(folder) if name.endswith((".dist-info", ".egg-info"))
            ]
        except OSError:  # an archive, or nothing
            continue
        for name in names:
            try:
                with open(os.path.join(folder, name, "entry_points.txt"), "rb") as file:
                    if heading in file.read():
                        return True
            except OSError:  # noqa: PERF203
                continue
    return False
