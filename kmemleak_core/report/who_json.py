"""Turns an Explanation, referrers and paths into JSON, laid out as who.json beside this tells."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from ..who.explain import Explanation, Route
from ..who.holders import Holder
from ..who.keeping import Keeper

#: Version of the layout: grows when a field changes its meaning or goes away.
VERSION = 1


def schema() -> dict[str, Any]:
    """Return the JSON schema of the three documents."""
    return dict(json.loads(Path(__file__).with_name("who.json").read_text(encoding="utf-8")))


def write_explanation(told: Explanation, out: TextIO) -> None:
    """Write what there is to say of an object."""
    document = {
        **_head("explanation", told.asked),
        "object": {"address": hex(told.address), "size": told.size, "what": told.what or None},
        "origin": {
            "kind": told.origin.kind or None,
            "backtrace": list(told.origin.frames),
            "comm": told.origin.comm or None,
            "pid": told.origin.pid,
            "birth": told.origin.birth,
        },
        "verdict": told.verdict,
        "leaked": told.leaked,
        "possibly_lost": told.possible,
        "held_by": None if told.head is None else hex(told.head),
        "references_found": told.count,
        "min_count": told.min_count,
        "content": told.content.hex(),
        "symbols": [{"offset": offset, "name": name} for offset, name in told.symbols],
        "referrers": [_holder(holder) for holder in told.holders],
        "path": None if told.path is None else _path(told.path),
        "references": [
            {
                "offset": r.offset,
                "target": hex(r.target),
                "into": r.into,
                "pointer": r.pointer,
                "what": r.what or None,
            }
            for r in told.references
        ],
        "retained": None
        if told.keeping is None
        else {
            "bytes": told.keeping.nbytes,
            "objects": told.keeping.count,
            "dominators": [_keeper(keeper) for keeper in told.keeping.keepers],
            "dominators_left_out": told.keeping.left_out,
        },
        "coverage": [
            {"code": n.code, "message": n.message, "count": n.count} for n in told.coverage
        ],
    }
    _write(document, out)


def write_referrers(asked: int, holders: Iterable[Holder], out: TextIO) -> None:
    """Write the words that refer to an object."""
    _write({**_head("referrers", asked), "referrers": [_holder(h) for h in holders]}, out)


def write_paths(asked: int, routes: Iterable[Route], out: TextIO) -> None:
    """Write ways to an object."""
    _write({**_head("paths", asked), "paths": [_path(route) for route in routes]}, out)


def _head(kind: str, asked: int) -> dict[str, Any]:
    return {"schema": f"kmemleak-{kind}", "version": VERSION, "asked": hex(asked)}


def _write(document: dict[str, Any], out: TextIO) -> None:
    # Everything beyond ASCII is written as an escape: no terminal can be harmed by it.
    out.write(json.dumps(document, indent=1) + "\n")


def _holder(holder: Holder) -> dict[str, Any]:
    word = holder.word
    return {
        "kind": word.kind,
        "live": word.live,
        "place": None if word.place is None else hex(word.place),
        "object": None if word.holder is None else hex(word.holder),
        "value": hex(word.value),
        "pointer": word.pointer,
        "text": holder.text,
        "symbol": holder.symbol or None,
        "frame": holder.frame or None,
        "stale": holder.stale or None,
    }


def _keeper(keeper: Keeper) -> dict[str, Any]:
    return {
        "kind": keeper.kind,
        "name": keeper.name,
        "address": None if keeper.address is None else hex(keeper.address),
        "size": keeper.size,
        "what": keeper.what or None,
        "retained_bytes": keeper.nbytes,
        "retained_objects": keeper.count,
    }


def _path(route: Route) -> dict[str, Any]:
    return {
        "origin": route.origin,
        "start": hex(route.start),
        "steps": [{"referrer": _holder(s.holder), "target": hex(s.target)} for s in route.steps],
    }
