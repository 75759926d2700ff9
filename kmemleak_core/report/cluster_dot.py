"""Turns a cluster into Graphviz's DOT."""

from __future__ import annotations

from typing import TextIO

from .cluster import Cluster
from .terminal import shortened

#: Characters of a name: Graphviz bounds its strings.
_MOST = 200


def write_dot(cluster: Cluster, out: TextIO) -> None:
    """Write a directed graph: direct leaks framed twice, each edge with its words."""
    out.write("digraph cluster {\n")
    out.write(f"  graph [charset=utf8, label={_quoted(cluster.title)}];\n")
    out.write('  node [shape=box, fontname="monospace", fontsize=10];\n')
    out.write('  edge [fontname="monospace", fontsize=9];\n')
    for number, member in enumerate(cluster.members()):
        lines = (f"{member.address:#x}", f"{member.size:,} bytes", member.what)
        label = "\\n".join(_escaped(line) for line in lines)
        kind = ", peripheries=2" if member.direct else ""
        out.write(f'  n{number} [label="{label}"{kind}];\n')
    for source, target, words in cluster.edges():
        out.write(f'  n{source} -> n{target} [label="{words}"];\n')
    out.write("}\n")


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    """Return text as it stands in a label: no escape, no entity, no end of the string."""
    text = shortened(text, _MOST).replace("\\", "\\\\").replace('"', '\\"')
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
