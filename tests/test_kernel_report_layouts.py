"""The records of every layout that a kernel's kmemleak has printed: written, and read again."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmemleak_core import UsageError
from kmemleak_core.kernel_record import KernelFrame, KernelRecord
from kmemleak_core.logs import KernelReport, parse_kernel_report
from kmemleak_core.report.kernel_layouts import LAYOUTS, Layout, format_record, layout_named

RECORD = KernelRecord(
    0xFFFFA09B40960740,
    40,
    comm="insmod",
    pid=120,
    jiffies=4294894946,
    age=12.05,
    hex_bytes=bytes(16) + b"the quick",
    crc=0x1A2B,
    frames=(
        KernelFrame("ffffffff81234567", "kmalloc_trace+0x11/0x20"),
        KernelFrame("(____ptrval____)", "build+0x5/0x22 [kml_dev]"),
    ),
)
NAMES = list(LAYOUTS)


def parse(text: str) -> KernelReport:
    return parse_kernel_report(io.BytesIO(text.encode("utf-8", "surrogateescape")))


def printed(records: list[KernelRecord], layout: str) -> str:
    return "".join(f"{line}\n" for record in records for line in format_record(record, layout))


class TestLayouts:
    def test_2_6_31_prefixes_each_line_and_dumps_nothing(self) -> None:
        assert format_record(RECORD, "2.6.31") == [
            "kmemleak: unreferenced object 0xffffa09b40960740 (size 40):",
            'kmemleak:   comm "insmod", pid 120, jiffies 4294894946',
            "kmemleak:   backtrace:",
            "kmemleak:     [<ffffffff81234567>] kmalloc_trace+0x11/0x20",
            "kmemleak:     [<(____ptrval____)>] build+0x5/0x22 [kml_dev]",
        ]

    @pytest.mark.parametrize("layout", ["2.6.32", "6.1"])
    def test_2_6_32_and_the_6_1_series_dump_hex_and_tell_no_age(self, layout: str) -> None:
        assert format_record(RECORD, layout) == [
            "unreferenced object 0xffffa09b40960740 (size 40):",
            '  comm "insmod", pid 120, jiffies 4294894946',
            "  hex dump (first 25 bytes):",
            "    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  ................",
            "    74 68 65 20 71 75 69 63 6b                       the quick",
            "  backtrace:",
            "    [<ffffffff81234567>] kmalloc_trace+0x11/0x20",
            "    [<(____ptrval____)>] build+0x5/0x22 [kml_dev]",
        ]

    def test_3_2_tells_the_age_in_milliseconds(self) -> None:
        assert (
            format_record(RECORD, "3.2")[1]
            == '  comm "insmod", pid 120, jiffies 4294894946 (age 12.050s)'
        )

    def test_6_8_tells_the_checksum_and_no_frame_addresses(self) -> None:
        assert format_record(RECORD, "6.8")[-3:] == [
            "  backtrace (crc 1a2b):",
            "    kmalloc_trace+0x11/0x20",
            "    build+0x5/0x22 [kml_dev]",
        ]

    def test_6_8_names_per_cpu_and_physical_objects(self) -> None:
        percpu = KernelRecord(
            0x607F, 2, space="percpu", hex_bytes=b"ab", hex_label="bytes on cpu 3", crc=0
        )
        assert format_record(percpu, "6.8") == [
            "unreferenced object (percpu) 0x0000607f (size 2):",
            '  comm "", pid 0, jiffies 0',
            "  hex dump (first 2 bytes on cpu 3):",
            "    61 62                                            ab",
            "  backtrace (crc 0):",
        ]
        assert format_record(KernelRecord(0x1000, 64, space="phys"), "6.8") == [
            "unreferenced object (phys) 0x00001000 (size 64):",
            '  comm "", pid 0, jiffies 0',
            "  backtrace:",
        ]

    def test_older_ones_do_not(self) -> None:
        percpu = KernelRecord(0x607F, 2, space="percpu", hex_bytes=b"", hex_label="bytes on cpu 3")
        text = printed([percpu], "6.1")
        assert "unreferenced object 0x0000607f (size 2):\n" in text
        assert "(first 0 bytes):\n" in text

    def test_an_address_that_is_not_known_is_printed_as_the_kernel_prints_one(self) -> None:
        record = KernelRecord(0x1000, 1, frames=(KernelFrame(None, "f+0x1/0x2"),))
        assert format_record(record, "6.1")[-1] == "    [<(____ptrval____)>] f+0x1/0x2"

    def test_a_comm_is_printed_raw(self) -> None:
        text = printed([KernelRecord(0x1000, 1, comm='a"\t\n\x1b[0m')], "6.8")
        assert '  comm "a"\t\n\x1b[0m", pid 0' in text

    def test_a_comm_is_no_longer_than_the_kernel_s_so_that_none_can_hold_a_record(self) -> None:
        comm = '", pid 1, jiffies 2\n  backtrace:\nunreferenced object 0x1 (size 1):'
        assert len(parse(printed([KernelRecord(0x1000, 1, comm=comm)], "6.8")).records) == 1

    def test_control_characters_of_a_symbol_are_escaped(self) -> None:
        record = KernelRecord(0x1000, 1, frames=(KernelFrame(None, "a\nb\x1b"),))
        assert format_record(record)[-1] == r"    a\x0ab\x1b"

    @pytest.mark.parametrize(
        ("release", "layout"),
        [
            ("2.6.31", "2.6.31"),
            ("2.6.38", "2.6.32"),
            ("3.0", "2.6.32"),
            ("3.2", "3.2"),
            ("4.19", "3.2"),
            ("6.0.12", "3.2"),
            ("6.1", "6.1"),
            ("6.1.192", "6.1"),
            ("6.6", "3.2"),
            ("6.8", "6.8"),
            ("7.1-rc3", "6.8"),
        ],
    )
    def test_a_release_of_linux_names_its_layout(self, release: str, layout: str) -> None:
        assert layout_named(release).name == layout

    @pytest.mark.parametrize("name", ["", "2.6.30", "new", "x6.8"])
    def test_others_are_refused(self, name: str) -> None:
        with pytest.raises(UsageError, match=r"2\.6\.31, 2\.6\.32"):
            layout_named(name)


comms = st.text(
    st.one_of(
        st.sampled_from("\"\t\n\r(){}[]<>:;,' \x1b\x7fé\udce9ab01"),
        st.characters(codec="utf-8", exclude_characters="\0"),
    ),
    max_size=15,
).filter(lambda comm: len(comm) <= 15)
tricky = st.sampled_from(
    [
        '", pid 1, jiff',
        '", pid 0',
        '"',
        '\n"',
        "\n    00 01  ab",
        "\n  backtrace:",
        "\n\n\n",
        "\n[ 1.000000] x",
        "a\nkmemleak: b",
        "kmemleak: ",
        "\r",
        "\r\n",
        "<4>",
        "\n> ",
    ]
)
symbols = st.one_of(
    st.from_regex(r"\A[a-z_]{1,20}(\.cold)?\+0x[0-9a-f]{1,4}/0x[0-9a-f]{1,4}( \[[a-z_]+\])?\Z"),
    st.from_regex(r"\A0x[0-9a-f]{16}\Z"),
)
addresses = st.one_of(st.just("(____ptrval____)"), st.from_regex(r"\A[0-9a-f]{8,16}\Z"))


@st.composite
def records(draw: st.DrawFn, layout: Layout) -> KernelRecord:
    """Any record that a layout can tell in full."""
    space = draw(st.sampled_from(["", "phys", "percpu"])) if layout.spaces else ""
    label = "bytes"
    if space == "percpu":
        label = f"bytes on cpu {draw(st.integers(0, 4095))}"
    content = None
    if layout.content and space != "phys":
        content = draw(st.binary(max_size=40))
    if content is None:
        label = "bytes"
    address = addresses if layout.addresses else st.none()
    return KernelRecord(
        address=draw(st.integers(0, 2**64 - 1)),
        size=draw(st.integers(0, 2**64 - 1)),
        space=space,
        comm=draw(comms | tricky),
        pid=draw(st.integers(0, 2**22)),
        jiffies=draw(st.integers(0, 2**64 - 1)),
        age=draw(st.integers(0, 2**32 - 1)) / 1000 if layout.age else None,
        hex_bytes=content,
        hex_label=label,
        crc=draw(st.integers(0, 2**32 - 1)) if layout.checksum else None,
        frames=tuple(draw(st.lists(st.builds(KernelFrame, address, symbols), max_size=16))),
        more=draw(st.sampled_from([0, 0, 0, 1, 4000])),
    )


@st.composite
def reports(draw: st.DrawFn) -> tuple[str, list[KernelRecord]]:
    name = draw(st.sampled_from(NAMES))
    return name, draw(st.lists(records(LAYOUTS[name]), max_size=4))


class TestRoundTrip:
    @given(reports())
    @settings(max_examples=200, deadline=None)
    def test_what_was_written_is_read(self, given_report: tuple[str, list[KernelRecord]]) -> None:
        layout, written = given_report
        report = parse(printed(written, layout))
        assert list(report.records) == written
        assert list(report.coverage) == []

    @given(reports())
    @settings(max_examples=200, deadline=None)
    def test_so_it_is_from_dmesg(self, given_report: tuple[str, list[KernelRecord]]) -> None:
        layout, written = given_report
        lines = []
        for record in written:
            for line in format_record(record, layout):
                text = line.removeprefix("kmemleak: ")
                # One message of several lines: each gets the time, only the first the name.
                first, *others = text.split("\n")
                lines.append(f"[   12.345678] kmemleak: {first}\n")
                lines += [f"[   12.345678] {other}\n" for other in others]
        report = parse("".join(lines))
        assert list(report.records) == written
        assert list(report.coverage) == []

    @pytest.mark.parametrize("name", ["snap1", "snap2", "big"])
    def test_a_real_report_comes_out_byte_for_byte(self, shared_data: Path, name: str) -> None:
        file = shared_data / "vmcore" / name / "kernel_report.txt"
        if not file.is_file():
            pytest.skip(f"no kernel report at {file}")
        with file.open("rb") as stream:
            report = parse_kernel_report(stream)
        assert printed(list(report.records), "6.1").encode() == file.read_bytes()
