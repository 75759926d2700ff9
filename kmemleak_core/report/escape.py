"""Turns untrusted text into text that a terminal shows and never obeys."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Write whatever is no visible character as an escape: ``\x1b``, ``\u202e``, ``\udc80``.

    Names and paths come from dumps: a control character in them, or one that turns the
    direction of writing, must not reach a terminal.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(ord(c)) for c in text)


def quoted(text: str) -> str:
    """Return printable text in double quotes, with quotes and backslashes inside escaped."""
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _escape(code: int) -> str:
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
