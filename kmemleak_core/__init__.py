"""kmemleak_core: finds the memory that nobody can reach any more, in any memory image."""

from .dump import Dump, MappedFile, Thread
from .errors import DumpError, FaultError, HeapError, KmemleakError, OverlapError, UsageError
from .image import Hole, MemoryImage, Segment
from .objects import BLACK, GREY, ObjectFlags, ObjectTable
from .roots import RootRange, Roots, RootWord
from .scan import Colour, References, ScanOptions, ScanResult, scan_image

__all__ = [
    "BLACK",
    "GREY",
    "Colour",
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
    "References",
    "RootRange",
    "RootWord",
    "Roots",
    "ScanOptions",
    "ScanResult",
    "Segment",
    "Thread",
    "UsageError",
    "scan_image",
]
__version__ = "0.1.0"
