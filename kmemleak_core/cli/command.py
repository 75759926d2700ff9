"""Turns a command line into an exit code: picks the subcommand, words what went wrong."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from enum import IntEnum
from importlib import import_module

from .. import __version__
from ..errors import KmemleakError, UsageError
from ..report.escape import printable
from .help import CommandParser

#: Subcommands, as the help tells them: modules of this package, by what they are for.
GROUPS = {
    "what leaks, and why": ("scan", "explain", "referrers", "paths", "cluster"),
    "what a heap consists of, leaks or not": ("types", "retained", "export"),
    "what has changed": ("diff", "census"),
    "dumps": ("dump", "vmcore"),
    "without a dump": ("replay", "parse", "kernel", "ctl"),
}
SUBCOMMANDS = tuple(name for names in GROUPS.values() for name in names)


class ExitCode(IntEnum):
    """What the command tells its caller."""

    CLEAN = 0
    LEAKS = 1
    USAGE = 2
    BAD_DUMP = 3
    COMMAND_FAILED = 4
    BUG = 70
    INTERRUPTED = 128 + signal.SIGINT
    BROKEN_PIPE = 128 + signal.SIGPIPE


#: The same for people; every subcommand's help ends with it.
EXIT_CODES = """\
exit codes:
  0  no leaks
  1  leaks were found
  2  wrong usage
  3  the dump cannot be read, or holds no known heap
"""

_DESCRIPTION = """\
Finds the memory that nobody can reach any more: in the core file of a program that nobody
instrumented, in a kernel's dump, or in any other image of memory.
"""

_EXAMPLES = """\
to begin with:
  kmemleak dump 1234 -o core             dump a running process, which goes on
  kmemleak scan core                     what leaks, the largest first
  kmemleak explain core 0x557033f8a2a0   what an object is, and who holds it
  kmemleak retained core                 what keeps the heap big, leaks or not

examples:
  kmemleak scan --format html -o report.html core
  kmemleak scan --json core > leaks.json
  kmemleak diff core.monday core.tuesday
  kmemleak replay events.csv
  kmemleak parse /sys/kernel/debug/kmemleak
  kmemleak kernel -- make test

`kmemleak COMMAND --help` tells the options, examples and exit codes of each. Of most commands they
are these:

"""


def build_parser(argv: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser of a command line: with its subcommand alone, where it begins with one."""
    parser = CommandParser(
        prog="kmemleak",
        usage="%(prog)s [-h] [--version] COMMAND ...",
        description=_DESCRIPTION,
        epilog=_EXAMPLES + EXIT_CODES,
    )
    parser.add_argument("--version", action="version", version=f"kmemleak {__version__}")
    # Their prog would be the usage above.
    subparsers = parser.add_subparsers(
        metavar="COMMAND", required=True, prog=parser.prog, help=argparse.SUPPRESS
    )
    if argv and argv[0] in SUBCOMMANDS:
        _prepare(argv[0], subparsers)
        return parser
    for name in SUBCOMMANDS:
        _prepare(name, subparsers)
    told = {action.dest: action.help or "" for action in subparsers._choices_actions}
    for title, names in GROUPS.items():
        # Indented, it is a table for the formatter.
        parser.add_argument_group(title, "\n".join(f" {name:<10} {told[name]}" for name in names))
    return parser


def _prepare(name: str, subparsers: argparse._SubParsersAction[CommandParser]) -> None:
    import_module(f".{name}", __package__).prepare_parser(subparsers)
    # Who is to complain of what none of them knows.
    subparsers.choices[name].set_defaults(parser=subparsers.choices[name])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the ``kmemleak`` command.

    Parameters
    ----------
    argv
        Arguments without the program's name; None for those of the process.

    Returns
    -------
    int
        An `ExitCode`.
    """
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is escaped, not an error.
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    try:
        argv = sys.argv[1:] if argv is None else argv
        arguments, unknown = build_parser(argv).parse_known_args(argv)
        if unknown:
            arguments.parser.error(f"unrecognized arguments: {' '.join(map(printable, unknown))}")
    except SystemExit as exit:  # argparse has told the user why
        return int(exit.code or 0)
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()
    except BrokenPipeError:
        _abandon_stdout()
        return ExitCode.BROKEN_PIPE
    except KeyboardInterrupt:
        return fail(ExitCode.INTERRUPTED, "interrupted")
    except UsageError as error:
        return fail(ExitCode.USAGE, str(error))
    except KmemleakError as error:
        return fail(ExitCode.BAD_DUMP, str(error))
    except MemoryError:
        return fail(ExitCode.BAD_DUMP, "there is not enough memory for this dump")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return fail(ExitCode.USAGE, f"{where}{error.strerror or error}")
    except Exception:
        import traceback

        # Python's own exit code for this would read as "leaks found".
        sys.stderr.write(traceback.format_exc())
        return fail(ExitCode.BUG, "this is a bug in kmemleak: please report the lines above")
    return code


def fail(code: int, message: str) -> int:
    """Tell the user what went wrong, and return the exit code."""
    text = "\n".join(printable(line) for line in message.split("\n"))
    print(f"kmemleak: {text}", file=sys.stderr)
    return code


def _abandon_stdout() -> None:
    """Let the interpreter's last flush go nowhere: whoever read the output has gone."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):
        return
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, descriptor)
    os.close(devnull)
