"""Event logs: tables, npz files and glibc's mtrace, from friends and from strangers."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmemleak_core.errors import DumpError, UsageError
from kmemleak_core.event_log import EventKind, EventLog
from kmemleak_core.logs.events import open_events, write_events
from kmemleak_core.replay import replay

ALLOC, FREE, FREE_PART, RESIZE = EventKind

ROWS = [
    {"kind": "alloc", "address": "0x1000", "size": 64, "time": 0.5, "trace": "f", "thread": 7},
    {"kind": "malloc", "address": 8192, "size": "0x20", "time": 1, "trace": "g", "thread": 8},
    {"kind": "free", "address": "0x1000", "time": "2.5", "thread": 7},
    {"kind": "free_part", "address": "0x2000", "size": 16, "time": 3, "trace": "f", "thread": 7},
]


def write(tmp_path, text, name="log"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def check(log):
    assert log.kind.tolist() == [ALLOC, ALLOC, FREE, FREE_PART]
    assert log.address.tolist() == [0x1000, 0x2000, 0x1000, 0x2000]
    assert log.size.tolist() == [64, 32, 0, 16]
    assert log.time.tolist() == [0.5, 1.0, 2.5, 3.0]
    assert log.trace.tolist() == [0, 1, -1, 0]
    assert log.thread.tolist() == [7, 8, 7, 7]
    assert [log.trace_name(t) for t in (0, 1, -1, 5)] == ["f", "g", "", "trace 5"]
    assert len(log.coverage) == 0


CSV = "".join(
    ",".join(str(row.get(name, "")) for name in ("kind", "address", "size", "time", "trace",
                                                 "thread")) + "\n"
    for row in ROWS
)  # fmt: skip


class TestTables:
    def test_csv_with_names_in_any_order_and_words(self, tmp_path):
        text = "thread,op,ptr,comment,bytes,caller,timestamp\n" + "".join(
            f"{r['thread']},{r['kind']},{r['address']},x,{r.get('size', '')},"
            f"{r.get('trace', '')},{r['time']}\n"
            for r in ROWS
        )
        check(open_events(write(tmp_path, text)))

    def test_csv_without_names(self, tmp_path):
        check(open_events(write(tmp_path, "# a comment\n" + CSV)))

    def test_jsonl(self, tmp_path):
        check(open_events(write(tmp_path, "\n".join(map(json.dumps, ROWS)))))

    def test_compressed(self, tmp_path):
        check(open_events(write(tmp_path, gzip.compress(CSV.encode()))))

    def test_what_is_not_told_is_not_there(self, tmp_path):
        log = open_events(write(tmp_path, "kind,address\n0,16\n1,16\n"))
        assert (log.time, log.trace, log.thread) == (None, None, None)
        assert log.size.tolist() == [0, 0]

    def test_threads_with_large_numbers_are_told_apart(self, tmp_path):
        text = "kind,address,thread\n+,1,0x7f0000000001\n+,2,0x7f0000000000\n-,1,0x7f0000000001\n"
        assert open_events(write(tmp_path, text)).thread.tolist() == [1, 0, 1]

    @pytest.mark.parametrize(
        ("row", "events"),
        [
            ("realloc,0x20,8,0x10", [(FREE, 0x10, 0), (ALLOC, 0x20, 8)]),
            ("realloc,0x20,8,", [(FREE, 0, 0), (ALLOC, 0x20, 8)]),
            ("realloc,0,8,0x10", [(FREE, 0, 0), (ALLOC, 0, 8)]),
            ("realloc,0,0,0x10", [(FREE, 0x10, 0), (ALLOC, 0, 0)]),
        ],
        ids=["moved", "new", "failed", "to nothing"],
    )
    def test_a_realloc_is_a_free_and_an_allocation(self, tmp_path, row, events):
        log = open_events(write(tmp_path, f"kind,address,size,old\n+,1,2,\n{row}\n-,1,,\n{row}\n"))
        found = list(zip(log.kind.tolist(), log.address.tolist(), log.size.tolist(), strict=True))
        assert found == [(ALLOC, 1, 2), *events, (FREE, 1, 0), *events]

    def test_malformed_rows_are_counted_with_the_first_line(self, tmp_path):
        text = "kind,address,size\nalloc,0x10,8\nwhat,0x10,8\nalloc,,8\nfree,-1,\n0,1,1,1\n9,1,1\n"
        log = open_events(write(tmp_path, text + "alloc,0xffffffffffffff00,0x100\nfree,0x10,\n"))
        assert log.kind.tolist() == [ALLOC, FREE]
        (note,) = log.coverage
        assert (note.code, note.count) == ("events.malformed", 6)
        assert "line 3" in note.message

    def test_times_that_are_none_are_malformed(self, tmp_path):
        text = "kind,address,time\n0,16,1e3\n0,32,soon\n0,48,nan\n0,64,\n"
        log = open_events(write(tmp_path, text))
        assert log.time.tolist() == [1000.0, 0.0]


class TestNpz:
    def test_what_is_written_is_read(self, tmp_path):
        log = open_events(write(tmp_path, CSV))
        write_events(log, tmp_path / "log.npz")
        check(open_events(tmp_path / "log.npz"))

    def test_an_existing_file_is_not_replaced(self, tmp_path):
        with pytest.raises(FileExistsError):
            write_events(EventLog.from_arrays([0], [1], [1]), write(tmp_path, "x"))

    def save(self, tmp_path, **arrays):
        np.savez(tmp_path / "log.npz", **arrays)
        return tmp_path / "log.npz"

    def test_events_that_cannot_be_are_left_out(self, tmp_path):
        path = self.save(
            tmp_path, kind=[0, -1, 4, 0, 0], address=[16, 16, 16, -5, 32], size=[1, 1, 1, 1, -1]
        )
        log = open_events(path)
        assert log.address.tolist() == [16]
        assert log.coverage.notes[0].count == 4

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"kind": [0]}, "'address'"),
            ({"kind": [0.5], "address": [1], "size": [1]}, "float64"),
            ({"kind": [0], "address": ["x"], "size": [1]}, "integers are wanted"),
            ({"kind": [0], "address": [1, 2], "size": [1]}, "differ in shape"),
            ({"kind": [9], "address": [1], "size": [1]}, "holds no events: 1 malformed"),
            ({"kind": [0], "address": [1], "trace": [1 << 40]}, "trace holds a number beyond"),
            ({"kind": [0], "address": [1], "time": [np.inf]}, "time is no number"),
            ({"kind": [0], "address": [1], "trace_names": [1]}, "no texts"),
        ],
    )
    def test_wrong_arrays_are_one_clear_error(self, tmp_path, arrays, message):
        with pytest.raises(DumpError, match=message):
            open_events(self.save(tmp_path, **arrays))


MTRACE = """\
= Start
@ ./m:[0x11c0] + 0x55d368cc24a0 0x64
@ /lib/libc.so.6:(__strdup+1a)[0x9e9aa] + 0x55d368cc22a0 0x6
@ ./m:[0x11e8] < 0x55d368cc24a0
@ ./m:[0x11e8] > 0x55d368cc24b0 0x1388
- 0x55d368cc22a0
@ ./a b:[0x1202] + 0x55d368cc22a0 0
@ ./m:[0x124d] ! 0x55d368cc24b0 0xffffffffffffff9c
+ (nil) 0xfffffffffffffff0
= End
"""


class TestMtrace:
    def test_each_line_is_an_event(self, tmp_path):
        log = open_events(write(tmp_path, MTRACE))
        assert log.format == "mtrace"
        assert log.kind.tolist() == [ALLOC, ALLOC, FREE, ALLOC, FREE, ALLOC, ALLOC]
        assert [hex(a)[-3:] for a in log.address[:-1].tolist()] == [
            "4a0", "2a0", "4a0", "4b0", "2a0", "2a0"
        ]  # fmt: skip
        assert log.size.tolist()[:6] == [100, 6, 0, 5000, 0, 0]
        assert [log.trace_name(t) for t in log.trace.tolist()[3:6]] == [
            "./m:[0x11e8]", "", "./a b:[0x1202]"
        ]  # fmt: skip
        assert replay(log).birth.tolist() == [3, 5]

    def test_lines_that_are_none_are_counted(self, tmp_path):
        text = MTRACE.replace("= End", "@ ./m + 0x10\nwhat\n@ x - 12\n= End")
        (note,) = open_events(write(tmp_path, text)).coverage
        assert note.count == 3
        assert "line 10" in note.message

    @pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler")
    def test_of_a_real_program(self, tmp_path):
        source = Path(__file__).parent / "real" / "programs" / "traced.c"
        program, trace = tmp_path / "traced", tmp_path / "trace"
        subprocess.run(["gcc", "-w", "-O0", "-o", program, source], check=True)
        done = subprocess.run(
            [program], capture_output=True, text=True, check=True,
            env={"MALLOC_TRACE": str(trace), "LD_PRELOAD": "libc_malloc_debug.so.0"},
        )  # fmt: skip
        if not trace.exists():
            pytest.skip("this libc has no mtrace")
        told = [tuple(int(n, 16) for n in line.split()) for line in done.stdout.splitlines()]
        log = open_events(trace)
        found = replay(log)
        assert sorted(zip(found.address.tolist(), found.size.tolist(), strict=True)) == sorted(told)
        assert not any(found.totals.values())
        assert len(log.coverage) == 0
        assert all("traced" in log.trace_name(g.trace) for g in found.groups())


class TestStrangers:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"", "is no log"),
            (b"\n\n", "is no log"),
            (b"\x7fELF\0\0\0", "begins with 7f 45 4c 46"),
            (b"kind,size\n0,1\n", "no column 'address'"),
            (b"hello world\n", "holds no events: 1 malformed rows, the first on line 1"),
            (b"PK\x03\x04junk", "npz"),
            (b"= Start\n= End\n", "holds no events"),
            (b"{}\n[]\n{", "holds no events: 3 malformed"),
        ],
    )
    def test_what_is_no_log_is_one_clear_error(self, tmp_path, text, message):
        with pytest.raises(DumpError, match=message):
            open_events(write(tmp_path, text))

    def test_a_format_can_be_asked_for(self, tmp_path):
        assert open_events(write(tmp_path, CSV), format="table").format == "table"
        with pytest.raises(UsageError, match="one of: npz, mtrace, table"):
            open_events(write(tmp_path, CSV), format="nope")

    @settings(
        max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(st.data())
    def test_any_damage_gives_a_log_or_a_typed_error(self, tmp_path, data):
        text = bytearray(data.draw(st.sampled_from([CSV.encode(), MTRACE.encode()])))
        for _ in range(data.draw(st.integers(0, 6))):
            at = data.draw(st.integers(0, len(text) - 1))
            text[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
            text = text or bytearray(b"x")
        try:
            log = open_events(write(tmp_path, bytes(text)))
        except DumpError:
            return
        replay(log)
