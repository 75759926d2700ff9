"""Turns a kernel's kmemleak report, or a console log with reports in it, into records.

The layouts are those of `kmemleak_core.report.kernel_layouts`; the reader needs not be told
which, and takes mixtures. The comm is printed raw, so that one with a line end in it makes two
lines of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from ..coverage import Coverage
from ..kernel_record import KernelFrame, KernelRecord
from .console import KMEMLEAK, Stripper, looks_logged, stripper

#: Bytes of a line beyond which it is not looked at.
MAX_LINE = 1 << 16
#: Lines of each kind that are kept to be shown; the others are counted.
MAX_KEPT = 1000

#: Frames of one backtrace (the kernel keeps 16), characters of one; lines that one comm can take
#: (it has 15 characters), and characters of these; lines of others between two of a record.
_MAX_FRAMES = 256
_MAX_FRAME_TEXT = 1024
_MAX_COMM_LINES = 16
_MAX_COMM_TEXT = 256
_MAX_GAP = 64

_PIECE = 1 << 20

_OBJECT = "unreferenced object"
_HEADER = re.compile(
    r"unreferenced object(?: \((phys|percpu)\))? 0x([0-9a-f]{1,16}) \(size ([0-9]{1,20})\):[ \t\r]*"
)
_COMM = re.compile(
    r'  comm "(.*)", pid (-?[0-9]{1,10}), jiffies ([0-9]{1,20})'
    r"(?: \(age (-?[0-9]{1,12}\.-?[0-9]{1,3})s\))?[ \t\r]*",
    re.DOTALL,
)
_HEX = re.compile(r"  hex dump \(first ([0-9]{1,18}) (bytes(?: on cpu [0-9]{1,6})?)\):[ \t\r]*")
_ROW = re.compile(r"    ([0-9a-f]{2}(?: [0-9a-f]{2}){0,15})(?:  .*|[ \r]*)")
_BACKTRACE = re.compile(r"  backtrace(?: \(crc ([0-9a-f]{1,8})\))?:[ \t\r]*")
_FRAME = re.compile(r"    (?:\[<([^<>]{1,64})>\])? ?(.*)")
#: What alone is a frame after lines of others.
_SURE_FRAME = re.compile(
    r"    (?:\[<[^<>]{1,64}>\] .+|[^\s+]{1,512}\+0x[0-9a-f]+/0x[0-9a-f]+.*|0x[0-9a-f]+\s*)"
)
_MORE = re.compile(r"  \.\.\. and ([0-9]{1,10}) more object\(s\) with the same backtrace[ \t\r]*")

#: Lines of a record, in the order in which they come.
_NONE, _OPEN, _NAMED, _DUMPED, _TRACED = range(5)
_PARTS = ('  comm "', "  hex dump (first ", "  backtrace")


class SkippedLine(NamedTuple):
    """A line that became no part of a record.

    Parameters
    ----------
    number
        Its number in the file, from 1.
    text
        Its beginning.
    reason
        What was wrong with it.
    """

    number: int
    text: str
    reason: str


@dataclass(slots=True)
class KernelReport:
    """What a log tells of leaks.

    Parameters
    ----------
    records
        The objects, in the order of the log: that of their allocation, in a kernel's report.
    path
        The file, as the user named it.
    format
        Name of the log's format.
    lines
        How many lines it has.
    malformed
        Lines that look like parts of a record and are none, the first `MAX_KEPT` of them.
    malformed_count
        How many there are.
    foreign
        Lines of others, which console logs are full of, the first `MAX_KEPT` of them.
    foreign_count
        How many there are.
    messages
        What kmemleak itself says beside its records, the first `MAX_KEPT` lines.
    incomplete
        Line number of each record that lacks something, and what, the first `MAX_KEPT`.
    incomplete_count
        How many there are.
    coverage
        The same in sentences.
    """

    records: tuple[KernelRecord, ...] = ()
    path: str = ""
    format: str = "kernel-report"
    lines: int = 0
    malformed: list[SkippedLine] = field(default_factory=list)
    malformed_count: int = 0
    foreign: list[SkippedLine] = field(default_factory=list)
    foreign_count: int = 0
    messages: list[SkippedLine] = field(default_factory=list)
    incomplete: list[SkippedLine] = field(default_factory=list)
    incomplete_count: int = 0
    coverage: Coverage = field(default_factory=Coverage)


class KernelReportFormat:
    """A kernel's report or log: any text, since one without leaks has nothing to know it by."""

    name = "kernel-report"

    def matches(self, head: bytes) -> bool:
        """Whether this is text, or a log that says so in spite of stray bytes."""
        return b"\0" not in head or _OBJECT.encode() in head

    def read(self, stream: BinaryIO, *, path: str = "") -> KernelReport:
        """Read the report; see `LogFormat`."""
        return parse_kernel_report(stream, path=path)


def parse_kernel_report(stream: BinaryIO, *, path: str = "") -> KernelReport:
    """Read a kernel's kmemleak report to its end.

    Text is UTF-8; other bytes become lone surrogates (``surrogateescape``), so that nothing is
    lost. Nothing in a log is an error: what is not understood is counted and kept.

    Parameters
    ----------
    stream
        Bytes of ``/sys/kernel/debug/kmemleak``, of dmesg, of a console's or a system's log.
    path
        How to call it.
    """
    report = KernelReport(path=path)
    reader = _Reader(report)
    records = list(reader.read(_lines(stream)))
    report.records = tuple(records)
    _tell(report)
    return report


def _lines(stream: BinaryIO) -> Iterator[str | None]:
    """Yield each line without its line feed; None for one longer than `MAX_LINE`."""
    tail, overlong = b"", False
    while piece := stream.read(_PIECE):
        end = piece.rfind(b"\n")
        if end < 0:
            overlong = overlong or len(tail) + len(piece) > MAX_LINE
            tail = b"" if overlong else tail + piece
            continue
        lines = (tail + piece[:end]).decode("utf-8", "surrogateescape").split("\n")
        if overlong:
            yield None
            del lines[0]
        for line in lines:
            yield line if len(line) <= MAX_LINE else None
        tail, overlong = piece[end + 1 :], False
    if overlong or len(tail) > MAX_LINE:
        yield None
    elif tail:
        yield tail.decode("utf-8", "surrogateescape")


class _Reader:
    """Reads lines one by one; holds the record that is being put together."""

    def __init__(self, report: KernelReport) -> None:
        self.report = report
        self.state = _NONE
        self.strip: Stripper | None = None  # None: nothing stands before the lines
        self.prefixed = False  # whether "kmemleak: " does
        self.crlf = False
        self.gap = 0
        self.named = False
        # Of a comm that is not complete yet: its lines, and as they stand in the file.
        self.comm_lines: list[str] = []
        self.comm_raw: list[tuple[int, str]] = []
        # The record's parts:
        self.line = self.address = self.size = self.pid = self.jiffies = self.wanted = 0
        self.space = self.comm = self.label = ""
        self.age: float | None = None
        self.content: bytearray | None = None
        self.crc: int | None = None
        self.frames: list[KernelFrame] = []
        self.more = 0
        # Backtraces repeat: one value for each frame.
        self.known_frames: dict[str, KernelFrame] = {}
        self.learned: dict[str, Stripper | None] = {}

    def read(self, lines: Iterator[str | None]) -> Iterator[KernelRecord]:
        """Yield the records; what else there is goes to the report."""
        number = 0
        for line in lines:
            number += 1
            if line is None:
                self._malformed(number, "", f"is longer than {MAX_LINE:,} characters")
                continue
            if _OBJECT in line:
                if self.state != _NONE:
                    yield self._finish()
                self._header(number, line)
            elif self.state == _NONE:
                self._outside(number, line)
            else:
                self._inside(number, line)
                if self.gap > _MAX_GAP:
                    yield self._finish()
        self.report.lines = number
        if self.state != _NONE:
            yield self._finish()

    def _header(self, number: int, line: str) -> None:
        at = line.index(_OBJECT)
        match = _HEADER.match(line, at)
        if match is None or match.end() != len(line):
            self._malformed(number, line, "the object's line is not complete")
            return
        before = line[:at]
        self.prefixed = before.endswith(KMEMLEAK)
        if self.prefixed:
            before = before[: -len(KMEMLEAK)]
        self.strip = None
        if before:
            if before not in self.learned:
                if len(self.learned) >= 64:
                    self.learned.clear()
                self.learned[before] = stripper(before)
            self.strip = self.learned[before]
            if self.strip is None:
                self._malformed(number, line, "too much stands before the object")
                return
        self.crlf = line.endswith("\r")
        self.state, self.line, self.gap, self.named = _OPEN, number, 0, False
        self.space = match[1] or ""
        self.address, self.size = int(match[2], 16), int(match[3])
        self.comm, self.pid, self.jiffies, self.age = "", 0, 0, None
        self.content, self.wanted, self.label = None, 0, "bytes"
        self.crc, self.frames, self.more = None, [], 0

    def _own(self, line: str) -> str | None:
        """Return what kmemleak printed in a line; None if another did."""
        at = 0
        if self.strip is not None:
            at = self.strip(line)
            if at < 0:
                return None
        if self.prefixed:
            if line.startswith(KMEMLEAK, at):
                at += len(KMEMLEAK)
            elif self.state != _DUMPED or not _ROW.fullmatch(line, at):
                # Some releases print the hex dump with nothing before it.
                return None
        return line[at:] if at else line

    def _inside(self, number: int, line: str) -> None:
        """Take a line while a record is open."""
        if self.comm_lines:
            self._more_comm(number, line)
            return
        own = self._own(line)
        if own is None:
            self._not_ours(number, line)
        elif own.startswith("    "):
            if not (self._row(own) if self.state == _DUMPED else self._frame(own)):
                self._unfit(number, line, own)
            else:
                self.gap = 0
        elif own.startswith('  comm "') and self.state == _OPEN:
            self.comm_raw = [(number, line)]
            self._named([own])
        elif own.startswith("  ") and self._part(own):
            self.gap = 0
        else:
            self._unfit(number, line, own)

    def _named(self, lines: list[str]) -> bool:
        match = _COMM.fullmatch("\n".join(lines))
        if match is None:
            self.comm_lines = lines
            return False
        comm, pid, jiffies, age = match.groups()
        # With carriage returns at every line's end, those inside the comm are the log's as well.
        self.comm = comm.replace("\r\n", "\n") if self.crlf else comm
        self.pid, self.jiffies = int(pid), int(jiffies)
        self.age = float(age.replace(".-", ".")) if age else None
        self.comm_lines, self.state, self.gap, self.named = [], _NAMED, 0, True
        return True

    def _more_comm(self, number: int, line: str) -> None:
        """Take a line after one whose comm did not end: it holds a line end."""
        # Only what a logger puts before a line is taken off: the kernel printed but one.
        at = self.strip(line) if self.strip is not None else 0
        lines = [*self.comm_lines, line[max(0, at) :]]
        self.comm_raw.append((number, line))
        if self._named(lines):
            return
        if len(lines) >= _MAX_COMM_LINES or sum(map(len, lines)) >= _MAX_COMM_TEXT:
            self._give_up_comm()

    def _give_up_comm(self) -> None:
        """Tell of a comm that never ended, and take the lines after its first for what they are."""
        raw = self.comm_raw
        self.comm_lines, self.comm_raw = [], []
        self._malformed(*raw[0], "the comm does not end")
        for number, line in raw[1:]:
            self._inside(number, line)

    def _part(self, own: str) -> bool:
        """Take a line that opens a part of the record."""
        if self.state in (_OPEN, _NAMED):
            match = _HEX.fullmatch(own)
            if match:
                self.state, self.wanted, self.label = _DUMPED, int(match[1]), match[2]
                self.content = bytearray()
                return True
        if self.state < _TRACED:
            match = _BACKTRACE.fullmatch(own)
            if match:
                self.state = _TRACED
                self.crc = int(match[1], 16) if match[1] else None
                return True
        elif not self.more:
            match = _MORE.fullmatch(own)
            if match:
                self.more = int(match[1])
                return True
        return False

    def _row(self, own: str) -> bool:
        match = _ROW.fullmatch(own)
        if match is None or self.content is None:
            return False
        row = bytes.fromhex(match[1])
        if len(self.content) + len(row) > self.wanted:
            return False
        self.content += row
        return True

    def _frame(self, own: str) -> bool:
        if self.state != _TRACED or len(self.frames) >= _MAX_FRAMES or self.more:
            return False
        if len(own) > _MAX_FRAME_TEXT or (self.gap and not _SURE_FRAME.fullmatch(own)):
            return False
        frame = self.known_frames.get(own)
        if frame is None:
            match = _FRAME.fullmatch(own)
            if match is None:
                return False
            frame = KernelFrame(match[1], match[2].strip())
            if frame == (None, ""):
                return False
            self.known_frames[own] = frame
        self.frames.append(frame)
        return True

    def _finish(self) -> KernelRecord:
        """Return the record, complete or not."""
        while self.comm_lines:
            self._give_up_comm()
        missing = [] if self.named else ["comm"]
        if self.content is not None and len(self.content) < self.wanted:
            missing.append(f"{self.wanted - len(self.content)} bytes of hex dump")
        if self.state < _TRACED:
            missing.append("backtrace")
        if missing:
            self.report.incomplete_count += 1
            if len(self.report.incomplete) < MAX_KEPT:
                text = f"object {self.address:#x}"
                self.report.incomplete.append(
                    SkippedLine(self.line, text, f"lacks its {', '.join(missing)}")
                )
        self.state = _NONE
        return KernelRecord(
            address=self.address,
            size=self.size,
            space=self.space,
            comm=self.comm,
            pid=self.pid,
            jiffies=self.jiffies,
            age=self.age,
            hex_bytes=None if self.content is None else bytes(self.content),
            hex_label=self.label,
            crc=self.crc,
            frames=tuple(self.frames),
            more=self.more,
            line=self.line,
        )

    def _outside(self, number: int, line: str) -> None:
        """Take a line that no record is open for."""
        if any(part in line for part in _PARTS) or _SURE_FRAME.fullmatch(line):
            self._malformed(number, line, "belongs to no object")
        else:
            self._not_ours(number, line)

    def _unfit(self, number: int, line: str, own: str) -> None:
        """Take a line that does not go on with the open record."""
        if own.startswith("Object 0x"):
            # dump=ADDR tells of an object that need not be a leak, in the log, in the same form.
            self.gap = _MAX_GAP
        if self.prefixed and not own.startswith("  "):
            self._message(number, own)
        elif not own.startswith("  ") and (looks_logged(line) or not line.strip()):
            self._not_ours(number, line)
        else:
            self.gap += 1
            self._malformed(number, line, "does not go on with the object before it")

    def _not_ours(self, number: int, line: str) -> None:
        self.gap += 1
        if KMEMLEAK in line:
            self._message(number, line)
        elif line.strip():
            self.report.foreign_count += 1
            if len(self.report.foreign) < MAX_KEPT:
                self.report.foreign.append(
                    SkippedLine(number, line[:200], "is no part of a report")
                )

    def _message(self, number: int, line: str) -> None:
        self.gap += 1
        if len(self.report.messages) < MAX_KEPT:
            at = line.find(KMEMLEAK)
            text = line[at + len(KMEMLEAK) :] if at >= 0 else line
            self.report.messages.append(SkippedLine(number, text[:200].rstrip(), "is a message"))

    def _malformed(self, number: int, line: str, reason: str) -> None:
        self.report.malformed_count += 1
        if len(self.report.malformed) < MAX_KEPT:
            self.report.malformed.append(SkippedLine(number, line[:200], reason))


def _tell(report: KernelReport) -> None:
    """Put into words what was counted."""
    told = (
        ("malformed-line", report.malformed_count, report.malformed,
         "of the report {is} not understood"),
        ("incomplete-object", report.incomplete_count, report.incomplete,
         "{has} lost a part"),
        ("foreign-line", report.foreign_count, report.foreign,
         "{is} no part of a report"),
    )  # fmt: skip
    for code, count, kept, what in told:
        if not count:
            continue
        noun = ("object" if "object" in code else "line") + ("" if count == 1 else "s")
        verbs = {"is": "is", "has": "has"} if count == 1 else {"is": "are", "has": "have"}
        where = ", ".join(str(line.number) for line in kept[:5])
        more = ", …" if count > 5 else ""
        where = f"line {where}" if count == 1 else f"lines {where}{more}"
        message = f"{count:,} {noun} {what.format(**verbs)} ({where})"
        report.coverage.add(f"log.{code}", message, count=count)
