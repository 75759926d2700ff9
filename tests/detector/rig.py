"""Makes a page or more of live memory with a detector on it, for tests of the contract."""

from __future__ import annotations

import struct

import kmemleak_core as km
from kmemleak_core.roots import RootRange, RootWord

BASE = 0x10000
ROOT = BASE
ROOT_SIZE = 0x100
A, B, C, D = (BASE + offset for offset in (0x400, 0x500, 0x600, 0x700))


class Live:
    """A detector that reports at once, on memory whose first words are the only root."""

    def __init__(self, size=0x2000, **options):
        self.data = bytearray(size)
        image = km.MemoryImage.from_segments([(BASE, self.data)])
        defaults = {"min_age": 0, "checksums": False, "confirm": False, "backtraces": False}
        self.detector = km.Kmemleak(image, **{**defaults, **options})
        self.detector.add_root(ROOT, ROOT_SIZE, "root")

    def put(self, place, value):
        struct.pack_into("<Q", self.data, place - BASE, value)
        return self

    def fill(self, place, content):
        self.data[place - BASE : place - BASE + len(content)] = content

    def alloc(self, address, size=32, min_count=1, **more):
        self.detector.alloc(address, size, min_count, **more)
        return address

    def leaks(self):
        """Scan; return the addresses of what is reported and unreferenced."""
        self.detector.scan()
        return [leak.address for leak in self.detector.unreferenced()]

    def anomalies(self):
        return {note.code for note in self.detector.anomalies}


def strict(**options):
    """Make a detector that behaves as the kernel does."""
    return Live(strict_kernel=True, **options)


class Clock:
    """Stands for the ``time`` module: time passes only when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def perf_counter(self):
        return self.now


class After:
    """A cancellation that comes after so many questions whether it has come."""

    def __init__(self, questions=0):
        self.left = questions

    def is_set(self):
        self.left -= 1
        return self.left < 0


def registers(*values):
    return lambda: ((), [RootWord(value) for value in values])


def stack(address, size):
    return lambda: ([RootRange(address, size, "stacks")], ())
