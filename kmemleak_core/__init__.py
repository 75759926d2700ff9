"""kmemleak_core: finds the memory that nobody can reach any more, in any memory image."""

from .dump import Dump, MappedFile, Thread
from .errors import DumpError, FaultError, HeapError, KmemleakError, OverlapError, UsageError
from .image import Hole, MemoryImage, Segment
from .leaks import Leak, LeakGroup, LeakTable
from .objects import BLACK, GREY, ObjectFlags, ObjectTable
from .pipeline import AnalyseOptions, RawSource, analyse, scan
from .report.model import Report
from .roots import RootRange, Roots, RootWord
from .scan import Colour, References, ScanOptions, ScanResult, scan_image

__all__ = [
    "BLACK",
    "GREY",
    "AnalyseOptions",
    "Colour",
    "Dump",
    "DumpError",
    "FaultError",
    "HeapError",
    "Hole",
    "KmemleakError",
    "Leak",
    "LeakGroup",
    "LeakTable",
    "MappedFile",
    "MemoryImage",
    "ObjectFlags",
    "ObjectTable",
    "OverlapError",
    "RawSource",
    "References",
    "Report",
    "RootRange",
    "RootWord",
    "Roots",
    "ScanOptions",
    "ScanResult",
    "Segment",
    "Thread",
    "UsageError",
    "analyse",
    "scan",
    "scan_image",
]
__version__ = "0.1.0"
