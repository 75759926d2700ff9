"""Turns ``-o FILE`` into a stream that never replaces a file unasked, and progress into a line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from ..errors import UsageError
from ..report.escape import printable


def add_output(parser: argparse._ActionsContainer) -> None:
    """Add ``-o`` and ``--force``, as `check_output` and `opened` take them."""
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write it there, not to standard output"
    )
    parser.add_argument("--force", action="store_true", help="replace the output file")


def add_answer(shown: argparse._ActionsContainer, layout: str = "", but: str = "") -> None:
    """Add how an answer is written that is no report: ``--json``, ``--redact``, where to, ``-q``.

    Parameters
    ----------
    shown
        Where to.
    layout
        The file in ``report/`` that tells the layout of its JSON; without one there is no
        ``--json``.
    but
        What is shown even if it is redacted.
    """
    if layout:
        shown.add_argument(
            "--json",
            action="store_true",
            help=f"for machines (report/{layout} tells the layout)",
        )
    shown.add_argument(
        "--redact",
        action="store_true",
        help="show nothing of what the memory holds" + (f" but {but}" if but else ""),
    )
    add_output(shown)
    shown.add_argument("-q", "--quiet", action="store_true", help="no progress")


def check_output(path: Path | None, force: bool) -> None:
    """Refuse an output file that is there already; better before a long scan than after it.

    Raises
    ------
    UsageError
        It is there and ``--force`` was not given, or its folder is not there.
    """
    if path is None:
        return
    if not force and os.path.lexists(path):
        raise _already_there(path)
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}")


@contextmanager
def opened(path: Path | None, force: bool) -> Iterator[TextIO]:
    """Open the output: standard output, or a file, which a failure does not leave half written."""
    if path is None:
        yield sys.stdout
        return
    try:
        stream = path.open("w" if force else "x", encoding="utf-8")
    except FileExistsError:
        raise _already_there(path) from None
    with stream:
        try:
            yield stream
        except BaseException:
            if not force:
                path.unlink(missing_ok=True)
            raise


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str], None] | None]:
    """Show on standard error what is being done, if that is a terminal; clear it at the end."""
    err = sys.stderr
    if quiet or not err.isatty():
        yield None
        return

    def tell(part: str) -> None:
        err.write(f"\r\x1b[2K{printable(part)} …")
        err.flush()

    try:
        yield tell
    finally:
        err.write("\r\x1b[2K")
        err.flush()


def _already_there(path: Path) -> UsageError:
    return UsageError(f"{path} is there already", hint="--force replaces it")
