"""kmemleak_core: finds the memory that nobody can reach any more, in any memory image."""

from typing import TYPE_CHECKING

from .lazy import export

if TYPE_CHECKING:
    from .baseline import Baseline
    from .compare.census import Census
    from .compare.difference import Difference
    from .compare.pipeline import census, diff
    from .detector import Kmemleak, ScanCounters
    from .dump import Dump, MappedFile, Thread
    from .embedding import attach, get_include
    from .errors import DumpError, FaultError, HeapError, KmemleakError, OverlapError, UsageError
    from .event_log import EventKind, EventLog
    from .image import Hole, MemoryImage, Segment
    from .leaks import Leak, LeakGroup, LeakTable
    from .lifecycle import ObjectView
    from .live import BufferMemory, CallbackMemory, LiveMemory, ProcessMemory
    from .logs.events import open_events
    from .objects import BLACK, GREY, ObjectFlags, ObjectTable
    from .options import AnalyseOptions, KernelOptions, RawSource
    from .pipeline import analyse, scan
    from .replay import Replay, replay
    from .report.model import Report
    from .roots import RootRange, Roots, RootWord
    from .scan import Colour, References, ScanOptions, ScanResult, scan_image
    from .suppressions import Suppressions
    from .testing import LeaksFound, expect_no_leaks
    from .who.retained import Holder, Retained, retained

__all__ = [
    "BLACK",
    "GREY",
    "AnalyseOptions",
    "Baseline",
    "BufferMemory",
    "CallbackMemory",
    "Census",
    "Colour",
    "Difference",
    "Dump",
    "DumpError",
    "EventKind",
    "EventLog",
    "FaultError",
    "HeapError",
    "Holder",
    "Hole",
    "KernelOptions",
    "Kmemleak",
    "KmemleakError",
    "Leak",
    "LeakGroup",
    "LeakTable",
    "LeaksFound",
    "LiveMemory",
    "MappedFile",
    "MemoryImage",
    "ObjectFlags",
    "ObjectTable",
    "ObjectView",
    "OverlapError",
    "ProcessMemory",
    "RawSource",
    "References",
    "Replay",
    "Report",
    "Retained",
    "RootRange",
    "RootWord",
    "Roots",
    "ScanCounters",
    "ScanOptions",
    "ScanResult",
    "Segment",
    "Suppressions",
    "Thread",
    "UsageError",
    "analyse",
    "attach",
    "census",
    "diff",
    "expect_no_leaks",
    "get_include",
    "open_events",
    "replay",
    "retained",
    "scan",
    "scan_image",
]
__version__ = "0.1.0"

# The imports above, at run time: each name when it is first wanted.
export(
    __name__,
    {
        "baseline": ("Baseline",),
        "compare.census": ("Census",),
        "compare.difference": ("Difference",),
        "compare.pipeline": ("census", "diff"),
        "detector": ("Kmemleak", "ScanCounters"),
        "dump": ("Dump", "MappedFile", "Thread"),
        "embedding": ("attach", "get_include"),
        "errors": (
            "DumpError",
            "FaultError",
            "HeapError",
            "KmemleakError",
            "OverlapError",
            "UsageError",
        ),
        "event_log": ("EventKind", "EventLog"),
        "image": ("Hole", "MemoryImage", "Segment"),
        "leaks": ("Leak", "LeakGroup", "LeakTable"),
        "lifecycle": ("ObjectView",),
        "live": ("BufferMemory", "CallbackMemory", "LiveMemory", "ProcessMemory"),
        "logs.events": ("open_events",),
        "objects": ("BLACK", "GREY", "ObjectFlags", "ObjectTable"),
        "options": ("AnalyseOptions", "KernelOptions", "RawSource"),
        "pipeline": ("analyse", "scan"),
        "replay": ("Replay", "replay"),
        "report.model": ("Report",),
        "roots": ("RootRange", "RootWord", "Roots"),
        "scan": ("Colour", "References", "ScanOptions", "ScanResult", "scan_image"),
        "suppressions": ("Suppressions",),
        "testing": ("LeaksFound", "expect_no_leaks"),
        "who.retained": ("Holder", "Retained", "retained"),
    },
)
