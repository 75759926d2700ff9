"""What the renderers show of a report: text, list, JSON, the kernel's layout, HTML."""

from __future__ import annotations

import io
import json
import re
import shlex
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

import jsonschema
import numpy as np
import pytest

from kmemleak_core import AnalyseOptions, MemoryImage, ObjectTable, Roots, UsageError, scan_image
from kmemleak_core.cli.command import build_parser
from kmemleak_core.cli.scan_options import analyse_options
from kmemleak_core.heaps import Check
from kmemleak_core.leak_groups import group_leaks
from kmemleak_core.provenance import Origin
from kmemleak_core.report import (
    RenderOptions,
    Report,
    ReportSource,
    Summary,
    renderer,
    renderer_names,
)
from kmemleak_core.report.escape import printable, quoted
from kmemleak_core.report.hexdump import hex_rows
from kmemleak_core.report.json import SCHEMA_VERSION, schema
from kmemleak_core.report.kernel_layouts import KernelFrame, KernelRecord, format_record
from kmemleak_core.report.units import size_text

BASE = 0x10000
HOSTILE = "evil\x1b[31m\n\u202e[red]<b>&"
SECRET = b"secret password!"


def word(value: int) -> bytes:
    return value.to_bytes(8, "little")


def a_report(**changes: Any) -> Report:
    """Scan six objects: 0 is held; 1, 2 and 3 look alike; 1 leads to 4 and 5 (larger)."""
    contents = {
        1: word(BASE + 0x400) + SECRET,
        2: word(BASE) + SECRET,
        3: word(BASE) + SECRET,
        4: word(BASE + 0x500) + word(7),
    }
    memory = bytearray(0x600)
    for row, content in contents.items():
        memory[0x100 * row : 0x100 * row + len(content)] = content
    image = MemoryImage.from_segments([(BASE, bytes(memory))])
    order = [0, 3, 1, 2, 4, 5]
    objects = ObjectTable.from_arrays(
        [BASE + 0x100 * row for row in order], [{4: 48, 5: 96}.get(row, 32) for row in order]
    )
    result = scan_image(image, objects, Roots.from_ranges(words=[BASE]))
    leaks = result.leaks
    values: dict[str, Any] = {
        "source": ReportSource(
            path="core", format="elf-core", architecture="x86_64", process={"name": "prog"}
        ),
        "summary": Summary.of(objects, leaks),
        "leaks": leaks,
        "groups": group_leaks(leaks, image, objects),
        "allocator": "glibc",
        "counters": {"words": 1234567, "scan_seconds": 0.25, "heap_bytes": 2_000_000},
        "checks": [Check("system_mem", 5, 5)],
        "image": image,
        "result": result,
    }
    report = Report(**(values | changes))
    report.coverage.add("dump.truncated", "the file ends early", nbytes=4096, address=0x7000)
    return report


def hostile_report() -> Report:
    process = {"name": HOSTILE, "pid": HOSTILE, "arguments": HOSTILE}
    report = a_report(
        source=ReportSource(path=HOSTILE, process=process),
        checks=[Check(HOSTILE, 1, 2)],
        counters={HOSTILE: 1},
        allocator=HOSTILE,
    )
    report.coverage.add("x", HOSTILE)
    return report


class TestText:
    def test_the_headline_tells_what_leaked_of_what(self) -> None:
        assert (
            "5 objects (240 B) leaked of 6 (272 B) scanned: "
            "3 directly (96 B), 2 held only by other leaks (144 B)"
        ) in a_report().report(width=200)

    def test_without_leaks_it_says_so(self) -> None:
        empty = a_report().leaks[:0]
        objects = ObjectTable.from_arrays([BASE], [32])
        report = a_report(leaks=empty, groups=(), summary=Summary.of(objects, empty))
        assert "no leaks: 1 object (32 B) scanned" in report.report()

    def test_without_objects_it_does_not_claim_that_nothing_leaks(self) -> None:
        empty = a_report().leaks[:0]
        objects = ObjectTable.from_arrays([], [])
        report = a_report(leaks=empty, groups=(), summary=Summary.of(objects, empty))
        assert "no allocated object was found" in report.report()
        assert "no leaks" not in report.report()

    def test_direct_leaks_stand_apart_from_indirect_ones(self) -> None:
        text = a_report().report()
        direct, indirect = text.split("Indirectly leaked")
        assert "3 objects of 32 bytes, 96 B" in direct
        assert "1 object of 48 bytes" in indirect
        assert "1 object of 96 bytes" in indirect
        assert "of 48 bytes" not in direct

    def test_a_group_tells_what_only_it_leads_to(self) -> None:
        assert "lead to 2 more objects, 144 B, that nothing else leads to" in a_report().report()

    def test_a_group_shows_hex_and_ascii_of_an_example(self) -> None:
        lines = a_report().report().splitlines()
        at = lines.index("    for example 0x10300")  # the first allocated
        assert lines[at + 1].split("  ")[-1] == "........secret p"
        assert lines[at + 2].split("  ")[-1] == "assword!........"

    def test_hex_bytes_are_as_many_as_asked_for(self) -> None:
        text = a_report().report(hex_bytes=16)
        assert "secret p" in text
        assert "assword!" not in text

    def test_the_limit_says_what_it_left_out(self) -> None:
        text = a_report().report(limit=1)
        assert "and 1 more group: 1 object, 48 B" in text

    def test_small_leaks_can_be_left_out(self) -> None:
        text = a_report().report(min_size=90)
        assert "of 96 bytes" in text
        assert "of 48 bytes" not in text

    def test_missing_content_is_told(self) -> None:
        assert "its content is not in the dump" in a_report(image=None).report()

    def test_agreeing_checks_are_told(self) -> None:
        assert "heap walk agrees with the allocator's own sums: 1 of 1" in a_report().report()

    def test_failed_checks_show_both_figures(self) -> None:
        text = a_report(checks=[Check("system_mem", 5000, 7)]).report()
        assert "does not agree with the allocator's own sums: 0 of 1" in text
        assert "system_mem: the allocator says 5,000, the walk found 7" in text

    def test_coverage_comes_after_the_leaks(self) -> None:
        text = a_report().report()
        assert text.index("the file ends early (4.1 kB, at 0x7000)") > text.index("Indirectly")

    def test_counters_and_times_close_it(self) -> None:
        assert (
            a_report()
            .report()
            .endswith("counted: words 1,234,567, heap 2.0 MB\ntime: scan 0.25 s\n")
        )

    def test_what_was_not_counted_is_not_told(self) -> None:
        counters = {"words": 5, "free_chunks": 0, "unparsed_bytes": 0, "group_seconds": 0.004}
        assert a_report(counters=counters).report().endswith("counted: words 5\n")

    def test_the_command_tells_the_next_ones(self) -> None:
        source = ReportSource(path="the core", format="elf-core")
        lines = a_report(source=source).report(exit_code=1).splitlines()
        assert lines[-3] == "next:"
        assert lines[-2].endswith("  kmemleak explain 'the core' 0x10300")
        assert lines[-1].endswith("  kmemleak scan --format html -o report.html 'the core'")

    def test_the_next_commands_scan_as_this_one_did(self) -> None:
        asked = AnalyseOptions(
            no_roots=frozenset({"stacks", "registers"}), sysroot=Path("my root"), interior=False
        )
        report = a_report(options=asdict(asked))
        line = report.report(exit_code=1).splitlines()[-2]
        arguments = shlex.split(line.partition("kmemleak ")[2])
        told = build_parser(arguments).parse_args(arguments)
        assert (told.core, told.address) == (Path("core"), 0x10300)
        assert analyse_options(told) == asked

    def test_the_command_tells_how_to_read_shapes(self) -> None:
        for limit in ({}, {"min_size": 1000}):
            told = "obj: a pointer to an object" in " ".join(
                a_report().report(exit_code=1, **limit).split()
            )
            assert told is not bool(limit)

    def test_only_the_command_does_and_only_of_a_dump_with_leaks(self) -> None:
        empty = a_report(leaks=a_report().leaks[:0], groups=())
        raw = a_report(source=ReportSource(path="core", format="raw"))
        for text in (
            a_report().report(),
            empty.report(exit_code=0),
            raw.report(exit_code=1),
            a_report().report(exit_code=1, min_size=1000),
        ):
            assert "next:" not in text

    def test_a_shape_of_which_nothing_is_shared_is_left_out_beside_a_kind(self) -> None:
        report = a_report()
        (group,) = (g for g in report.groups if g.count == 3)
        told = {"origin": Origin(kind="kmalloc-32")}
        for shape, kind, title in (
            ("any×4", told, "96 B  kmalloc-32"),
            ("any×8 …", told, "96 B  kmalloc-32"),
            ("any×2·0", told, "96 B  kmalloc-32  [any×2·0]"),
            ("any×4", {}, "96 B  [any×4]"),
        ):
            text = a_report(groups=(replace(group, shape=shape, **kind),)).report()
            assert f"  3 objects of 32 bytes, {title}" in text.splitlines()

    def test_long_lines_are_wrapped_to_the_width(self) -> None:
        report = a_report(counters={f"counter_{i}": i for i in range(50)})
        prose = [line for line in report.report(width=60).splitlines() if "counter" in line]
        assert len(prose) > 5
        assert all(len(line) <= 60 for line in prose)

    def test_plain_streams_get_no_escapes(self) -> None:
        assert "\x1b" not in a_report().report()

    def test_colours_can_be_asked_for(self) -> None:
        assert "\x1b[1" in a_report().report(color=True)

    def test_colours_change_nothing_else(self) -> None:
        coloured = re.sub(r"\x1b\[[0-9;]*m", "", a_report().report(color=True, width=100))
        assert coloured == a_report().report(color=False, width=100)

    @pytest.mark.parametrize("setting", [("NO_COLOR", "1"), ("TERM", "dumb")])
    def test_a_terminal_can_refuse_colours(
        self, setting: tuple[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Terminal(io.StringIO):
            def isatty(self) -> bool:
                return True

        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        coloured = Terminal()
        renderer("text").render(a_report(), coloured, RenderOptions())
        assert "\x1b" in coloured.getvalue()
        monkeypatch.setenv(*setting)
        plain = Terminal()
        renderer("text").render(a_report(), plain, RenderOptions())
        assert "\x1b" not in plain.getvalue()


class TestList:
    def test_every_leak_is_one_line(self) -> None:
        lines = a_report().report("list", order="address").splitlines()
        assert lines[0].startswith("# address size kind")
        assert lines[1] == "0x0000000000010100 32 direct 0/1 0 -"
        assert lines[-1] == "0x0000000000010500 96 indirect 0/1 1 0x0000000000010100"
        assert len(lines) == 6

    @pytest.mark.parametrize(
        ("order", "rows"),
        [("allocation", "31245"), ("address", "12345"), ("size", "54123")],
    )
    def test_leaks_come_in_the_order_asked_for(self, order: str, rows: str) -> None:
        lines = a_report().report("list", order=order).splitlines()[1:]
        assert "".join(line.split()[0][-3] for line in lines) == rows

    def test_the_analysis_may_have_been_asked_for_an_order(self) -> None:
        lines = a_report(options={"order": "size"}).report("list").splitlines()
        assert lines[1].split()[1] == "96"

    def test_the_limit_leaves_a_note(self) -> None:
        lines = a_report().report("list", limit=2).splitlines()
        assert len(lines) == 4
        assert lines[-1] == "# 3 more"

    def test_small_leaks_can_be_left_out(self) -> None:
        lines = a_report().report("list", min_size=48).splitlines()
        assert [line.split()[1] for line in lines[1:]] == ["48", "96", "3"]
        assert lines[-1] == "# 3 hidden by filters"

    def test_32_bit_addresses_are_shorter(self) -> None:
        report = a_report(source=ReportSource(word_size=4))
        assert report.report("list").splitlines()[1].startswith("0x00010300 ")


class TestJson:
    def test_it_follows_its_schema(self) -> None:
        jsonschema.Draft202012Validator.check_schema(schema())
        for report in (a_report(), hostile_report()):
            for options in ({}, {"redact": True}, {"limit": 1}, {"min_size": 1000}):
                jsonschema.validate(json.loads(report.report("json", **options)), schema())

    def test_to_dict_is_the_same_document(self) -> None:
        assert a_report().to_dict() == json.loads(a_report().report("json"))

    def test_its_version_is_the_schema_s(self) -> None:
        assert schema()["properties"]["version"]["const"] == SCHEMA_VERSION
        assert a_report().to_dict()["version"] == SCHEMA_VERSION

    def test_addresses_are_hexadecimal_strings(self) -> None:
        leak = a_report().to_dict(order="address")["leaks"][-1]
        assert (leak["address"], leak["held_by"], leak["direct"]) == ("0x10500", "0x10100", False)

    def test_groups_hold_content(self) -> None:
        group = a_report().to_dict()["groups"][0]
        assert bytes.fromhex(group["example"]["content"])[8:24] == SECRET

    def test_a_limit_tells_what_it_left_out(self) -> None:
        document = a_report().to_dict(limit=1)
        assert (len(document["leaks"]), document["leaks_left_out"]) == (1, 4)
        assert (len(document["groups"]), document["groups_left_out"]) == (1, 2)

    def test_options_become_plain_values(self) -> None:
        options = {
            "pointer_mask": (1 << 64) - 1,
            "no_roots": frozenset({"tls", "data"}),
            "sysroot": Path("root"),
            "interior": True,
            "alignment": None,
        }
        assert a_report(options=options).to_dict()["options"] == {
            "pointer_mask": "0xffffffffffffffff",
            "no_roots": ["data", "tls"],
            "sysroot": "root",
            "interior": True,
            "alignment": None,
        }

    def test_no_leaks_are_an_empty_list(self) -> None:
        report = a_report(leaks=a_report().leaks[:0], groups=())
        assert json.loads(report.report("json"))["leaks"] == []

    def test_it_is_ascii(self) -> None:
        assert hostile_report().report("json").isascii()


class TestKernelLayout:
    def test_records_equal_the_kernel_s(self, shared_data: Path) -> None:
        report = shared_data / "vmcore" / "snap1" / "kernel_report.txt"
        if not report.is_file():
            pytest.skip(f"no kernel report at {report}")
        text = report.read_text(encoding="latin-1")
        records = re.split(r"(?m)^(?=unreferenced object )", text)[1:]
        assert len(records) == 41
        for given in records:
            assert "".join(f"{line}\n" for line in again(given)) == given

    def test_a_report_becomes_records_in_the_order_of_allocation(self) -> None:
        text = a_report().report("kmemleak")
        assert text.startswith(
            "unreferenced object 0x00010300 (size 32):\n"
            '  comm "prog", pid 0, jiffies 0\n'
            "  hex dump (first 32 bytes):\n"
            "    00 00 01 00 00 00 00 00 73 65 63 72 65 74 20 70  ........secret p\n"
        )
        assert text.count("unreferenced object") == 5

    def test_a_small_object_has_a_padded_row(self) -> None:
        lines = format_record(KernelRecord(0x1000, 3, hex_bytes=b"abc"), "6.1")
        assert lines[2:4] == ["  hex dump (first 3 bytes):", "    61 62 63" + " " * 41 + "abc"]

    def test_the_process_of_the_dump_is_named(self) -> None:
        report = a_report(source=ReportSource(process={"name": "prog", "pid": "12"}))
        assert '  comm "prog", pid 12, jiffies 0' in report.report("kmemleak")

    def test_a_line_end_in_a_name_does_not_break_the_record(self) -> None:
        assert hostile_report().report("kmemleak", limit=1).count("\n") == 6


def again(given: str) -> list[str]:
    """Take a kernel's record apart, and format what it says."""
    head = re.match(r"unreferenced object 0x([0-9a-f]+) \(size (\d+)\):\n", given)
    comm = re.search(r'(?m)^  comm "(.*)", pid (\d+), jiffies (\d+)$', given)
    assert head is not None
    assert comm is not None
    rows = re.findall(r"(?m)^    ((?:[0-9a-f]{2} ){1,16}) ", given)
    record = KernelRecord(
        int(head[1], 16),
        int(head[2]),
        comm=comm[1],
        pid=int(comm[2]),
        jiffies=int(comm[3]),
        hex_bytes=bytes.fromhex("".join(rows)),
        frames=tuple(
            KernelFrame(*frame) for frame in re.findall(r"(?m)^    \[<(.*)>\] (.*)$", given)
        ),
    )
    return format_record(record, "6.1")


class TestHtml:
    def test_it_shows_the_headline_and_the_groups(self) -> None:
        text = a_report()._repr_html_()
        assert "5 objects (240 B) leaked" in text
        assert text.count("<tr>") == 4

    def test_it_is_escaped(self) -> None:
        text = hostile_report()._repr_html_()
        assert "<b>&" not in text.replace("<b>", "", 1)
        assert "&lt;b&gt;&amp;" in text
        assert "\x1b" not in text


@pytest.mark.parametrize("name", ["text", "list", "json", "html", "kmemleak", "suppressions"])
class TestEveryFormat:
    def test_untrusted_text_never_reaches_a_terminal_raw(self, name: str) -> None:
        shown = hostile_report().report(name)
        assert all(c == "\n" or c.isprintable() for c in shown)

    def test_redaction_hides_content(self, name: str) -> None:
        shown = a_report().report(name, redact=True)
        assert "secret" not in shown
        assert SECRET.hex() not in shown
        assert SECRET[:8].hex(" ") not in shown

    def test_redaction_hides_arguments(self, name: str) -> None:
        report = a_report(source=ReportSource(process={"arguments": "--password hunter2"}))
        assert "hunter2" not in report.report(name, redact=True)

    def test_it_is_the_same_every_time(self, name: str) -> None:
        assert a_report().report(name) == a_report().report(name)


class TestReport:
    def test_an_unknown_format_names_the_known_ones(self) -> None:
        with pytest.raises(UsageError, match="text, list, json, html, kmemleak"):
            a_report().report("xml")

    def test_every_named_renderer_is_there(self) -> None:
        for name in renderer_names():
            assert renderer(name).name == name

    def test_an_installed_entry_point_adds_a_format(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Short:
            name = "short"

            def render(self, report: Report, out: TextIO, options: RenderOptions) -> None:
                out.write(f"{report.summary.leaked_objects} {options.limit}")

        class Entry:
            name = "short"

            def load(self) -> type[Short]:
                return Short

        def entry_points(group: str) -> list[Entry]:
            return [Entry()] if group == "kmemleak_core.reports" else []

        monkeypatch.setattr("importlib.metadata.entry_points", entry_points)
        assert renderer_names()[-1] == "short"
        assert a_report().report("short", limit=3) == "5 3"

    def test_its_repr_tells_the_figures(self) -> None:
        assert repr(a_report()) == (
            "<Report of 'core': 5 objects, 240 bytes leaked of 6 scanned, 3 directly>"
        )

    def test_content_ends_where_the_image_does(self) -> None:
        image = MemoryImage.from_segments([(0x10, b"abcd"), (0x14, b"efgh"), (0x20, b"ijkl")])
        report = a_report(image=image)
        assert report.content(0x12, 100) == b"cdefgh"
        assert report.content(0x15, 2) == b"fg"
        assert report.content(0x8, 4) == b""

    def test_the_summary_adds_up(self) -> None:
        s = a_report().summary
        assert (s.reachable_objects, s.reachable_bytes) == (1, 32)
        assert s.direct_objects + s.indirect_objects == s.leaked_objects == 5
        assert s.direct_bytes + s.indirect_bytes == s.leaked_bytes == 240


class TestPieces:
    def test_a_full_row_of_hex_has_ascii_in_column_49(self) -> None:
        (row,) = hex_rows(bytes(range(0x41, 0x51)))
        assert row.index("ABCDEFGHIJKLMNOP") == 49

    def test_whatever_is_not_printable_ascii_is_a_dot(self) -> None:
        (row,) = hex_rows(b"\x1b\x7f\x80\xffA~ ")
        assert row[49:] == "....A~ "

    def test_no_bytes_are_no_rows(self) -> None:
        assert list(hex_rows(b"")) == []

    @pytest.mark.parametrize(
        ("raw", "shown"),
        [
            ("plain näme", "plain näme"),
            ("a\x1b[0m", "a\\x1b[0m"),
            ("\u202ertl", "\\u202ertl"),
            ("\udc80", "\\udc80"),
            ("\U000e0001", "\\U000e0001"),
            ("\x9b", "\\x9b"),
        ],
    )
    def test_what_is_not_visible_is_escaped(self, raw: str, shown: str) -> None:
        assert printable(raw) == shown

    def test_quotes_inside_quoted_text_are_escaped(self) -> None:
        assert quoted('a"b\\') == '"a\\"b\\\\"'

    @pytest.mark.parametrize(
        ("nbytes", "shown"),
        [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (999_960, "1.0 MB"),
            (6_640_000, "6.6 MB"),
            (2**63, "9223.4 PB"),
        ],
    )
    def test_sizes_have_units(self, nbytes: int, shown: str) -> None:
        assert size_text(nbytes) == shown


def test_a_group_of_many_sizes_has_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kmemleak_core.leak_groups.MAX_GROUPS", 1)
    report = a_report()
    assert [g.size for g in report.groups] == [None]
    assert report.to_dict()["groups"][0]["size"] is None
    text = report.report()
    assert "3 objects, 96 B  [others]" in text
    assert "2 objects, 144 B  [others]" in text
    assert np.all(report.leaks["group"] == 0)
