"""Turns options on what counts as a root and as a reference into an analysis's options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from . import output, values
from .kernel_source import add_kernel_source

if TYPE_CHECKING:
    from ..explain import Explainer
    from ..options import AnalyseOptions


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add a dump, an address in it, and how the dump is scanned for the answer."""
    parser.add_argument("core", type=Path, metavar="CORE", help="a core file or vmcore")
    parser.add_argument(
        "address",
        type=values.address,
        metavar="ADDR",
        help="anywhere in the object, hexadecimal",
    )
    what = parser.add_argument_group("what is scanned")
    add_reference_options(what, symbols=True)
    add_kernel_source(parser.add_argument_group("of a kernel's dump"))


def add_reference_options(what: argparse._ActionsContainer, *, symbols: bool = False) -> None:
    """Add what counts as a root, and what as a reference to an object.

    Parameters
    ----------
    what
        Where to.
    symbols
        Whether the subcommand takes symbols from the program's files as well.
    """
    what.add_argument(
        "--sysroot",
        type=Path,
        metavar="DIR",
        help="folder with the program's files, for the pages that the core lacks"
        + (" and for symbols (symbols: default /)" if symbols else ""),
    )
    what.add_argument(
        "--no-roots",
        type=values.names,
        default=frozenset(),
        metavar="CLASS,…",
        help="leave out classes of roots: registers, stacks, tls, data, anonymous, readonly;"
        " of a kernel: data, modules, percpu, pages, reserved, contents, stacks, old-stacks"
        " (their unused parts), phys, registers;"
        " with plain memory, kinds of the roots file",
    )
    what.add_argument(
        "--pointer-mask",
        type=values.mask,
        default=(1 << 64) - 1,
        metavar="HEX",
        help="bits of a word that are address, for tagged pointers",
    )
    what.add_argument(
        "--starts-only",
        action="store_true",
        help="only pointers to an object's start hold it, not those into it",
    )


def scan_options(arguments: argparse.Namespace) -> AnalyseOptions:
    """Return the options of the analysis that `add_address` let the user ask for."""
    from ..options import AnalyseOptions, KernelOptions

    return AnalyseOptions(
        sysroot=arguments.sysroot,
        no_roots=arguments.no_roots,
        pointer_mask=arguments.pointer_mask,
        interior=not arguments.starts_only,
        kernel=KernelOptions(
            vmlinux=arguments.vmlinux, layout=arguments.layout, records=arguments.records
        ),
    )


def scanned(arguments: argparse.Namespace) -> Explainer:
    """Scan the dump, and return what explains its objects; the output is checked first."""
    output.check_output(arguments.output, arguments.force)

    from ..explain import Explainer
    from ..pipeline import find_leaks

    with output.progress(False) as progress:
        found = find_leaks(arguments.core, scan_options(arguments), progress)
        return Explainer(found, arguments.sysroot, redact=arguments.redact)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add where and how the answer is written."""
    shown = parser.add_argument_group("how it is shown")
    shown.add_argument("--json", action="store_true", help="for machines (report/who.json)")
    shown.add_argument(
        "--redact", action="store_true", help="show nothing of what the memory holds"
    )
    output.add_output(shown)
