"""A cluster as other tools draw it: DOT, GraphML and JSON, and the command that writes them."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import networkx as nx
import pytest

from kmemleak_core import MemoryImage, ObjectTable, Report, Roots, UsageError, scan, scan_image
from kmemleak_core.cli import main
from kmemleak_core.dumps.capture import capture
from kmemleak_core.report.cluster import Cluster, find_cluster
from kmemleak_core.report.cluster_dot import write_dot
from kmemleak_core.report.cluster_graphml import write_graphml
from kmemleak_core.report.cluster_json import schema, write_json

from .builders.programs import compile_c, running
from .html.made import made
from .test_cli_command import Memory, clean, leaky
from .test_report_formats import BASE, HOSTILE, a_report, word
from .test_suppressions import origins

__all__ = ["clean", "leaky"]  # fixtures

#: A list of five nodes, each with its successor and the last one, whose addresses are told.
LIST = """
#include <stdio.h>
#include <stdlib.h>
struct node { struct node *next, *last; char text[24]; };
static struct node *nodes[5];
int main(void) {
    puts("ready");
    for (int i = 0; i < 5; i++) {
        nodes[i] = calloc(1, sizeof **nodes);
        printf("%p\\n", (void *)nodes[i]);
        if (i) { nodes[i]->next = nodes[i - 1]; nodes[i]->last = nodes[0]; }
    }
    for (int i = 0; i < 5; i++) nodes[i] = NULL;
    fflush(stdout);
    getchar();
}
"""

WRITERS = {"dot": write_dot, "graphml": write_graphml, "json": write_json}

#: What would end a string, a label, an element or a graph, or be read as something else.
NASTY = '"];\n}<b>&amp;&lt;]]>\\N\\"\\\\{|}<>\x00\x1b[31m\u202e' + HOSTILE


def written(cluster: Cluster, form: str) -> str:
    out = io.StringIO()
    WRITERS[form](cluster, out)
    return out.getvalue()


def ring() -> Report:
    """Scan four leaks: 0 → 1 by two words, 1 → 2, 2 → 0; 3 leads to 1."""
    words = [[1, 1], [2], [0], [1]]
    memory = b"".join(b"".join(word(BASE + 64 * t) for t in row).ljust(64, b"\0") for row in words)
    image = MemoryImage.from_segments([(BASE, memory)])
    objects = ObjectTable.from_arrays([BASE + 64 * i for i in range(4)], [48, 48, 48, 48])
    result = scan_image(image, objects, Roots())
    return a_report(result=result, leaks=result.leaks, groups=(), image=image)


def nasty() -> Report:
    """Return a report whose dump, and all kinds in it, have names of the worst."""
    report = a_report(provenance=origins(*[(NASTY, ())] * 5))
    object.__setattr__(report.source, "path", NASTY)
    return report


class TestCluster:
    def test_an_address_anywhere_in_a_leak_chooses_its_cluster(self) -> None:
        report = ring()
        for address in (BASE + 64 * 3, BASE + 64 * 3 + 47):
            graph = find_cluster(report, address).graph
            assert report.leaks["address"][graph.rows[0]] == BASE + 64 * 3
            assert graph.rows.size == 4

    def test_an_address_between_leaks_is_refused(self) -> None:
        for address in (BASE - 1, BASE + 48, 0, (1 << 64) - 1):
            with pytest.raises(UsageError, match="in no leaked object"):
                find_cluster(ring(), address)

    def test_without_an_address_it_is_the_one_of_the_most_members(self) -> None:
        report = a_report()
        found = find_cluster(report)
        members = [(m.address, m.size, m.direct) for m in found.members()]
        assert members == [
            (BASE + 0x100, 32, True),
            (BASE + 0x400, 48, False),
            (BASE + 0x500, 96, False),
        ]

    def test_members_are_told_by_what_they_are_or_look_like(self) -> None:
        assert next(find_cluster(a_report()).members()).what == "[obj·text×2·0]"
        told = a_report(provenance=origins(*[("kmalloc-32", ())] * 5))
        assert next(find_cluster(told).members()).what == "kmalloc-32"

    def test_redacted_shapes_tell_nothing_of_data(self) -> None:
        shapes = [m.shape for m in find_cluster(a_report(), redact=True).members()]
        assert shapes[0] == "obj·data×2·0"


class TestPossiblyLost:
    """An address in what is possibly lost draws the cluster of that."""

    @pytest.mark.parametrize("form", WRITERS)
    def test_it_is_told_to_be_no_leak(self, form: str) -> None:
        report = made(1020, 3, possible=2)
        address = int(report.possible["address"][1])
        cluster = find_cluster(report, address)
        text = written(cluster, form)
        assert [m.address for m in cluster.members()] == report.possible["address"][:4].tolist()
        if form == "json":
            document = json.loads(text)
            jsonschema.validate(document, schema())
            assert document["possible"] is True
            assert len(document["references"]) == 3
        else:
            assert "possibly lost cluster of" in text

    def test_a_leak_is_told_to_be_one(self) -> None:
        report = made(1020, 3, possible=2)
        cluster = find_cluster(report)
        assert int(report.leaks["address"][cluster.graph.rows[0]]) not in report.possible["address"]
        assert json.loads(written(cluster, "json"))["possible"] is False
        assert "possibly" not in cluster.title


class TestGraphml:
    @pytest.mark.parametrize("limit", [0, 2])
    def test_networkx_reads_back_what_was_found(self, limit: int) -> None:
        cluster = find_cluster(ring(), BASE + 64 * 3, limit=limit)
        graph = nx.parse_graphml(written(cluster, "graphml"))
        graph = nx.relabel_nodes(graph, {n: int(n.removeprefix("n")) for n in graph})
        for number, member in enumerate(cluster.members()):
            told = graph.nodes[number]
            assert int(told["address"], 16) == member.address
            assert (told["size"], told["direct"]) == (member.size, member.direct)
            assert (told.get("type", ""), told["shape"]) == (member.kind, member.shape)
        edges = {(s, t, words) for s, t, words in graph.edges(data="words")}
        assert edges == set(cluster.edges())
        assert graph.graph["left_out"] == cluster.graph.left_out

    def test_hostile_names_are_read_back_as_visible_text(self) -> None:
        graph = nx.parse_graphml(written(find_cluster(nasty()), "graphml"))
        (kind,) = {data["type"] for _, data in graph.nodes(data=True)}
        assert kind.startswith('"];\\x0a}<b>&amp;&lt;]]>')
        assert kind.isprintable()
        assert len(graph) == 3

    def test_an_address_beyond_signed_numbers_is_exact(self) -> None:
        high = 0xFFFF_8880_0000_0000
        image = MemoryImage.from_segments([(high, bytes(64))])
        result = scan_image(image, ObjectTable.from_arrays([high], [64]), Roots())
        report = a_report(result=result, leaks=result.leaks, groups=(), image=image)
        graph = nx.parse_graphml(written(find_cluster(report, high), "graphml"))
        assert graph.nodes["n0"]["address"] == hex(high)


class TestJson:
    @pytest.mark.parametrize("report", [ring(), nasty(), a_report()], ids=["ring", "nasty", "a"])
    def test_it_is_as_its_schema_tells(self, report: Report) -> None:
        document = json.loads(written(find_cluster(report, limit=2), "json"))
        jsonschema.validate(document, schema())
        assert len(document["members"]) + document["left_out"] >= 3

    def test_references_are_between_members_by_their_index(self) -> None:
        document = json.loads(written(find_cluster(ring(), BASE + 64 * 3), "json"))
        members = [int(m["address"], 16) - BASE >> 6 for m in document["members"]]
        assert {
            (members[r["source"]], members[r["target"]], r["words"]) for r in document["references"]
        } == {(0, 1, 2), (1, 2, 1), (2, 0, 1), (3, 1, 1)}


def laid_out(text: str) -> dict[str, Any]:
    """Have Graphviz lay a graph out, without a word of complaint; return what it made."""
    dot = shutil.which("dot")
    if dot is None:
        pytest.skip("no dot (of graphviz)")
    done = subprocess.run([dot, "-Tjson"], input=text, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(json.loads(done.stdout))


def labels(node: dict[str, Any]) -> list[str]:
    """Return the lines of text that are drawn for a node."""
    return [step["text"] for step in node["_ldraw_"] if step["op"] == "T"]


class TestDot:
    def test_graphviz_lays_it_out(self) -> None:
        cluster = find_cluster(ring(), BASE + 64 * 3)
        graph = laid_out(written(cluster, "dot"))
        nodes, edges = graph["objects"], graph["edges"]
        for node, member in zip(nodes, cluster.members(), strict=True):
            assert labels(node) == [hex(member.address), "48 bytes", member.what]
            assert ("peripheries" in node) == member.direct
        assert {(e["tail"], e["head"], int(e["label"])) for e in edges} == set(cluster.edges())

    def test_hostile_names_are_drawn_as_they_are(self) -> None:
        graph = laid_out(written(find_cluster(nasty()), "dot"))
        assert len(graph["objects"]) == 3
        for node in graph["objects"]:
            drawn = labels(node)
            assert len(drawn) == 3
            assert drawn[2].startswith(
                '"];\\x0a}<b>&amp;&lt;]]>\\N\\"\\\\{|}<>\\x00\\x1b[31m\\u202e'
            )

    def test_a_name_of_any_length_is_no_trouble(self) -> None:
        report = a_report(provenance=origins(*[("x" * 1_000_000, ())] * 5))
        text = written(find_cluster(report), "dot")
        assert len(text) < 5000
        assert len(laid_out(text)["objects"]) == 3

    def test_what_was_left_out_is_in_the_title(self) -> None:
        graph = laid_out(written(find_cluster(ring(), BASE, limit=1), "dot"))
        assert graph["label"] == f"core: cluster of {BASE + 64 * 3:#x}, 1 object, 3 more left out"


class TestCommand:
    def test_it_draws_the_largest_cluster(
        self, leaky: Memory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["cluster", *leaky.arguments]) == 0
        out = capsys.readouterr().out
        assert f"{BASE + 0x200:#x}" in out
        assert "n0 -> n1" in out

    @pytest.mark.parametrize("before", [True, False])
    def test_an_address_stands_before_options_or_behind_them(
        self, before: bool, leaky: Memory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        address = [hex(BASE + 0x100 + 95)]
        more = [*leaky.arguments, "--format", "json", "--limit", "1"]
        arguments = [*address, *more] if before else [*more, *address]
        assert main(["cluster", *arguments]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["left_out"] == 1
        assert document["members"][0]["address"] == hex(BASE + 0x200)

    def test_without_leaks_the_graph_is_empty(
        self, clean: Memory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for form in WRITERS:
            assert main(["cluster", *clean.arguments, "--format", form]) == 0
            text = capsys.readouterr().out
            if form == "graphml":
                assert len(nx.parse_graphml(text)) == 0
            elif form == "json":
                jsonschema.validate(json.loads(text), schema())
            else:
                assert "objects" not in laid_out(text)

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ([hex(BASE)], "in no leaked object"),
            (["somewhere"], "no hexadecimal address"),
            (["--format", "svg"], "invalid choice"),
        ],
    )
    def test_wrong_usage_is_2(
        self, more: list[str], message: str, leaky: Memory, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["cluster", *leaky.arguments, *more]) == 2
        assert message in capsys.readouterr().err

    def test_a_core_s_list_is_drawn_as_the_program_made_it(self, tmp_path: Path) -> None:
        program = compile_c(tmp_path, "list", LIST)
        with running(program) as process:
            capture(process.pid, tmp_path / "core")
            process.kill()
            assert process.stdout is not None
            nodes = [int(line, 16) for line in process.stdout.read().split()]
        assert len(nodes) == 5
        report = scan(tmp_path / "core", no_roots=["registers", "stacks"])
        graph = nx.parse_graphml(written(find_cluster(report, nodes[2]), "graphml"))
        address = {node: int(data["address"], 16) for node, data in graph.nodes(data=True)}
        expected = dict.fromkeys(zip(nodes[1:], nodes[:-1], strict=True), 1)
        for node in nodes[1:]:
            expected[node, nodes[0]] = expected.get((node, nodes[0]), 0) + 1
        assert {
            (address[s], address[t]): words for s, t, words in graph.edges(data="words")
        } == expected
        assert address["n0"] == nodes[-1]
