"""Turns ``kmemleak ctl`` into a command for a detector that serves a Unix socket."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from enum import IntEnum
from pathlib import Path

from ..control_language import help_text
from ..errors import ControlError

_DESCRIPTION = """\
Sends a command to the detector in another program, which serves a Unix socket:
kmemleak_core.serve.serve(detector). The commands are those of the kernel's
/sys/kernel/debug/kmemleak; `read` prints the report, as cat does there.
"""

_EPILOG = """\
commands:
  read       print the report
{commands}
examples:
  kmemleak ctl scan && kmemleak ctl read
  kmemleak ctl scan=30
  kmemleak ctl --socket /run/game/kmemleak.sock clear all

exit codes:
  0  done
  1  refused: switched off (EPERM), busy (EBUSY), interrupted, ...
  2  no such command, or a bad number
  3  no detector answers at the socket
"""


class CtlExit(IntEnum):
    """What ``kmemleak ctl`` tells its caller."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    NO_SERVER = 3


#: The errors that are the caller's own words.
_USAGE_ERRORS = (errno.EINVAL, errno.ERANGE, errno.EMSGSIZE)


def prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    commands = "".join(f"  {line}\n" for line in help_text().splitlines())
    parser = subparsers.add_parser(
        "ctl",
        help="command a detector in another program: scan, clear, read, ...",
        description=_DESCRIPTION,
        epilog=_EPILOG.format(commands=commands),
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "command", nargs="+", metavar="COMMAND", help="one of those below, such as: scan"
    )
    parser.add_argument(
        "--socket",
        type=Path,
        metavar="S",
        help="the socket (default: $KMEMLEAK_SOCKET, else $XDG_RUNTIME_DIR/kmemleak.sock, else "
        "in /run/user/UID or, for root, /run)",
    )
    parser.add_argument(
        "--no-wait",
        action="store_true",
        help="do not wait while another scan or command goes on: that is an error (EBUSY)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Send the command, print its reply, and return the exit code."""
    from ..serve.unix_socket import request

    command = " ".join(arguments.command)
    if command == "help":  # the language is known here: no detector is needed
        sys.stdout.write(f"{'read':<9}  print the report\n{help_text()}")
        return CtlExit.DONE
    try:
        reply = request(arguments.socket, command, wait=not arguments.no_wait)
    except ControlError as error:
        return _fail(CtlExit.NO_SERVER, str(error))
    if reply.errno:
        name = errno.errorcode.get(reply.errno, str(reply.errno))
        words = reply.message or os.strerror(reply.errno)
        code = CtlExit.USAGE if reply.errno in _USAGE_ERRORS else CtlExit.REFUSED
        return _fail(code, f"{words} ({name})")
    _write(reply.text)
    return CtlExit.DONE


def _write(text: str) -> None:
    """Print a report byte for byte; on a terminal, as lines that it shows and never obeys."""
    if sys.stdout.isatty():
        from ..report.escape import printable

        for line in text.removesuffix("\n").split("\n") if text else ():
            sys.stdout.write(f"{printable(line.expandtabs())}\n")
        return
    buffer = getattr(sys.stdout, "buffer", None)
    if buffer is None:  # a program that calls main() has put something else there
        sys.stdout.write(text)
        return
    sys.stdout.flush()
    buffer.write(text.encode("utf-8", "surrogateescape"))


def _fail(code: CtlExit, message: str) -> int:
    from .command import fail

    return fail(code, message)
