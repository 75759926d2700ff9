"""Turns a cluster into GraphML, as networkx, Gephi and yEd read it."""

from __future__ import annotations

from typing import TextIO
from xml.sax.saxutils import escape

from .cluster import Cluster

#: What is told: of whom, its name, its type. Addresses are texts: not all fit a signed number.
_KEYS = (
    ("node", "label", "string"),
    ("node", "address", "string"),
    ("node", "size", "long"),
    ("node", "type", "string"),
    ("node", "shape", "string"),
    ("node", "direct", "boolean"),
    ("edge", "words", "int"),
    ("graph", "title", "string"),
    ("graph", "left_out", "int"),
)


def write_graphml(cluster: Cluster, out: TextIO) -> None:
    """Write a directed graph."""
    out.write('<?xml version="1.0" encoding="UTF-8"?>\n')
    out.write('<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n')
    for of, name, kind in _KEYS:
        out.write(f'<key id="{name}" for="{of}" attr.name="{name}" attr.type="{kind}"/>\n')
    out.write('<graph id="cluster" edgedefault="directed">\n')
    out.write(_data("title", cluster.title) + _data("left_out", cluster.graph.left_out) + "\n")
    for number, member in enumerate(cluster.members()):
        address = f"{member.address:#x}"
        told = [
            _data("label", address),
            _data("address", address),
            _data("size", member.size),
            _data("type", member.kind) if member.kind else "",
            _data("shape", member.shape),
            _data("direct", "true" if member.direct else "false"),
        ]
        out.write(f'<node id="n{number}">{"".join(told)}</node>\n')
    for source, target, words in cluster.edges():
        data = _data("words", words)
        out.write(f'<edge source="n{source}" target="n{target}">{data}</edge>\n')
    out.write("</graph>\n</graphml>\n")


def _data(key: str, value: int | str) -> str:
    # What is no visible character, which XML cannot hold, has been written as an escape.
    return f'<data key="{key}">{escape(str(value))}</data>'
