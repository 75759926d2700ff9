"""Turns an address in a program's data into the variable there, and the member of it: ``a.b[3]``.

The variable is found by the bytes of its location in .debug_info: no other entries are read than
those around it, and those of its type.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .dwarf_entries import Entries, Entry

_ADDRESS, _TLS = b"\x03", (b"\xe0", b"\x9b")
_CONSTANT = {8: b"\x0e", 4: b"\x0c"}
#: Places in .debug_info that are looked at: equal bytes can stand there by chance.
_MOST_PLACES = 64
_DEEPEST = 32
_NAMESPACE = "DW_TAG_namespace"
_FUNCTION = "DW_TAG_subprogram"
_THROUGH = frozenset(
    f"DW_TAG_{what}"
    for what in (
        "typedef",
        "const_type",
        "volatile_type",
        "restrict_type",
        "atomic_type",
    )
)
_AGGREGATES = frozenset(("DW_TAG_structure_type", "DW_TAG_class_type", "DW_TAG_union_type"))
_NAMED_SCOPES = _AGGREGATES | {_NAMESPACE}
_POINTERS = frozenset(
    f"DW_TAG_{what}_type" for what in ("pointer", "reference", "rvalue_reference")
)


@dataclass(frozen=True, slots=True)
class Way:
    """How a place in a variable is written behind its name.

    Parameters
    ----------
    text
        ``".buckets[3]"``; empty for the variable itself.
    left
        Bytes behind what the text names.
    is_pointer
        Whether that is a pointer.
    """

    text: str
    left: int
    is_pointer: bool = False

    def __str__(self) -> str:
        return f"{self.text}+{self.left:#x}" if self.left else self.text


def variable_text(
    entries: Entries, begin: int, offset: int, *, of_threads: bool = False
) -> str | None:
    """Return the variable that begins at an address, and the member at an offset in it.

    Parameters
    ----------
    entries
        Of its file.
    begin
        Its address as the file counts; of a thread-local one, from where the module's begin.
    offset
        Of the member.
    of_threads
        Whether it is thread-local.

    Returns
    -------
    str or None
        ``"cache.buckets[3]"``, ``"app::registry"``; None where there is none.

    Raises
    ------
    TooMuchError
    DamagedError
    """
    size = 8 if entries.wide else 4
    number = begin.to_bytes(size, entries.order)  # type: ignore[arg-type]
    if of_threads:
        # DW_OP_const8u, DW_OP_GNU_push_tls_address or DW_OP_form_tls_address
        locations = [_CONSTANT[size] + number + last for last in _TLS]
    else:
        locations = [_ADDRESS + number]
    for location in locations:
        at, needle = -1, bytes([len(location)]) + location
        for _ in range(_MOST_PLACES):
            at = entries.find(needle, at + 1)
            if at < 0:
                break
            # The length before it may be the last byte of another entry's.
            *above, entry = entries.around(at + 1) or (None,)
            if (
                entry is not None
                and entry.tag == "DW_TAG_variable"
                and location_of(entry) == location
            ):
                return _text(entries, entry, above, offset)
    return None


def member_way(entries: Entries, kind: Entry | None, offset: int, depth: int = 0) -> Way:
    """Return how the member at an offset of a type is written; raises as `variable_text`.

    Of several members at one place (in a union) it is a pointer, if any is.
    """
    kind = _stripped(entries, kind)
    if kind is None or depth > _DEEPEST:
        return Way("", offset)
    if kind.tag == "DW_TAG_array_type":
        return _element(entries, kind, offset, depth)
    if kind.tag not in _AGGREGATES:
        return Way("", offset, kind.tag in _POINTERS)
    best: Way | None = None
    for child in entries.children(kind):
        is_base = child.tag == "DW_TAG_inheritance"
        if (child.tag != "DW_TAG_member" and not is_base) or "DW_AT_external" in child.attributes:
            continue
        begin = number_of(child, "DW_AT_data_member_location")
        if begin is None and kind.tag != "DW_TAG_union_type":
            continue  # a static member, or a virtual base
        if "DW_AT_bit_size" in child.attributes:
            continue
        within = offset - (begin or 0)
        if within < 0:
            continue
        type_ = entries.referred(child, "DW_AT_type")
        size = size_of(entries, type_)
        if size is not None and within >= size:
            continue
        way = member_way(entries, type_, within, depth + 1)
        name = "" if is_base else _name(child)
        way = Way(f".{name}{way.text}" if name else way.text, way.left, way.is_pointer)
        if best is None or (way.is_pointer, -way.left) > (best.is_pointer, -best.left):
            best = way
    return best or Way("", offset)


def name_of(entries: Entries, entry: Entry, above: list[Entry], depth: int = 0) -> str:
    """Return a variable's name with those of what it is in: ``"app::Cache::all"``, ``"f()::n"``."""
    declaration = list(_declarations(entries, entry))[-1]
    if declaration is not entry:
        above, entry = entries.above(declaration), declaration
    name = _name(entry)
    for i in range(len(above) - 1, -1, -1):
        scope = above[i]
        if scope.tag == _FUNCTION and depth < _DEEPEST:
            return f"{name_of(entries, scope, above[:i], depth + 1)}()::{name}"
        if scope.tag in _NAMED_SCOPES:
            nameless = "(anonymous namespace)" if scope.tag == _NAMESPACE else "(anonymous)"
            name = f"{_name(scope) or nameless}::{name}"
    return name


def _text(entries: Entries, entry: Entry, above: list[Entry], offset: int) -> str | None:
    name = name_of(entries, entry, above)
    if not name or name.endswith("::"):
        return None
    return f"{name}{member_way(entries, variable_type(entries, entry), offset)}"


def variable_type(entries: Entries, entry: Entry) -> Entry | None:
    """Return the type of a variable; a definition may leave it to the declaration."""
    types = (entries.referred(e, "DW_AT_type") for e in _declarations(entries, entry))
    return next((found for found in types if found is not None), None)


def _declarations(entries: Entries, entry: Entry) -> Iterator[Entry]:
    """Yield an entry, and what it completes or is an instance of."""
    yield entry
    for _ in range(_DEEPEST):
        following = entries.referred(entry, "DW_AT_specification")
        following = following or entries.referred(entry, "DW_AT_abstract_origin")
        if following is None:
            return
        yield (entry := following)


def declared_name(entries: Entries, entry: Entry) -> str:
    """Return the name of an entry, or of what it completes or is an instance of."""
    return next((n for e in _declarations(entries, entry) if (n := _name(e))), "")


def location_of(entry: Entry, name: str = "DW_AT_location") -> bytes:
    """Return where something is, as an expression; empty where that is not one for all code."""
    found = entry.attributes.get(name)
    value = None if found is None else found.value
    try:
        return bytes(value) if isinstance(value, list | bytes) else b""
    except ValueError:
        return b""


def _element(entries: Entries, kind: Entry, offset: int, depth: int) -> Way:
    element = entries.referred(kind, "DW_AT_type")
    size = size_of(entries, element)
    if not size:
        return Way("", offset)
    index, within = divmod(offset, size)
    text = ""
    for count in reversed(_counts(entries, kind)[1:]):
        if not count:
            return Way("", offset)
        index, inner = divmod(index, count)
        text = f"[{inner}]{text}"
    way = member_way(entries, element, within, depth + 1)
    return Way(f"[{index}]{text}{way.text}", way.left, way.is_pointer)


def _counts(entries: Entries, kind: Entry) -> list[int]:
    """Return how many elements an array has in each dimension; 0 where that is not told."""
    counts = []
    for child in entries.children(kind):
        if child.tag == "DW_TAG_subrange_type":
            count = number_of(child, "DW_AT_count")
            last = number_of(child, "DW_AT_upper_bound")
            counts.append(count if count is not None else 0 if last is None else last + 1)
    return counts


def size_of(entries: Entries, kind: Entry | None) -> int | None:
    """Return the bytes of a type; None where that is not told."""
    for _ in range(_DEEPEST):
        kind = _stripped(entries, kind)
        if kind is None:
            return None
        size = number_of(kind, "DW_AT_byte_size")
        if size is not None:
            return size
        if kind.tag in _POINTERS:
            return 8 if entries.wide else 4
        if kind.tag != "DW_TAG_array_type":
            return None
        times = 1
        for count in _counts(entries, kind):
            times *= count
        inner = size_of(entries, entries.referred(kind, "DW_AT_type")) if times else None
        return None if inner is None else min(inner * times, 1 << 62)
    return None


def _stripped(entries: Entries, kind: Entry | None) -> Entry | None:
    """Return the type behind typedefs, const and the like."""
    for _ in range(_DEEPEST):
        if kind is None or kind.tag not in _THROUGH:
            return kind
        kind = entries.referred(kind, "DW_AT_type")
    return None


def number_of(entry: Entry, name: str) -> int | None:
    """Return an attribute that is a plain number; None where it is none, or something else."""
    found = entry.attributes.get(name)
    value = None if found is None else found.value
    return value if isinstance(value, int) and 0 <= value < 1 << 62 else None


def _name(entry: Entry) -> str:
    found = entry.attributes.get("DW_AT_name")
    value = None if found is None else found.value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""
