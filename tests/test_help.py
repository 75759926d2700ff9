"""Help as a new user sees it: every subcommand's fits a terminal, with examples and exit codes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import pytest

from kmemleak_core.cli import main
from kmemleak_core.cli.command import GROUPS, SUBCOMMANDS, ExitCode, build_parser


def commands(parser: argparse.ArgumentParser | None = None, *names: str) -> Iterator[list[str]]:
    """Yield every command line that has help of its own, without its options."""
    yield list(names)
    for action in (parser or build_parser())._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from commands(inner, *names, name)


def help_of(names: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*names, "--help"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


every_command = pytest.mark.parametrize("names", list(commands()), ids=" ".join)


@every_command
@pytest.mark.parametrize("width", [80, 120])
def test_it_fits_the_terminal(
    names: list[str],
    width: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert [line for line in help_of(names, capsys).splitlines() if len(line) >= width] == []


@every_command
def test_it_has_examples_that_run_that_command_and_exit_codes(
    names: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_of(names, capsys)
    told = text.partition("examples:\n")[2].partition("exit codes:\n")[0]
    assert f"kmemleak {' '.join(names)}".rstrip() in told
    codes = re.findall(r"(?m)^  (\d+)  \S", text.partition("exit codes:\n")[2])
    assert codes[0] == str(int(ExitCode.CLEAN))
    assert {str(int(ExitCode.USAGE)), str(int(ExitCode.BAD_DUMP))} <= set(codes)
    assert codes == sorted(codes)


@every_command
def test_its_usage_is_short(names: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    usage = help_of(names, capsys).partition("\n\n")[0]
    assert usage.startswith(f"usage: kmemleak {' '.join(names)}".rstrip())
    assert len(usage.splitlines()) <= 3


def test_the_command_s_own_lists_every_subcommand_in_its_group(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of([], capsys)
    for title, names in GROUPS.items():
        listed = text.partition(f"\n{title}:\n")[2].partition("\n\n")[0]
        told = [line.split()[0] for line in listed.splitlines() if line[3:4].strip()]
        assert told == list(names)
    assert sorted(SUBCOMMANDS) == sorted({name for names in GROUPS.values() for name in names})


def test_a_wrong_option_is_told_below_the_usage_not_below_a_page_of_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments in (["--colour", "core"], ["--limit", "few", "core"]):
        assert main(["scan", *arguments]) == 2
        *usage, wrong, hint = capsys.readouterr().err.splitlines()
        assert len(usage) == 2
        assert wrong.startswith("kmemleak scan: ")
        assert hint == "  try: kmemleak scan --help"


def test_a_command_that_is_not_there_is_told_with_those_that_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["scam"]) == 2
    err = capsys.readouterr().err
    assert all(name in err for name in SUBCOMMANDS)
