"""Turns ``kmemleak kernel -- COMMAND`` into the leaks that a command left in the kernel."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from ..errors import UsageError
from ..report.escape import printable
from . import kernel_output, output, values

_DESCRIPTION = """\
Runs a command on a kernel that has kmemleak (CONFIG_DEBUG_KMEMLEAK), and tells what leaked
in the kernel meanwhile: clear, run, scan, wait until objects are old enough, scan again,
and, if there are leaks, once more. Other work on the machine is seen, too. Without a
command, what leaks now is told, and nothing is cleared.
"""

_EPILOG = """\
examples:
  sudo kmemleak kernel -- ./run-tests
  sudo kmemleak kernel --json -o leaks.json -- modprobe -r my_module
  sudo kmemleak kernel --no-clear --suppressions known.txt -- ./run-tests
  sudo kmemleak kernel

With --json or --list on standard output, the command's own goes to standard error.

exit codes:
  0  no leaks
  1  leaks were found
  2  wrong usage
  3  the kernel's kmemleak cannot be used
  4  no leaks, but the command failed
"""


def prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    from ..kernel import KMEMLEAK_FILE, MIN_AGE

    parser = subparsers.add_parser(
        "kernel",
        help="tell what leaks in the running kernel while a command runs",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.set_defaults(run=run, format="text")
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- COMMAND …", help="what to run"
    )
    how = parser.add_argument_group("how it is done")
    how.add_argument(
        "--file",
        type=Path,
        default=KMEMLEAK_FILE,
        metavar="PATH",
        help=f"the kernel's file (default {KMEMLEAK_FILE})",
    )
    how.add_argument(
        "--wait",
        type=values.seconds,
        default=MIN_AGE,
        metavar="SECONDS",
        help=f"between the scans (default {MIN_AGE:g}: younger objects are not reported)",
    )
    how.add_argument(
        "--no-clear",
        action="store_true",
        help="do not clear what leaked before the command, but leave it out",
    )
    kernel_output.add_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do it all, and return the exit code."""
    from ..kernel import KernelFile, check_kernel
    from .command import ExitCode

    command: list[str] = arguments.command
    if command[:1] == ["--"]:
        command = command[1:]
    if command and shutil.which(command[0]) is None:
        raise UsageError(f"{command[0]}: there is no such command")
    output.check_output(arguments.output, arguments.force)
    kernel_output.suppressions(arguments)
    # What is for machines must not have the command's output in it.
    aside = arguments.format != "text" and arguments.output is None

    def run_command() -> int:
        sys.stdout.flush()
        try:
            status = subprocess.run(command, check=False, stdout=2 if aside else None).returncode
        except OSError as error:
            raise UsageError(f"{command[0]}: cannot be run: {error.strerror or error}") from None
        if status:
            # Now: kmemleak can fail later.
            print(f"kmemleak: {_failure(command, status)}", file=sys.stderr)
        return status

    with output.progress(arguments.quiet) as tell:
        result = check_kernel(
            KernelFile(arguments.file),
            run_command if command else None,
            wait=arguments.wait,
            clear=not arguments.no_clear,
            tell=tell,
        )
    analysis = kernel_output.analysed(arguments, result.report, result.before)
    kernel_output.show(
        arguments,
        analysis,
        run={
            "command": command,
            "exit_status": result.status,
            "wait": arguments.wait,
            "cleared": result.cleared,
            "known_before": len(result.before.records) if result.before is not None else 0,
            "transient": result.transient,
        },
    )
    if analysis.found:
        return ExitCode.LEAKS
    return ExitCode.COMMAND_FAILED if result.status else ExitCode.CLEAN


def _failure(command: list[str], status: int) -> str:
    name = printable(command[0])
    if status < 0:
        return f"{name} was killed by signal {-status}"
    return f"{name} failed with exit status {status}"
