"""Turns the first bytes of a file that is no dump into words: what it is and what to try."""

from __future__ import annotations

from ..errors import DumpError
from .elf_headers import ELF_MAGIC, ET_DYN, ET_EXEC, ET_REL, PT_INTERP

_NEED_CORE = (
    "give the dump of a running program: kmemleak dump PID -o core, or let it dump core "
    "(ulimit -c unlimited)"
)
_RAW = "raw memory is read with --memory ADDRESS:FILE --objects FILE --roots FILE"

#: First bytes → what the file is, what to try.
_KNOWN = (
    (b"MDMP", "a Windows or Breakpad minidump", "minidump-2-core converts it to an ELF core"),
    (b"PAGEDU", "a Windows kernel dump", ""),
    (b"MZ", "a Windows executable", _NEED_CORE),
    (b"DISKDUMP", "a kernel dump (diskdump)", "dumps of that old format are not read"),
    (b"\xce\xfa\xed\xfe", "a Mach-O file", "only ELF cores are read"),
    (b"\xcf\xfa\xed\xfe", "a Mach-O file", "only ELF cores are read"),
    (b"PK\x03\x04", "a zip archive", "unpack it first"),
    (b"BZh", "compressed with bzip2", "unpack it first: bunzip2 FILE"),
    (b"!<arch>\n", "a static library", _NEED_CORE),
    (b"\x89LZO", "compressed with lzop", "unpack it first: lzop -d FILE"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-zip archive", "unpack it first"),
    (b"LPKSHHRH", "a systemd journal", "coredumpctl dump -o core takes a core out of it"),
    (b"#!", "a script", _NEED_CORE),
)


def describe_elf(head: bytes) -> str:
    """Say what kind of ELF file begins like this."""
    little = head[5:6] != b"\x02"
    order = "little" if little else "big"
    kind = int.from_bytes(head[16:18], order)  # type: ignore[arg-type]
    if kind == ET_EXEC:
        return "an ELF executable"
    if kind == ET_REL:
        return "an ELF object file"
    if kind == ET_DYN:
        # Both are of type DYN; only a program asks for a loader. Its request is among the
        # first program headers.
        wide = head[4:5] == b"\x02"
        at, step = (64, 56) if wide else (52, 32)
        kinds = [
            int.from_bytes(head[i : i + 4], order)  # type: ignore[arg-type]
            for i in range(at, min(len(head) - 4, at + 16 * step), step)
        ]
        return "an ELF executable" if PT_INTERP in kinds else "an ELF shared object"
    return f"an ELF file of type {kind}"


def not_a_dump(path: str, head: bytes) -> DumpError:
    """Make the error for a file that no format recognises."""
    if not head:
        return DumpError(
            "is empty",
            path=path,
            hint="the disk was full or the limit on core files is 0 (ulimit -c unlimited)",
        )
    if head[:4] == ELF_MAGIC:
        return DumpError(f"is {describe_elf(head)}, not a core file", path=path, hint=_NEED_CORE)
    for magic, what, hint in _KNOWN:
        if head.startswith(magic):
            return DumpError(f"is {what}, not a core file", path=path, hint=hint or _NEED_CORE)
    if head[257:262] == b"ustar":
        return DumpError("is a tar archive, not a core file", path=path, hint="unpack it first")
    if _is_text(head):
        return DumpError("is a text file, not a core file", path=path, hint=_NEED_CORE)
    if not any(head):
        return DumpError(
            "begins with zeros, not with an ELF header",
            path=path,
            hint="a dump that was never finished looks like this; " + _RAW,
        )
    return DumpError(
        f"is not a dump of a known format (it begins with {head[:8].hex(' ')})",
        path=path,
        hint=_RAW,
    )


def _is_text(head: bytes) -> bool:
    if b"\0" in head:
        return False
    try:
        # The last character may be cut off.
        head[: max(1, len(head) - 3)].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
