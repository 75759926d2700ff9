"""Turns a kernel's types into a small JSON file of those that an analysis asks for, and back.

The file is for kernels that do not carry their types: made once, where the vmlinux with debugging
symbols is, and used wherever a dump of that kernel is read. It holds::

    {"format": "kmemleak-layout", "version": 1,
     "build_id": "f1b9…", "byteorder": "little",
     "names": {"page": "struct page", …},                  a structure's key by its name
     "structs": {"struct page": {"name": "page", "size": 64, "members": {"flags": {…}, …}}, …},
     "enumerators": {"PG_slab": 9, …}}

A member has ``offset``, ``size`` and ``type``, where they are not 0 or false ``bit_offset``,
``bit_size``, ``signed`` and ``count`` (see `Member`), and ``struct``, a key, if it is a structure.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import DumpError
from . import Member, Struct
from .aggregates import AggregateTypes, NamedTypes

FORMAT = "kmemleak-layout"
VERSION = 1

#: More bytes than such a file has, and than a structure has.
_LARGEST_FILE = 1 << 26
_LARGEST = 1 << 32

#: What the analysis of a kernel's dump asks for, in any version of Linux.
STRUCTS = (
    *("list_head", "hlist_head", "hlist_node", "rb_root", "rb_node", "xarray", "cpumask"),
    *("kmemleak_object", "kmemleak_scan_area"),
    *("stack_record", "handle_parts", "page_ext", "page_ext_operations", "page_owner"),
    *("page", "folio", "slab", "ptdesc", "zone", "pglist_data", "free_area", "mem_section"),
    *("kmem_cache", "kmem_cache_cpu", "kmem_cache_node", "kmem_cache_order_objects", "track"),
    *("slab_sheaf", "node_barn", "slub_percpu_sheaves", "kmem_cache_per_node_ptrs", "location"),
    *("kfence_metadata", "slabobj_ext", "obj_cgroup", "codetag", "alloc_tag"),
    *("vm_struct", "vmap_area", "vmap_node", "vmap_block", "vmap_block_queue"),
    *("pcpu_chunk", "pcpu_block_md", "pcpu_group_info", "pcpu_alloc_info", "percpu_ref"),
    *("task_struct", "thread_info", "thread_union", "signal_struct", "pid", "upid", "pt_regs"),
    *("inactive_task_frame", "irq_stack", "exception_stacks", "cea_exception_stacks"),
    *("module", "mod_kallsyms", "module_memory", "module_layout", "btf_module", "btf"),
    *("uts_namespace", "new_utsname", "memblock", "memblock_type", "memblock_region"),
)

#: Enumerations of which the analysis asks for members.
ENUMERATIONS = (
    *("pageflags", "pagetype", "compound_dtor_id", "zone_type", "migratetype"),
    *("module_state", "mod_mem_type", "page_ext_flags", "track_item", "kfence_object_state"),
    *("objext_flags", "_slab_flag_bits", "slab_flags"),
)


def describe(
    types: AggregateTypes,
    build_id: str,
    *,
    structs: Iterable[str] = STRUCTS,
    enumerations: Iterable[str] = ENUMERATIONS,
) -> dict[str, Any]:
    """Write down structures, with all that they contain, and enumerations.

    Parameters
    ----------
    types
        Where they come from.
    build_id
        Of the kernel, in hexadecimal; empty if unknown.
    structs, enumerations
        Names; those that this kernel does not have are left out.
    """
    made: dict[Hashable, str] = {}
    written: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name in structs:
        key = types.find(name)
        if key is not None:
            names[name] = _describe(types, key, name, made, written)
    enumerators: dict[str, int] = {}
    for name in enumerations:
        enumerators |= types.enumeration(name)
    return {
        "format": FORMAT,
        "version": VERSION,
        "build_id": build_id,
        "byteorder": types.byteorder,
        "names": names,
        "structs": written,
        "enumerators": enumerators,
    }


def _describe(
    types: AggregateTypes,
    first: Hashable,
    name: str,
    made: dict[Hashable, str],
    written: dict[str, Any],
) -> str:
    """Write a structure and those within it; return its key in the file."""
    wanted = [(first, name)]
    while wanted:
        key, proposed = wanted.pop()
        if key in made and made[key] in written:
            continue
        struct, keys = types.described(key)
        made[key] = made.get(key) or _unused(struct.name or proposed, made)
        members = {}
        for member in struct.members.values():
            entry: dict[str, Any] = {"offset": member.offset, "size": member.size}
            for field in ("bit_offset", "bit_size", "signed", "count"):
                if getattr(member, field):
                    entry[field] = getattr(member, field)
            entry["type"] = member.type
            inner = keys.get(member.name)
            if inner is not None:
                within = types.described(inner)[0].name or f"{made[key]}.{member.name}"
                made[inner] = made.get(inner) or _unused(within, made)
                entry["struct"] = made[inner]
                wanted.append((inner, made[inner]))
            members[member.name] = entry
        written[made[key]] = {"name": struct.name, "size": struct.size, "members": members}
    return made[first]


def _unused(name: str, made: Mapping[Hashable, str]) -> str:
    """Return a name that no other structure has in the file."""
    taken = set(made.values())
    return next(
        n for i in range(len(taken) + 2) if (n := f"{name}#{i}" if i else name) not in taken
    )


class LayoutTypes(NamedTypes):
    """The types that a file holds.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    build_id : str
        Of its kernel, in hexadecimal; empty if unknown.

    Raises
    ------
    DumpError
        It is no such file, or is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        try:
            with open(path, "rb") as file:
                raw = file.read(_LARGEST_FILE + 1)
            content = json.loads(raw) if len(raw) <= _LARGEST_FILE else None
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"it is no JSON ({error})") from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise self._damaged(f'it has no "format": "{FORMAT}"')
        if content.get("version") != VERSION:
            raise self._damaged(f'"version" is {content.get("version")!r}: {VERSION} is read')
        if content.get("byteorder") not in ("little", "big"):
            raise self._damaged('"byteorder" is "little" or "big"')
        super().__init__(f"layout {path}", content["byteorder"])
        self.build_id = self._checked(content, "", "build_id", str)
        self._names = self._checked(content, "", "names", dict)
        self._written = self._checked(content, "", "structs", dict)
        self._enumerators = self._checked(content, "", "enumerators", dict)
        for name, key in self._names.items():
            if not isinstance(key, str) or key not in self._written:
                raise self._damaged(f'"names" has {name!r}, which is not in "structs"')
        for name, value in self._enumerators.items():
            if type(value) is not int or not -(1 << 63) <= value < 1 << 64:
                raise self._damaged(f'"enumerators" has no number for {name!r}')
        self._structs = {key: self._struct(key) for key in self._written}

    def find(self, name: str) -> Hashable | None:
        """Return the key of a structure, union, or a typedef of one."""
        key = self._names.get(name, name if name in self._written else None)
        return key if isinstance(key, str) else None

    def described(self, key: Hashable) -> tuple[Struct, Mapping[str, Hashable]]:
        """Return a structure, and the keys of those of its members that are structures."""
        assert isinstance(key, str)
        return self._structs[key]

    def enumerator(self, name: str) -> int | None:
        """Return the value of an enumerator, of whichever enumeration."""
        value = self._enumerators.get(name)
        return None if value is None else int(value)

    def _struct(self, key: str) -> tuple[Struct, Mapping[str, Hashable]]:
        where = f"structs.{key}"
        written = self._checked(self._written, "structs", key, dict)
        size = self._number(written, where, "size")
        members: dict[str, Member] = {}
        keys: dict[str, Hashable] = {}
        for name in self._checked(written, where, "members", dict):
            at = f"{where}.members.{name}"
            entry = self._checked(written["members"], f"{where}.members", name, dict)
            member = Member(
                name,
                self._number(entry, at, "offset"),
                self._number(entry, at, "size"),
                bit_offset=self._number(entry, at, "bit_offset", 0),
                bit_size=self._number(entry, at, "bit_size", 0),
                signed=self._checked(entry, at, "signed", bool, False),
                count=self._number(entry, at, "count", 0),
                type=self._checked(entry, at, "type", str),
            )
            if member.offset + member.size > size and member.bit_size == 0:
                raise self._damaged(f'"{at}" lies outside its structure of {size} bytes')
            if member.bit_offset + member.bit_size > 8 * member.size:
                raise self._damaged(f'"{at}" has more bits than its {member.size} bytes')
            members[name] = member
            if "struct" in entry:
                inner = self._checked(entry, at, "struct", str)
                if inner not in self._written:
                    raise self._damaged(f'"{at}" is {inner!r}, which is not in "structs"')
                keys[name] = inner
        return Struct(self._checked(written, where, "name", str), size, members), keys

    def _number(self, entry: Mapping[str, Any], where: str, name: str, *default: int) -> int:
        value = self._checked(entry, where, name, int, *default)
        if isinstance(value, bool) or not 0 <= value < _LARGEST:
            raise self._damaged(f'"{where}.{name}" is no size: {value!r}')
        return int(value)

    def _checked(
        self, entry: Mapping[str, Any], where: str, name: str, kind: type, *default: Any
    ) -> Any:
        """Return an entry that is of the kind that it must be."""
        value = entry.get(name, *default)
        if not isinstance(value, kind):
            path = f"{where}.{name}".lstrip(".")
            raise self._damaged(f'"{path}" is {value!r}, not {_KINDS[kind]}'[:200])
        return value

    def _damaged(self, why: str) -> DumpError:
        return DumpError(
            f"is no layout of a kernel, or is damaged: {why}",
            path=self._path,
            hint="write it again: kmemleak vmcore layout vmlinux -o FILE",
        )


_KINDS: Mapping[type, str] = {
    dict: "an object",
    str: "a string",
    int: "a number",
    bool: "true or false",
}
