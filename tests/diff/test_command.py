"""The command and its faces: exit codes, JSON by its schema, what is redacted and escaped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

import kmemleak_core as km
from kmemleak_core.cli import main
from kmemleak_core.report.diff_json import SCHEMA_VERSION, diff_schema
from kmemleak_core.report.units import size_text

from .conftest import Grown


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main(["diff", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


class TestExitCode:
    def test_new_leaks_are_1_and_none_are_0(self, grown: Grown, capsys) -> None:
        assert run(capsys, grown.old, grown.new)[0] == 1
        assert run(capsys, grown.old, grown.old)[0] == 0
        assert run(capsys, grown.new, grown.old)[0] == 0

    @pytest.mark.parametrize(
        ("gate", "code"),
        [
            ("growth", 1),
            ("growth:100", 1),
            ("growth:10MB", 0),
            ("growth:100kB", 1),
            ("leaks:12", 1),
            ("leaks:13", 0),
            ("leaks:1B", 1),
            ("none", 0),
        ],
    )
    def test_gates(self, grown: Grown, capsys, gate: str, code: int) -> None:
        assert grown.difference.new_leaks.objects == 12
        done, _, err = run(capsys, "--fail-on", gate, grown.old, grown.new)
        assert done == code
        assert ("--fail-on" in err) is bool(code)

    def test_one_of_several_gates_is_enough(self, grown: Grown, capsys) -> None:
        gates = ("--fail-on", "growth:1G", "--fail-on", "leaks")
        assert run(capsys, *gates, grown.old, grown.new)[0] == 1

    def test_wrong_usage_is_2(self, grown: Grown, capsys, tmp_path: Path) -> None:
        assert run(capsys, "--fail-on", "direct", grown.old, grown.new)[0] == 2
        assert run(capsys, grown.old)[0] == 2
        bad = tmp_path / "bad.json"
        bad.write_text("{}")
        code, _, err = run(capsys, grown.old, bad)
        assert code == 2
        assert str(bad) in err

    def test_a_bad_dump_is_3(self, grown: Grown, capsys, tmp_path: Path) -> None:
        assert run(capsys, grown.old, tmp_path / "missing")[0] == 3
        (tmp_path / "text").write_text("nothing")
        code, _, err = run(capsys, tmp_path / "text", grown.new)
        assert code == 3
        assert "is a text file" in err

    def test_a_file_is_not_replaced_unasked(self, grown: Grown, capsys, tmp_path: Path) -> None:
        there = tmp_path / "there"
        there.write_text("mine")
        assert run(capsys, "-o", there, grown.old, grown.new)[0] == 2
        assert there.read_text() == "mine"
        assert run(capsys, "--force", "-o", there, grown.old, grown.new)[:2] == (1, "")
        assert "grew by" in there.read_text()


class TestText:
    def test_the_headlines_tell_growth_and_leaks(self, grown: Grown, capsys) -> None:
        _, out, _ = run(capsys, grown.old, grown.new)
        found = grown.difference
        growth = f"grew by {size_text(found.growth.nbytes)}: 2,027 objects more (2,047 new, 20 gone"
        leaks = f"12 new leaks ({size_text(found.new_leaks.nbytes)}), 5 of them in reach before"
        assert growth in out
        assert f"{leaks}, 3 as before" in out

    def test_the_next_command_is_given_and_works(self, grown: Grown, capsys) -> None:
        _, out, _ = run(capsys, grown.old, grown.new)
        line = next(line for line in out.splitlines() if "kmemleak explain" in line)
        _, _, command = line.partition("kmemleak ")
        assert main(command.split()) == 0
        assert "table+" in capsys.readouterr().out

    def test_the_table_of_holders_adds_up(self, grown: Grown, capsys) -> None:
        _, out, _ = run(capsys, "--limit", "0", grown.old, grown.new)
        rows = out.split("Who holds the growth\n")[1].split("\n\n")[0].splitlines()[1:]
        objects = sum(int(row.split()[2].replace(",", "")) for row in rows)
        assert objects == grown.difference.growth.objects

    def test_a_limit_is_told(self, grown: Grown, capsys) -> None:
        _, out, _ = run(capsys, "--limit", "1", grown.old, grown.new)
        assert "more (--limit 0 shows all)" in out
        assert out.count("kmemleak explain") < 5

    def test_small_objects_can_be_hidden(self, grown: Grown, capsys) -> None:
        _, out, _ = run(capsys, "--min-size", "500", grown.old, grown.new)
        assert "of 1,000 bytes" in out
        assert "of 56 bytes" not in out
        assert "--min-size hides" in out

    def test_groups_are_sorted(self, grown: Grown) -> None:
        by = {
            sort: [g.size for g in grown.difference.groups(3, sort=sort)]
            for sort in ("bytes", "count", "size")
        }
        assert by["bytes"] == [56, 1000, 24]
        assert by["count"][2] == 1000
        assert by["size"][0] == 1000

    def test_what_comes_from_a_dump_is_escaped(self, grown: Grown) -> None:
        old = grown.difference.old
        evil = "\x1b[31m<b>"
        holders = replace(old.holders, names=[evil, *list(old.holders.names)[1:]])
        identity = replace(old.identity, process={"name": evil, "arguments": evil})
        census = replace(old, holders=holders, identity=identity)
        found = km.diff(census, grown.difference.new)
        for text in (found.report(), found.report("json"), found._repr_html_()):
            assert "\x1b" not in text
        assert "<b>" not in found._repr_html_()


class TestJson:
    def test_it_fits_its_schema(self, grown: Grown, capsys) -> None:
        for pair in ((grown.old, grown.new), (grown.new, grown.again), (grown.old, grown.old)):
            _, out, _ = run(capsys, "--json", *pair)
            document = json.loads(out)
            jsonschema.validate(document, diff_schema())
            assert document["version"] == SCHEMA_VERSION

    def test_a_report_fits_it_too(self, grown: Grown, tmp_path: Path, capsys) -> None:
        path = tmp_path / "old.json"
        path.write_text(km.scan(grown.old).report("json"))
        code, out, _ = run(capsys, "--json", path, grown.new)
        document = json.loads(out)
        jsonschema.validate(document, diff_schema())
        assert code == 1
        assert document["compared"] == "leaks"
        assert [document[side]["what"] for side in ("old", "new")] == ["report", "dump"]

    def test_a_limit_holds_for_every_table(self, grown: Grown, capsys) -> None:
        _, everything, _ = run(capsys, "--json", grown.old, grown.new)
        _, some, _ = run(capsys, "--json", "--limit", "1", grown.old, grown.new)
        whole, part = json.loads(everything), json.loads(some)
        for name in ("holders", "modules", "anchors", "groups", "leak_groups"):
            assert len(part[name]) == 1
            assert len(whole[name]) == 1 + part[f"{name}_left_out"]

    def test_redacted_it_tells_nothing_of_the_arguments(self, grown: Grown, capsys) -> None:
        _, out, _ = run(capsys, "--json", "--redact", grown.old, grown.new)
        document = json.loads(out)
        assert document["redacted"]
        assert "arguments" not in document["old"]["process"]
        _, text, _ = run(capsys, "--redact", grown.old, grown.new)
        assert "arguments" not in text


def test_in_a_notebook(grown: Grown) -> None:
    found = grown.difference
    assert "grew by" in repr(found)
    assert "table in .bss of growing" in found._repr_html_()
    table = found.to_pandas()
    assert len(table) == found.tally()[0]
    assert table["bytes_after"].sum() - table["bytes_before"].sum() == found.growth.nbytes
    assert found.to_dict(limit=1)["groups"][0]["state"] == "grown"


def test_the_random_bytes_of_a_process_are_told_to_nobody(grown: Grown, capsys) -> None:
    _, out, _ = run(capsys, "--json", grown.old, grown.new)
    assert grown.difference.old.identity.start not in out
