"""A file of layouts that is damaged anywhere: an error that names it, or types."""

from __future__ import annotations

import copy
import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kmemleak_core.errors import DumpError
from kmemleak_core.symbols.btf import BtfTypes
from kmemleak_core.symbols.layout import LayoutTypes, describe

from .test_symbols_btf import MEMBERS, sample

NAMES = ("thing", "list_head", "atomic_t")
WRITTEN = describe(BtfTypes(sample().data()), "ab" * 20, structs=NAMES, enumerations=["color"])

values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.text(max_size=10),
    st.sampled_from(NAMES),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)


def places(content, path=()):
    """Yield the path of each entry."""
    for key, value in content.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from places(value, (*path, key))


PLACES = list(places(WRITTEN))


def read(content, path) -> LayoutTypes:
    path.write_text(json.dumps(content))
    return LayoutTypes(path)


def test_what_is_written_is_read(tmp_path):
    types = read(WRITTEN, tmp_path / "layout.json")
    assert list(types.struct("thing").members.values()) == MEMBERS
    assert types.member("thing", "grid[5].prev").offset == 152
    assert (types.enumerator("GREEN"), types.enumerator("BELOW")) == (5, None)
    assert types.struct("color") is None


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.lists(st.tuples(st.sampled_from(PLACES), st.none() | values), min_size=1, max_size=3)
)
def test_any_damage_is_an_error_or_types(changes, tmp_path):
    content = copy.deepcopy(WRITTEN)
    for path, value in changes:
        inner = content
        for key in path[:-1]:
            inner = inner.get(key) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner[path[-1]] = value
    try:
        types = read(content, tmp_path / "layout.json")
    except DumpError:
        return
    for name in NAMES:
        for member in getattr(types.struct(name), "members", ()):
            types.member(name, f"{member}.next")
            types.member(name, f"{member}[3].prev.next")
    types.enumerator("GREEN")
