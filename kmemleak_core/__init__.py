"""kmemleak_core: finds the memory that nobody can reach any more, in any memory image."""

from .dump import Dump, MappedFile, Thread
from .errors import DumpError, FaultError, HeapError, KmemleakError, OverlapError, UsageError
from .image import Hole, MemoryImage, Segment
from .objects import BLACK, GREY, ObjectFlags, ObjectTable
from .roots import RootRange, Roots, RootWord

__all__ = [
    "BLACK",
    "GREY",
    "Dump",
    "DumpError",
    "FaultError",
    "HeapError",
    "Hole",
    "KmemleakError",
    "MappedFile",
    "MemoryImage",
    "ObjectFlags",
    "ObjectTable",
    "OverlapError",
    "RootRange",
    "RootWord",
    "Roots",
    "Segment",
    "Thread",
    "UsageError",
]
__version__ = "0.1.0"
