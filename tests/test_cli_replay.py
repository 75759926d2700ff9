"""kmemleak replay: what it tells, in text and JSON, and its exit codes; events with raw memory."""

from __future__ import annotations

import json
from collections import Counter

import jsonschema
import pytest

from kmemleak_core import RawSource, UsageError, scan
from kmemleak_core.cli import main
from kmemleak_core.report.replay_json import SCHEMA_VERSION, replay_schema

LEAKY = """\
kind,address,size,time,trace
alloc,0x1000,100,1,\x1b[31mred
alloc,0x1100,100,2,\x1b[31mred
alloc,0x2000,4096,3,big
free,0x2000,,4,
alloc,0x3000,8,5,
free,0x1100,,6,
free,0x1100,,7,
free,0x1010,,8,
free,0x9999,,9,
alloc,0x3004,8,10,
free,0x3000,,11,
what,1,1,1,
"""


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "events.csv"
    path.write_text(LEAKY)
    return path


def run(capsys, *arguments):
    code = main(["replay", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


class TestText:
    def test_it_tells_what_is_live_and_what_was_wrong(self, capsys, log):
        code, out, _ = run(capsys, log)
        assert code == 1
        assert out.split("\n", 1)[1] == """
2 objects (108 B) live after 11 events; 1 overlap, 1 double free, 1 free inside an object, 2 frees
of unknown objects

Live objects

  1 object of 100 bytes
    by \\x1b[31mred
    allocated at 0x1000 by event 0 (time 1)

  1 object of 8 bytes
    allocated at 0x3004 by event 9 (time 10)

What was wrong
  event 9 (time 10) makes an object at 0x3004 over that of event 4 at 0x3000
  event 6 (time 7) frees 0x1100, which event 5 freed
  event 7 (time 8) frees 0x1010, which is inside the object of event 0
  event 8 (time 9) frees 0x9999, which nothing allocated
  event 10 (time 11) frees 0x3000, which ended when event 9 came over it

most bytes live: 4.3 kB, after event 2 (time 3)
most objects live: 3 objects, after event 2 (time 3)

not seen, or not understood:
""" + out[out.index("  " + str(log)):]  # fmt: skip
        assert "1 rows are no events and were left out, the first on line 13" in " ".join(
            out.split()
        )

    def test_the_rest_is_counted(self, capsys, log):
        _, out, _ = run(capsys, log, "--limit", 1)
        assert "and 1 more group: 1 object, 8 B (--limit 0 shows all)" in out
        assert "and 1 more frees of unknown objects" in out

    @pytest.mark.parametrize(
        ("sort", "first"), [("bytes", 100), ("objects", 100), ("size", 100), ("age", 100)]
    )
    def test_groups_can_be_sorted(self, capsys, log, sort, first):
        _, out, _ = run(capsys, log, "--sort", sort, "--json")
        assert json.loads(out)["groups"][0]["size"] == first

    def test_the_order_of_groups(self, capsys, tmp_path):
        path = tmp_path / "log"
        rows = ["+,16,50", *(f"+,{1024 + 16 * i},9" for i in range(8)), "+,8192,60"]
        path.write_text("\n".join(["kind,address,size", *rows]))
        order = {}
        for sort in ("bytes", "objects", "size", "age"):
            out = run(capsys, path, "--sort", sort, "--json")[1]
            order[sort] = [group["size"] for group in json.loads(out)["groups"]]
        assert order == {
            "bytes": [9, 60, 50], "objects": [9, 60, 50], "size": [60, 50, 9], "age": [50, 9, 60]
        }  # fmt: skip


class TestJson:
    def test_it_follows_its_schema(self, capsys, log):
        code, out, _ = run(capsys, log, "--json")
        document = json.loads(out)
        jsonschema.validate(document, replay_schema())
        assert code == 1
        assert document["version"] == SCHEMA_VERSION
        assert document["summary"] == {
            "events": 11, "live_objects": 2, "live_bytes": 108, "groups": 2, "null_events": 0,
            "overlaps": 1, "double_frees": 1, "interior_frees": 1, "unknown_frees": 2,
        }  # fmt: skip
        assert Counter(a["kind"] for a in document["anomalies"]) == Counter(
            ["overlap", "double_free", "interior_free", "unknown_free", "unknown_free"]
        )
        assert document["groups"][0]["oldest"] == {
            "event": 0, "address": "0x1000", "time": 1.0, "thread": None
        }  # fmt: skip

    def test_the_schema_is_one(self):
        jsonschema.Draft202012Validator.check_schema(replay_schema())

    def test_of_an_empty_moment(self, capsys, log):
        code, out, _ = run(capsys, log, "--json", "--at", 0)
        jsonschema.validate(json.loads(out), replay_schema())
        assert code == 0


class TestMoments:
    def test_after_an_event(self, capsys, log):
        code, out, _ = run(capsys, log, "--at", 1)
        assert code == 1
        assert "1 object (100 B) live after 1 event\n" in out

    def test_at_the_peak(self, capsys, log):
        _, out, _ = run(capsys, log, "--at", "peak")
        assert "3 objects (4.3 kB) live after 3 events\n" in out

    def test_at_what_is_no_event(self, capsys, log):
        assert run(capsys, log, "--at", "noon")[0] == 2


class TestExitCodes:
    @pytest.mark.parametrize(
        ("rows", "code"),
        [
            ("alloc,16,8\nfree,16\n", 0),
            ("alloc,16,8\n", 1),
            ("alloc,16,8\nfree,16\nfree,16\n", 1),
            ("free,16\n", 0),
            ("nothing\n", 3),
        ],
        ids=["clean", "live", "double free", "the log began late", "no log"],
    )
    def test_they_tell(self, capsys, tmp_path, rows, code):
        path = tmp_path / "log"
        path.write_text(rows)
        assert run(capsys, path, "-q")[0] == code

    def test_a_missing_log(self, capsys, tmp_path):
        code, _, err = run(capsys, tmp_path / "none")
        assert code == 3
        assert "no such file" in err

    def test_an_output_file_is_not_replaced(self, capsys, log, tmp_path):
        target = tmp_path / "out"
        assert run(capsys, log, "-o", target) == (1, "", "")
        assert run(capsys, log, "-o", target)[0] == 2
        assert run(capsys, log, "-o", target, "--force")[0] == 1
        assert target.read_text().startswith(str(log))


class TestRawMemory:
    """The live set of a log is what is scanned."""

    @pytest.fixture
    def memory(self, tmp_path):
        path = tmp_path / "memory"
        path.write_bytes((0x1000).to_bytes(8, "little") + bytes(0x3000))
        return f"0xff8:{path}"

    def test_live_objects_are_scanned(self, log, memory, tmp_path):
        roots = tmp_path / "roots"
        roots.write_text("kind,address,size\nmemory,0xff8,8\n")
        report = scan(RawSource((memory,), events=log, roots=roots))
        assert report.leaks["address"].tolist() == [0x3004]
        codes = [note.code for note in report.coverage]
        assert "events.malformed" in codes
        assert "events.double-free" in codes

    def test_the_command_takes_them(self, capsys, log, memory):
        assert main(["scan", "--memory", memory, "--events", str(log), "--list"]) == 1
        assert "1000 100 direct" in capsys.readouterr().out

    def test_events_or_objects(self, capsys, log, memory):
        code = main(["scan", "--memory", memory, "--events", str(log), "--objects", "x"])
        assert code == 2
        assert "--events" in capsys.readouterr().err
        with pytest.raises(UsageError, match="objects"):
            scan(RawSource((memory,)))

    def test_the_backtraces_of_a_log_are_those_of_its_leaks(self, memory, tmp_path):
        log = tmp_path / "traces.csv"
        log.write_text(
            "kind,address,size,trace\n"
            "alloc,0x3000,64,make; main\n"
            "alloc,0x1000,64,make;main\n"
            "alloc,0x2000,32,\n"
            "alloc,0x1800,32,\n"
            "free,0x2000,32,\n"
            "alloc,0x2800,16,helper\n"
        )
        report = scan(RawSource((memory,), events=log))
        told = {report.leaks[row].address: report.provenance.frames_of(row) for row in range(4)}
        assert told == {
            0x1000: ("make", "main"),
            0x1800: (),
            0x2800: ("helper",),
            0x3000: ("make", "main"),
        }
        assert {group.origin.frames: group.count for group in report.groups} == {
            ("make", "main"): 2,
            (): 1,
            ("helper",): 1,
        }
        assert "      make\n      main\n" in report.report()
