"""Turns a Census into a file that stands for its dump, and such a file into a Census.

It is an npz file of columns, without anything that memory holds: 21 bytes an object, 33 with order
and time of allocation.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .._dominators import nearest
from ..coverage import Coverage
from ..dumps.compressed import open_source
from ..dumps.npz import read_arrays
from ..dumps.source import Source
from ..errors import UsageError
from .census import Amount, Census, GroupColumns, Holding, Likeness, Members
from .identity import Identity

#: Version of the file's layout.
VERSION = 1

#: The first member of the file, which tells what it is.
_TEXT = "kmemleak-census"
_MEMBERS = {
    "address": np.uint64,
    "group": np.int32,
    "leaked": np.bool_,
    "holder": np.int32,
    "above": np.uint32,
}
_MORE = {"order": np.uint32, "birth": np.int64}
_GROUPS = {"kind": np.int32, "trace": np.int32, "shape": np.int32, "size": np.int64}
_MODULES = {"count": np.int64, "nbytes": np.uint64}


def is_census(head: bytes) -> bool:
    """Whether a file that begins like this is a census."""
    return head[:4] == b"PK\x03\x04" and head[30:].startswith(_TEXT.encode() + b".npy")


def write_census(census: Census, out: IO[bytes]) -> None:
    """Write the file.

    Raises
    ------
    UsageError
        It is the census of a report, whose own JSON does as well.
    """
    members, holders, modules = census.members, census.holders, census.modules
    if members is None or holders is None or modules is None:
        raise UsageError(f"{census.identity.path}: a census is written of a dump")
    groups = census.groups
    identity = asdict(census.identity)
    # It may be kept for long: what a program was started with can be secret.
    identity["process"].pop("arguments", None)
    text = {
        "version": VERSION,
        "identity": identity,
        "kinds": list(groups.kinds),
        "traces": list(groups.traces),
        "functions": {hex(at): name for at, name in groups.functions.items()},
        "typed": groups.typed,
        "shapes": list(groups.shapes),
        "holders": list(holders.names),
        "modules": list(modules.names),
        "coverage": [[note.code, note.message, note.count] for note in census.coverage],
    }
    columns: dict[str, NDArray[Any]] = {_TEXT: np.frombuffer(json.dumps(text).encode(), np.uint8)}
    for name in (*_MEMBERS, *_MORE):
        column = getattr(members, name)
        if column is not None:
            columns[f"members.{name}"] = column
    columns |= {f"groups.{name}": getattr(groups, name) for name in _GROUPS}
    columns |= {f"modules.{name}": getattr(modules, name) for name in _MODULES}
    np.savez(out, **columns)  # type: ignore[arg-type]


def load_census(path: Path) -> Census:
    """Read a file.

    Raises
    ------
    DumpError
        It is no npz file.
    UsageError
        It is no census, or a damaged one.
    """
    source = open_source(str(path))
    try:
        return _census(source)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError):
        raise UsageError(
            f"{path}: this is no census of version {VERSION}, or a damaged one",
            hint="write it anew: kmemleak census CORE -o FILE",
        ) from None


def _census(source: Source) -> Census:
    raw = read_arrays(source, lambda name: name if name == _TEXT else None)[_TEXT]
    text = json.loads(raw.astype(np.uint8, casting="safe").tobytes())
    if text["version"] != VERSION:
        raise ValueError
    found = _columns(source, "members", {**_MEMBERS, **_MORE}, optional=_MORE)
    alike = _likeness(text, _columns(source, "groups", _GROUPS))
    names = _texts(text["holders"])
    members = _checked(Members(**found), alike.size.size, len(names))
    groups = GroupColumns.counted(
        alike, members.address, members.group, members.leaked, members.order
    )
    sizes = groups.size[members.group].astype(np.uint64)
    modules = _columns(source, "modules", _MODULES)
    module_names = _texts(text["modules"])
    if modules["count"].size != len(module_names) or bool((modules["count"] < 0).any()):
        raise ValueError
    coverage = Coverage()
    for code, message, count in text["coverage"]:
        coverage.add(*_texts([code, message]), count=int(count))
    leaked = sizes[members.leaked]
    identity = Identity(**text["identity"])
    return Census(
        identity=_checked_identity(identity),
        objects=Amount(sizes.size, int(sizes.sum(dtype=np.uint64))),
        leaked=Amount(leaked.size, int(leaked.sum(dtype=np.uint64))),
        groups=groups,
        members=members,
        holders=Holding.of(names, members.holder, sizes),
        modules=Holding(module_names, **modules),
        coverage=coverage,
    )


def _columns(
    source: Source, table: str, wanted: dict[str, Any], optional: dict[str, Any] | None = None
) -> dict[str, NDArray[Any]]:
    """Read the columns of a table, each of its type."""
    prefix = f"{table}."

    def choose(name: str) -> str | None:
        own = name.removeprefix(prefix)
        return own if name.startswith(prefix) and own in wanted else None

    found = read_arrays(source, choose)
    for name, dtype in wanted.items():
        if name in found and found[name].dtype != dtype:
            raise TypeError
        if name not in found and name not in (optional or {}):
            raise KeyError(name)
    # In the file they lie where they come to lie, at odd addresses too.
    return {name: column.copy() for name, column in found.items()}


def _likeness(text: dict[str, Any], columns: dict[str, NDArray[Any]]) -> Likeness:
    traces = [tuple(trace) for trace in text["traces"]]
    functions = {int(at, 16): name for at, name in text["functions"].items()}
    _texts(list(functions.values()))
    if any(at not in functions for trace in traces for at in trace):
        raise ValueError
    alike = Likeness(
        kinds=_texts(text["kinds"]),
        traces=traces,
        functions=functions,
        typed=bool(text["typed"]),
        shapes=_texts(text["shapes"]),
        **columns,
    )
    for index, values in (
        (alike.kind, alike.kinds),
        (alike.trace, alike.traces),
        (alike.shape, alike.shapes),
    ):
        _within(index, -1, len(values))
    _within(alike.shape, 0, len(alike.shapes))
    _within(alike.size, 0, (1 << 63) - 1)
    return alike


def _checked(members: Members, groups: int, holders: int) -> Members:
    """Check that members are what any scan could have found."""
    n, address, order = len(members), members.address, members.order
    _within(members.group, 0, groups)
    _within(members.holder, -1, holders)
    if bool((address[1:] <= address[:-1]).any()):
        raise ValueError
    if order is not None:
        _within(order, 0, n)
        there = np.zeros(n, np.bool_)
        there[order] = True
        if not there.all():
            raise ValueError
    # Nothing is above itself, which is found out on the way up.
    nearest(members.above, np.zeros(n, np.uint8))
    return members


def _checked_identity(identity: Identity) -> Identity:
    fields = asdict(identity)
    process = {str(k): str(v) for k, v in fields.pop("process").items()}
    word_size, kernel = fields.pop("word_size"), fields.pop("kernel")
    _texts(list(fields.values()))
    if type(word_size) is not int or type(kernel) is not bool or identity.what != "dump":
        raise TypeError
    return replace(identity, process=process)


def _within(column: NDArray[Any], low: int, end: int) -> None:
    if column.size and not (low <= int(column.min()) and int(column.max()) < end):
        raise ValueError


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise TypeError
    return tuple(values)
