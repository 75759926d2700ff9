"""Turns the words that the ``kmemleak`` file understands into calls of a detector.

The language is the table `COMMANDS`; who may speak, when, is `kmemleak_core.control`'s.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

from .errors import ControlError
from .report.escape import quoted

_UINT_MAX = 2**32 - 1
_ULONG_MAX = 2**64 - 1
#: Bytes of a wrong word that a message repeats.
_SHOWN = 40

#: Says whether the caller has gone or wants no more; it may be asked very often.
Interrupted = Callable[[], bool]


class Counters(Protocol):
    """What the control file needs of a scan's counters."""

    @property
    def interrupted(self) -> bool:
        """Whether the scan was cancelled, so that nothing new is reported."""


class Detector(Protocol):
    """What the control file needs of `kmemleak_core.Kmemleak`, whose docstrings say more."""

    stack_scan: bool

    @property
    def enabled(self) -> bool:
        """False after `disable`, for good."""

    @property
    def disable_reason(self) -> str:
        """Why it is disabled."""

    @property
    def strict_kernel(self) -> bool:
        """Whether it behaves as the kernel does where better is possible."""

    def scan(self, cancel: Any = None) -> Counters:
        """Scan now."""

    def clear(self) -> int:
        """Grey the reported, unreferenced objects; when disabled, forget everything."""

    def clear_all(self) -> int:
        """Grey all unreferenced objects."""

    def disable(self, reason: str = "off") -> None:
        """Stop for good."""

    def start_scanning(self, period: float | None = None) -> None:
        """Start the automatic thread; idempotent."""

    def stop_scanning(self) -> None:
        """Stop the automatic thread; idempotent."""

    def read(self) -> str:
        """Return the report."""

    def describe(self, address: int) -> str:
        """Return what is known of the object at an address."""

    def stats(self) -> Mapping[str, object]:
        """Return counters by name."""


class Cancellation:
    """Asks a caller's `Interrupted` whether to stop; a function and an event in one."""

    def __init__(self, interrupted: Interrupted) -> None:
        self._interrupted = interrupted
        self._known = False

    def is_set(self) -> bool:
        """Whether to stop; once true, it stays true."""
        self._known = self._known or self._interrupted()
        return self._known

    __call__ = is_set


@dataclass(frozen=True)
class Request:
    """One command on its way to the detector."""

    detector: Detector
    operand: str
    strict: bool
    interrupted: Interrupted | None


# ---- the commands, one small function each -------------------------------------------------


def _clear(request: Request) -> str:
    request.detector.clear()
    return ""


def _clear_all(request: Request) -> str:
    if request.detector.enabled:
        request.detector.clear_all()
    else:
        request.detector.clear()
    return ""


def _off(request: Request) -> str:
    request.detector.disable("off")
    return ""


def _stack_on(request: Request) -> str:
    request.detector.stack_scan = True
    return ""


def _stack_off(request: Request) -> str:
    request.detector.stack_scan = False
    return ""


def _scan_on(request: Request) -> str:
    request.detector.start_scanning()
    return ""


def _scan_off(request: Request) -> str:
    request.detector.stop_scanning()
    return ""


def _scan_period(request: Request) -> str:
    # Parsed before anything is stopped: a bad number changes nothing.
    period = seconds(request.operand, decimals=not request.strict)
    request.detector.stop_scanning()
    if period:
        request.detector.start_scanning(period)
    return ""


def _scan(request: Request) -> str:
    cancel = None if request.interrupted is None else Cancellation(request.interrupted)
    counters = request.detector.scan(cancel=cancel)
    if counters.interrupted and not request.strict:
        raise ControlError(errno.EINTR, "the scan was interrupted: it reports nothing new")
    return ""


def _dump(request: Request) -> str:
    return request.detector.describe(address(request.operand))


def _stats(request: Request) -> str:
    return "".join(f"{name}: {value}\n" for name, value in request.detector.stats().items())


def _help(request: Request) -> str:
    return help_text()


@dataclass(frozen=True)
class Command:
    """One row of the language."""

    word: str
    """What is written; followed by the operand where it ends in ``=``."""
    run: Callable[[Request], str]
    summary: str
    operand: str = ""
    """How the help calls what follows the word."""
    after_off: bool = False
    """Whether it is accepted by a disabled detector."""
    kernel: bool = True
    """Whether the kernel has it."""
    joins: bool = False
    """Whether it may wait for the automatic thread, so that it must not hold up that thread."""

    @property
    def usage(self) -> str:
        """The word with its operand."""
        return self.word + self.operand

    def matches(self, text: str, *, prefix: bool) -> bool:
        """Whether `text` is this command; by its beginning only, as in the kernel, or exactly."""
        if prefix:
            return self.kernel and text.startswith(self.word)
        return text.startswith(self.word) if self.operand else text == self.word


#: The language, in the order in which the kernel compares.
COMMANDS: tuple[Command, ...] = (
    Command("clear", _clear, "accept all reported leaks: show new ones only", after_off=True),
    Command(
        "clear all",
        _clear_all,
        "the same, and accept what is unreferenced but not yet reported",
        after_off=True,
        kernel=False,
    ),
    Command("off", _off, "disable kmemleak, for good", joins=True),
    Command("stack=on", _stack_on, "scan the stacks (default)"),
    Command("stack=off", _stack_off, "do not scan the stacks"),
    Command("scan=on", _scan_on, "start the automatic scanning", joins=True),
    Command("scan=off", _scan_off, "stop the automatic scanning", joins=True),
    Command(
        "scan=",
        _scan_period,
        "scan automatically every SECS seconds; 0 stops it",
        operand="SECS",
        joins=True,
    ),
    Command("scan", _scan, "scan now, and return when the scan is done"),
    Command("dump=", _dump, "tell what is known of the object at ADDR", operand="ADDR"),
    Command("stats", _stats, "tell the detector's counters", kernel=False),
    Command("help", _help, "tell the commands", kernel=False),
)


def help_text() -> str:
    """Return the language, a command a line."""
    width = max(len(command.usage) for command in COMMANDS)
    return "".join(f"{command.usage:<{width}}  {command.summary}\n" for command in COMMANDS)


def accepted_words(*, strict: bool = False) -> str:
    """Return the commands in one line, as error messages name them."""
    return ", ".join(command.usage for command in COMMANDS if command.kernel or not strict)


# ---- numbers -------------------------------------------------------------------------------


_DIGITS = {
    16: re.compile("0[xX]([0-9a-fA-F]+)"),
    8: re.compile("([0-7]+)"),
    10: re.compile("([0-9]+)"),
}
#: Digits of the largest number, in octal.
_MOST_DIGITS = 22


def number(text: str, maximum: int) -> int:
    r"""Read an unsigned number as the kernel's ``kstrtoull`` with base 0 does.

    ``0x`` means hexadecimal, another leading 0 octal; a ``+`` before and one newline behind are
    allowed, blanks are not.

    Raises
    ------
    ControlError
        EINVAL if it is no number, ERANGE if it exceeds `maximum`.
    """
    no_number = ControlError(errno.EINVAL, f"{shown(text)} is no number")
    too_large = ControlError(errno.ERANGE, f"{shown(text)} is larger than {maximum}")
    digits = text.removeprefix("+")
    base = 16 if re.match("0[xX][0-9a-fA-F]", digits) else 8 if digits.startswith("0") else 10
    match = _DIGITS[base].match(digits)
    if match is None:
        raise no_number
    # Bounded before the conversion, whose time grows with the square of the length.
    value = int(match[1], base) if len(match[1].lstrip("0")) <= _MOST_DIGITS else _ULONG_MAX + 1
    if value > _ULONG_MAX:  # the kernel notices this before it looks at what follows
        raise too_large
    if digits[match.end() :] not in ("", "\n"):
        raise no_number
    if value > maximum:
        raise too_large
    return value


def seconds(text: str, *, decimals: bool) -> float:
    """Read the period of the automatic scanning.

    Parameters
    ----------
    text
        The operand of ``scan=``.
    decimals
        Accept decimal fractions also, which the kernel does not.

    Returns
    -------
    float
        Seconds in whole milliseconds, at most 4294967.295 (the kernel's cap), rounded up: only
        zero becomes zero.

    Raises
    ------
    ControlError
        EINVAL or ERANGE (above 2**32 - 1 seconds).
    """
    if decimals and re.fullmatch(r"\+?([0-9]+\.[0-9]*|\.[0-9]+)", text):
        value = float(text)
        if value > _UINT_MAX:
            raise ControlError(errno.ERANGE, f"scan={shown(text)}: more than {_UINT_MAX} seconds")
        return min(ceil(value * 1000), _UINT_MAX) / 1000
    try:
        value = number(text, _UINT_MAX)
    except ControlError as error:
        wanted = "scan=SECS wants a number of seconds, or one of: scan=on, scan=off"
        raise ControlError(error.errno, f"{error}: {wanted}") from None
    return min(value * 1000, _UINT_MAX) / 1000


def address(text: str) -> int:
    """Read an address; whatever is wrong with it is EINVAL, as in the kernel."""
    try:
        return number(text, _ULONG_MAX)
    except ControlError as error:
        raise ControlError(
            errno.EINVAL, f"{error}: dump=ADDR wants an address, such as dump=0x7f0010"
        ) from None


def shown(text: str) -> str:
    """Return what was written as a message may repeat it: printable, in quotes, not too long."""
    return quoted(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
