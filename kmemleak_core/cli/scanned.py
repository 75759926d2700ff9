"""Turns the options of subcommands that ask for one object into a scanned dump that answers."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import UsageError
from . import output, scan_options

if TYPE_CHECKING:
    from ..who.explain import Explainer


def add_asked(parser: argparse.ArgumentParser) -> None:
    """Add a dump, an address in it, and how the dump is scanned for the answer."""
    where = "anywhere in the object, hexadecimal"
    scan_options.add_scan_options(parser, graph=True, address=where)


def scanned(arguments: argparse.Namespace) -> Explainer:
    """Scan the dump, and return what explains its objects; the output is checked first."""
    source = scan_options.source(arguments)
    if arguments.address is None:
        raise UsageError("there is no address", hint="kmemleak … CORE ADDR")
    output.check_output(arguments.output, arguments.force)

    from ..pipeline import find_leaks
    from ..who.explain import Explainer

    with output.progress(arguments.quiet) as progress:
        found = find_leaks(source, scan_options.analyse_options(arguments), progress)
        return Explainer(found, arguments.sysroot, redact=arguments.redact)


def add_shown(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add where and how the answer is written; return the group, for more of that."""
    shown = parser.add_argument_group("how it is shown")
    output.add_answer(shown, "who.json")
    return shown
