"""Reading reports: real ones, console logs, and what is damaged or meant to do harm."""

from __future__ import annotations

import csv
import gzip
import io
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmemleak_core import DumpError, UsageError
from kmemleak_core.kernel_record import KernelFrame, KernelRecord
from kmemleak_core.logs import KernelReport, formats, open_log, parse_kernel_report
from kmemleak_core.logs.kernel_report import MAX_KEPT, MAX_LINE
from kmemleak_core.report.kernel_layouts import format_record

RECORD = KernelRecord(
    0xFFFF888003FE0000,
    40,
    comm="insmod",
    pid=120,
    jiffies=4294894946,
    hex_bytes=bytes(range(32)),
    frames=(
        KernelFrame("ffffffff81234567", "kmalloc_trace+0x11/0x20"),
        KernelFrame("ffffffffc0001000", "build+0x5/0x22 [kml_dev]"),
    ),
)
OTHER = KernelRecord(0xFFFF888003FE1000, 8, comm="b", hex_bytes=b"12345678")
LINES = format_record(RECORD, "6.1")

#: As in the README of the data.
BIG_COMMS = {
    'a"quote': 267,
    "hardirq": 256,
    "it's": 262,
    "kworker/0:1": 119,
    "kworker/1:0": 27,
    "kworker/1:1": 90,
    "paren(1) [x]": 267,
    "plain-name": 263,
    "semi;colon:x": 267,
    "softirq": 255,
    "tab\ttab": 267,
    "two words": 267,
    "{json: 1}": 267,
}


def parse(text: str | bytes) -> KernelReport:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    return parse_kernel_report(io.BytesIO(data))


def text_of(*records: KernelRecord, before: str = "", layout: str = "6.1") -> str:
    return "".join(f"{before}{ln}\n" for record in records for ln in format_record(record, layout))


def real(shared_data: Path, *names: str) -> Path:
    file = shared_data.joinpath("vmcore", *names)
    if not file.is_file():
        pytest.skip(f"no kernel report at {file}")
    return file


class TestRealReports:
    @pytest.mark.parametrize(("name", "count"), [("snap1", 41), ("snap2", 67), ("big", 1271)])
    def test_each_object_is_read_in_order(self, shared_data: Path, name: str, count: int) -> None:
        report = open_log(real(shared_data, name, "kernel_report.txt"))
        with real(shared_data, name, "expected.csv").open(encoding="latin-1", newline="") as table:
            expected = [
                (int(r["address"], 16), int(r["size"]), r["comm"], int(r["pid"]), int(r["jiffies"]))
                for r in csv.DictReader(table)
            ]
        assert len(expected) == count
        assert [(r.address, r.size, r.comm, r.pid, r.jiffies) for r in report.records] == expected
        assert list(report.coverage) == []

    def test_a_comm_with_a_line_end_is_one(self, shared_data: Path) -> None:
        report = open_log(real(shared_data, "big", "kernel_report.txt"))
        assert sum(record.comm == "f\ng" for record in report.records) == 222

    def test_the_big_one_has_all_objects_of_each_task(self, shared_data: Path) -> None:
        report = open_log(real(shared_data, "big_report.txt.zst"))
        assert len(report.records) == 2874
        assert Counter(record.comm for record in report.records) == BIG_COMMS
        assert all(record.frames for record in report.records)
        assert list(report.coverage) == []

    def test_it_reads_the_same_from_a_console(self, shared_data: Path) -> None:
        report = open_log(real(shared_data, "big", "kernel_report.txt"))
        lines = text_of(*report.records).split("\n")
        log = "".join(f"<4>[{i / 100:12.6f}][  T{i % 9}] {line}\n" for i, line in enumerate(lines))
        assert parse(log).records == report.records


class TestConsoleLogs:
    @pytest.mark.parametrize(
        "before",
        [
            "[   12.345678] kmemleak: ",
            "[   12.345678] ",
            "[12345.345678][  T123] kmemleak: ",
            "[   12.345678] [    T123] kmemleak: ",
            "<4>[   12.345678] kmemleak: ",
            "<4>",
            "[Sun Nov 22 16:10:01 2026] kmemleak: ",
            "kern  :warn  : [   12.345678] kmemleak: ",
            "4,1234,12345678,-;kmemleak: ",
            "Nov 22 16:10:01 host kernel: [   12.345678] kmemleak: ",
            "Nov  2 16:10:01 my-host kernel: kmemleak: ",
            "2026-11-22T16:10:01.123456+00:00 host kernel: kmemleak: ",
            "2026-11-22T16:10:01,123+0000 host kernel[0]: [   12.345678] kmemleak: ",
            "kmemleak: ",
            "> ",
            ">> | ",
            "        ",
            "16:10:01 runner-7 12 34 | [   12.345678] kmemleak: ",
        ],
    )
    def test_what_loggers_put_before_is_taken_off(self, before: str) -> None:
        report = parse(text_of(RECORD, OTHER, before=before))
        assert report.records == (RECORD, OTHER)
        assert list(report.coverage) == []

    def test_times_may_differ_from_line_to_line(self) -> None:
        log = "".join(f"{7 + i}:59 job {i} | {line}\n" for i, line in enumerate(LINES))
        assert parse(log).records == (RECORD,)

    @pytest.mark.parametrize("at", range(1, len(LINES)))
    @pytest.mark.parametrize("before", ["", "[   12.345678] kmemleak: "])
    def test_lines_of_others_between_do_no_harm(self, at: int, before: str) -> None:
        lines = [before + line for line in LINES]
        lines.insert(at, "[   12.345700] usb 1-1: new high-speed USB device")
        report = parse("\n".join(lines))
        assert report.records == (RECORD,)
        assert [line.number for line in report.foreign] == [at + 1]

    def test_the_stack_of_another_is_no_part_of_a_backtrace(self) -> None:
        log = text_of(RECORD, before="[   12.345678] kmemleak: ") + (
            "[   12.400000] Call Trace:\n"
            "[   12.400000]  <TASK>\n"
            "[   12.400000]  dump_stack_lvl+0x45/0x5a\n"
            "[   12.400000]     old_style+0x45/0x5a\n"
        )
        report = parse(log)
        assert report.records == (RECORD,)
        assert report.foreign_count == 4

    def test_an_object_that_was_only_asked_for_is_no_leak(self) -> None:
        dump = (
            "kmemleak: Object 0xffff888003fe2000 (size 8):\n"
            'kmemleak:   comm "c", pid 1, jiffies 2\n'
            "kmemleak:   min_count = 1\n"
            "kmemleak:   backtrace:\n"
            "kmemleak:     [<ffffffff81234567>] other+0x11/0x20\n"
        )
        report = parse(text_of(RECORD, before="kmemleak: ") + dump)
        assert report.records == (RECORD,)

    def test_what_kmemleak_says_beside_its_records_is_kept_apart(self) -> None:
        said = "[ 66.0] kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)\n"
        report = parse(said + text_of(RECORD, before="[   12.345678] kmemleak: ") + said)
        assert [m.text for m in report.messages] == [
            "2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)"
        ] * 2
        assert report.records == (RECORD,)
        assert list(report.coverage) == []

    def test_objects_that_the_log_only_counts_are_counted(self) -> None:
        log = text_of(RECORD) + "  ... and 41 more object(s) with the same backtrace\n"
        assert parse(log).records[0].more == 41

    def test_carriage_returns_of_a_serial_line_are_no_part_of_it(self) -> None:
        record = KernelRecord(0x1000, 1, comm="f\ng", frames=(KernelFrame(None, "f+0x1/0x2"),))
        assert parse(text_of(record, layout="6.8").replace("\n", "\r\n")).records == (record,)

    def test_records_of_several_layouts_can_follow_each_other(self) -> None:
        new = KernelRecord(0x1000, 1, crc=7, frames=(KernelFrame(None, "f+0x1/0x2"),))
        log = text_of(RECORD) + text_of(new, layout="6.8") + text_of(OTHER, before="[  1.0] ")
        assert parse(log).records == (RECORD, new, OTHER)

    def test_a_frame_that_ends_an_old_backtrace_is_read(self) -> None:
        log = text_of(RECORD) + "    [<ffffffffffffffff>] 0xffffffffffffffff\n"
        assert parse(log).records[0].frames[-1] == ("ffffffffffffffff", "0xffffffffffffffff")


class TestDamage:
    def test_an_empty_report_has_no_leaks(self) -> None:
        report = parse("")
        assert (report.records, report.lines, list(report.coverage)) == ((), 0, [])

    @pytest.mark.parametrize("missing", range(1, len(LINES)))
    def test_an_object_that_lost_a_line_is_an_object_still(self, missing: int) -> None:
        lines = LINES[:missing] + LINES[missing + 1 :]
        report = parse("\n".join(lines) + "\n" + text_of(OTHER))
        assert [record.address for record in report.records] == [RECORD.address, OTHER.address]
        if missing < len(LINES) - 2:  # that a frame is missing, nobody can tell
            codes = {note.code for note in report.coverage}
            assert codes & {"log.incomplete-object", "log.malformed-line"}

    def test_what_is_missing_is_told(self) -> None:
        report = parse("\n".join([LINES[0], *LINES[2:4]]))
        assert report.incomplete == [
            (1, "object 0xffff888003fe0000", "lacks its comm, 16 bytes of hex dump, backtrace")
        ]
        assert [(n.code, n.message) for n in report.coverage] == [
            ("log.incomplete-object", "1 object has lost a part (line 1)")
        ]

    def test_a_log_that_begins_inside_a_record_says_so(self) -> None:
        report = parse("\n".join(LINES[1:]) + "\n" + text_of(OTHER))
        assert report.records == (OTHER,)
        assert report.malformed_count + report.foreign_count == len(LINES) - 1
        assert [line.number for line in report.malformed] == [1, 2, 5, 6, 7]

    def test_a_comm_that_does_not_end_takes_nothing_with_it(self) -> None:
        lines = [LINES[0], LINES[1][:12], *LINES[2:]]
        report = parse("\n".join(lines))
        assert report.records[0].frames == RECORD.frames
        assert report.records[0].hex_bytes == RECORD.hex_bytes
        assert [(line.number, line.reason) for line in report.malformed] == [
            (2, "the comm does not end")
        ]

    def test_nothing_is_dropped_silently(self) -> None:
        junk = "???\n"
        report = parse(junk * 3 + text_of(RECORD) + junk * 2)
        assert report.records == (RECORD,)
        assert report.foreign_count + report.malformed_count == 5
        assert sum(note.count for note in report.coverage) == 5

    def test_so_much_of_it_is_kept_and_all_is_counted(self) -> None:
        report = parse("?\n" * (MAX_KEPT + 10))
        assert len(report.foreign) == MAX_KEPT
        assert report.foreign_count == MAX_KEPT + 10

    @pytest.mark.parametrize(
        "header",
        [
            "unreferenced object 0xffff (size 8",
            "unreferenced object",
            "unreferenced object 0x10000000000000000 (size 8):",
            "unreferenced object 0xffff (size " + "9" * 5000 + "):",
            "unreferenced object (huge) 0xffff (size 8):",
            "x" * 1000 + "unreferenced object 0xffff (size 8):",
        ],
    )
    def test_a_header_that_is_none_is_told(self, header: str) -> None:
        report = parse(text_of(RECORD) + header + "\n" + text_of(OTHER))
        assert report.records == (RECORD, OTHER)
        assert report.malformed[0].number == len(LINES) + 1

    def test_bytes_that_are_no_utf_8_are_kept(self) -> None:
        report = parse(text_of(RECORD).encode().replace(b"insmod", b"caf\xe9"))
        assert report.records[0].comm.encode("utf-8", "surrogateescape") == b"caf\xe9"

    def test_a_line_too_long_is_counted_and_passed_over(self) -> None:
        long = b"x" * (MAX_LINE + 1)
        huge = b"y" * (3 << 20)
        data = long + b"\n" + huge + b"\n" + text_of(RECORD).encode() + huge
        report = parse(data)
        assert report.records == (RECORD,)
        assert [line.number for line in report.malformed] == [1, 2, 3 + len(LINES)]

    def test_pieces_end_anywhere(self) -> None:
        class Dribble(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                return super().read(7)

        text = text_of(RECORD, KernelRecord(0x1000, 1, comm="é\né"), OTHER)
        assert parse_kernel_report(Dribble(text.encode())).records == parse(text).records

    @pytest.mark.parametrize(
        "data",
        [
            b'  comm "' + b'", pid 1' * 8000,
            b"unreferenced object 0x1 (size 1):\n" + (b'  comm "\n' * 20000),
            (b"unreferenced object 0x1 (size 1):\n" + b'  comm "' + b'a", pid ' * 6000 + b"\n")
            * 20,
            b"unreferenced object 0x1 (size 1):\n  backtrace:\n"
            + (b"    " + b"f.cold" * 9000 + b"\n") * 50,
            (b"1 2 3 4 5 6 7 8 9 " * 14 + b"unreferenced object 0x1 (size 1):\n")
            + (b"1 " * 30000 + b"\n") * 20,
            (b"[ 1.0]" * 10000 + b"\n") * 20,
            b"unreferenced object 0x1 (size 1):\n  hex dump (first 999999999999999999 bytes):\n"
            + b"    00\n" * 100000,
        ],
    )
    @pytest.mark.timeout(60)
    def test_what_is_meant_to_take_for_ever_does_not(self, data: bytes) -> None:
        assert parse(data).lines > 0

    @given(st.lists(st.sampled_from([*LINES, "", "x", "kmemleak: y", LINES[1][:9], "    zz"])))
    @settings(max_examples=200, deadline=None)
    def test_each_line_is_a_part_of_a_record_or_counted(self, lines: list[str]) -> None:
        report = parse("".join(f"{line}\n" for line in lines))
        assert report.lines == len(lines)
        assert len(report.records) == lines.count(LINES[0])

    @given(st.binary(max_size=400))
    @settings(max_examples=200, deadline=None)
    def test_any_bytes_can_be_read(self, data: bytes) -> None:
        parse(data)
        parse(text_of(RECORD).encode() + data + text_of(OTHER).encode())


class TestOpening:
    def test_a_compressed_report_is_read(self, tmp_path: Path) -> None:
        file = tmp_path / "report.gz"
        file.write_bytes(gzip.compress(text_of(RECORD).encode()))
        report = open_log(file)
        assert report.records == (RECORD,)
        assert report.path == str(file)

    def test_a_cut_off_one_tells_so(self, tmp_path: Path) -> None:
        noise = "".join(random.Random(1).choices("abcdefgh \n", k=400_000))
        file = tmp_path / "report.gz"
        packed = gzip.compress((text_of(RECORD) + noise).encode())
        file.write_bytes(packed[: len(packed) // 2])
        report = open_log(file)
        assert report.records[0].address == RECORD.address
        assert "dump.truncated" in [note.code for note in report.coverage]

    def test_what_is_no_text_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "core"
        file.write_bytes(b"\x7fELF\2\1\1" + bytes(100))
        with pytest.raises(DumpError, match="no report of leaks"):
            open_log(file)

    def test_a_missing_file_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(DumpError, match="no such file"):
            open_log(tmp_path / "none")
        with pytest.raises(DumpError, match="is a directory"):
            open_log(tmp_path)

    def test_a_format_can_be_named(self, tmp_path: Path) -> None:
        file = tmp_path / "report"
        file.write_text(text_of(RECORD))
        assert open_log(file, format="kernel-report").records == (RECORD,)
        with pytest.raises(UsageError, match="kernel-report"):
            open_log(file, format="mtrace")

    def test_entry_points_come_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Mine:
            name = "mine"

            def matches(self, head: bytes) -> bool:
                return head.startswith(b"MINE")

            def read(self, stream: io.BufferedIOBase, *, path: str = "") -> KernelReport:
                return KernelReport(records=(OTHER,), path=path, format="mine")

        class Entry:
            def load(self) -> type[Mine]:
                return Mine

        def entry_points(*, group: str) -> Iterator[Entry]:
            return iter([Entry()] if group == "kmemleak_core.logs" else [])

        monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
        assert [f.name for f in formats()] == ["mine", "kernel-report"]
        file = tmp_path / "log"
        file.write_bytes(b"MINE\n")
        assert open_log(file).records == (OTHER,)
        file.write_text(text_of(RECORD))
        assert open_log(file).records == (RECORD,)
