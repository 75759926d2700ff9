"""The words of the control file: what the kernel's documentation and its sources promise."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmemleak_core.control import (
    COMMANDS,
    MAX_COMMAND,
    ControlError,
    ControlFile,
    accepted_words,
    help_text,
)
from kmemleak_core.control_language import number

from .fake_detector import KNOWN, FakeDetector

Both = pytest.mark.parametrize("strict", [False, True], ids=["default", "strict_kernel"])


class File:
    """A control file over a fake detector, and what one asks it."""

    def __init__(self, strict: bool = False) -> None:
        self.detector = FakeDetector(strict_kernel=strict)
        self.control = ControlFile(self.detector)

    def write(self, data: bytes) -> str:
        return self.control.execute(data)

    def refuses(self, data: bytes, code: int) -> str:
        before = list(self.detector.calls)
        with pytest.raises(ControlError) as caught:
            self.control.execute(data)
        assert caught.value.errno == code, caught.value
        assert self.detector.calls in (before, [*before, ("dump", 0)])
        return str(caught.value)

    @property
    def calls(self) -> list[object]:
        return self.detector.calls


@pytest.fixture
def file() -> File:
    return File()


@pytest.fixture
def kernel() -> File:
    return File(strict=True)


class TestUsage:
    """The documentation's "Usage": what it says of the file before it lists the parameters."""

    @Both
    def test_reading_displays_the_details_of_all_possible_leaks(self, strict: bool) -> None:
        file = File(strict)
        file.detector.leak()
        file.detector.leak()
        assert file.control.read().count(b"unreferenced object") == 2

    @Both
    def test_echo_scan_triggers_an_intermediate_scan(self, strict: bool) -> None:
        file = File(strict)
        assert file.write(b"scan\n") == ""
        assert file.calls == ["scan"]

    @Both
    def test_echo_clear_clears_the_list_of_current_leaks(self, strict: bool) -> None:
        file = File(strict)
        file.write(b"scan\n")
        assert file.control.read()
        assert file.write(b"clear\n") == ""
        assert file.control.read() == b""

    @Both
    def test_new_leaks_come_up_upon_reading_again(self, strict: bool) -> None:
        file = File(strict)
        file.write(b"scan\n")
        file.write(b"clear\n")
        file.write(b"scan\n")
        assert b"0x00002000" in file.control.read()
        assert b"0x00001000" not in file.control.read()

    def test_orphans_are_listed_in_the_order_of_their_allocation(self, file: File) -> None:
        for _ in range(3):
            file.write(b"scan")
        report = file.control.read()
        positions = [report.index(b"0x0000%d000" % n) for n in (1, 2, 3)]
        assert positions == sorted(positions)

    def test_parameters_are_modified_at_run_time_by_writing(self, file: File) -> None:
        file.write(b"stack=off")
        assert not file.detector.stack_scan
        file.write(b"stack=on")
        assert file.detector.stack_scan

    def test_a_section_is_tested_by_clear_then_scan_then_read(self, file: File) -> None:
        file.write(b"scan\n")
        file.write(b"clear\n")
        file.write(b"scan\n")
        assert file.control.read().count(b"unreferenced object") == 1

    def test_reading_does_not_scan_whatever_the_documentation_says(self, file: File) -> None:
        file.control.read()
        assert "scan" not in file.calls


class TestParameters:
    """The documentation's list of parameters, a line each."""

    @Both
    def test_off_disables_kmemleak(self, strict: bool) -> None:
        file = File(strict)
        assert file.write(b"off\n") == ""
        assert not file.detector.enabled

    @Both
    def test_off_is_irreversible(self, strict: bool) -> None:
        file = File(strict)
        file.write(b"off\n")
        for command in (b"scan=on\n", b"scan=30\n", b"stack=on\n", b"scan\n", b"off\n"):
            file.refuses(command, errno.EPERM)
        assert not file.detector.enabled

    @Both
    def test_stack_on_enables_the_task_stacks(self, strict: bool) -> None:
        file = File(strict)
        file.detector.stack_scan = False
        file.write(b"stack=on\n")
        assert file.detector.stack_scan

    @Both
    def test_stack_off_disables_the_task_stacks(self, strict: bool) -> None:
        file = File(strict)
        file.write(b"stack=off\n")
        assert not file.detector.stack_scan

    @Both
    def test_scan_on_starts_the_automatic_thread(self, strict: bool) -> None:
        file = File(strict)
        file.write(b"scan=on\n")
        assert file.calls == [("start", None)]

    @Both
    def test_scan_off_stops_the_automatic_thread(self, strict: bool) -> None:
        file = File(strict)
        file.write(b"scan=off\n")
        assert file.calls == ["stop"]

    @Both
    def test_scan_secs_sets_the_period_in_seconds(self, strict: bool) -> None:
        file = File(strict)
        file.write(b"scan=600\n")
        assert file.calls == ["stop", ("start", 600.0)]

    @Both
    def test_scan_0_stops_the_automatic_scanning(self, strict: bool) -> None:
        file = File(strict)
        file.write(b"scan=0\n")
        assert file.calls == ["stop"]

    @Both
    def test_scan_triggers_a_scan(self, strict: bool) -> None:
        file = File(strict)
        file.write(b"scan\n")
        assert file.calls == ["scan"]

    @Both
    def test_clear_clears_the_current_suspects(self, strict: bool) -> None:
        file = File(strict)
        file.write(b"clear\n")
        assert file.calls == ["clear"]

    @Both
    def test_dump_tells_of_the_object_at_the_address(self, strict: bool) -> None:
        file = File(strict)
        reply = file.write(f"dump={KNOWN:#x}\n".encode())
        assert f"{KNOWN:#x}" in reply
        assert file.calls == [("dump", KNOWN)]


class TestTheKernelsOrder:
    """semantics.md, section 3: the rows of the table of commands."""

    def test_the_table_is_in_the_kernels_order(self) -> None:
        assert [command.word for command in COMMANDS if command.kernel] == [
            "clear",
            "off",
            "stack=on",
            "stack=off",
            "scan=on",
            "scan=off",
            "scan=",
            "scan",
            "dump=",
        ]

    @Both
    def test_1_clear_while_disabled_frees_all_metadata(self, strict: bool) -> None:
        file = File(strict)
        file.write(b"off")
        file.write(b"clear")
        assert file.calls == ["off", "clear"]

    def test_1_clear_all_while_disabled_is_clear(self, file: File) -> None:
        file.write(b"off")
        file.write(b"clear all")
        assert file.calls == ["off", "clear"]

    @Both
    @pytest.mark.parametrize(
        "command",
        [b"off", b"stack=on", b"scan=on", b"scan=5", b"scan=bad", b"scan", b"dump=1", b"stats"],
    )
    def test_2_while_disabled_all_else_is_eperm(self, strict: bool, command: bytes) -> None:
        file = File(strict)
        file.write(b"off")
        file.refuses(command, errno.EPERM)

    @Both
    def test_2_while_disabled_even_a_wrong_word_is_eperm(self, strict: bool) -> None:
        file = File(strict)
        file.write(b"off")
        file.refuses(b"bogus", errno.EPERM)

    def test_2_eperm_says_why_it_is_disabled_and_what_is_accepted(self, file: File) -> None:
        file.detector.disable("out of memory")
        message = file.refuses(b"scan", errno.EPERM)
        assert "out of memory" in message
        assert "clear" in message

    @Both
    def test_5_stack_off_is_not_taken_for_stack_on(self, strict: bool) -> None:
        file = File(strict)
        file.write(b"stack=off")
        assert not file.detector.stack_scan

    @Both
    def test_6_scan_on_twice_is_no_error(self, strict: bool) -> None:
        file = File(strict)
        file.write(b"scan=on")
        file.write(b"scan=on")

    @Both
    def test_8_scan_n_stops_before_it_starts(self, strict: bool) -> None:
        file = File(strict)
        file.write(b"scan=7")
        assert file.calls == ["stop", ("start", 7.0)]

    @Both
    @pytest.mark.parametrize(
        "command", [b"", b"\n", b"bogus", b"Scan", b"CLEAR", b"dump", b"stack="]
    )
    def test_other_words_and_none_are_einval(self, strict: bool, command: bytes) -> None:
        File(strict).refuses(command, errno.EINVAL)


class TestExactWords:
    """The default: a wrong word is EINVAL, and the error names the accepted ones."""

    @pytest.mark.parametrize(
        "command",
        [b"scanner", b"offx", b"clearx", b"clear all x", b"stack=only", b"scan=once", b"scan on"],
    )
    def test_a_word_that_only_begins_right_is_einval(self, file: File, command: bytes) -> None:
        file.refuses(command, errno.EINVAL)

    def test_the_error_names_each_accepted_word(self, file: File) -> None:
        message = file.refuses(b"scanner", errno.EINVAL)
        assert '"scanner"' in message
        for command in COMMANDS:
            assert command.usage in message

    def test_one_newline_behind_is_stripped(self, file: File) -> None:
        file.write(b"scan\n")
        file.refuses(b"scan\n\n", errno.EINVAL)

    @pytest.mark.parametrize("command", [b" scan", b"scan ", b"\tscan \n", b" scan=5 \n"])
    def test_blanks_around_do_not_matter(self, file: File, command: bytes) -> None:
        file.write(command)

    def test_a_c_string_with_its_terminator_is_accepted(self, file: File) -> None:
        file.write(b"scan\0")
        assert file.calls == ["scan"]

    def test_an_embedded_nul_is_einval(self, file: File) -> None:
        file.refuses(b"scan\0ner", errno.EINVAL)

    def test_two_commands_in_one_write_are_einval(self, file: File) -> None:
        file.refuses(b"clear\nscan\n", errno.EINVAL)

    def test_a_command_longer_than_the_kernels_buffer_is_not_cut(self, file: File) -> None:
        file.write(b"scan=" + b"0" * 70 + b"\n")
        file.refuses(b"clear" + b" " * 60 + b"x", errno.EINVAL)

    def test_an_oversize_write_is_einval(self, file: File) -> None:
        message = file.refuses(b"scan" + b" " * MAX_COMMAND, errno.EINVAL)
        assert str(MAX_COMMAND) in message

    def test_the_message_of_a_wrong_word_is_printable_and_short(self, file: File) -> None:
        message = file.refuses(b"\x1b[31m\xff" * 100, errno.EINVAL)
        assert message.isprintable()
        assert len(message) < 400

    def test_clear_all_greys_what_is_not_yet_reported_too(self, file: File) -> None:
        file.write(b"clear all\n")
        assert file.calls == ["clear all"]

    def test_stats_tells_the_counters_a_line_each(self, file: File) -> None:
        assert file.write(b"stats\n") == "objects: 7\nscans: 2\n"

    def test_help_tells_each_command(self, file: File) -> None:
        reply = file.write(b"help\n")
        assert reply == help_text()
        assert [line.split("  ")[0] for line in reply.splitlines()] == [c.usage for c in COMMANDS]

    @given(st.binary(max_size=100))
    def test_whatever_is_written_is_a_command_or_a_control_error(self, data: bytes) -> None:
        for strict in (False, True):
            with suppress(ControlError):
                File(strict).write(data)


class TestStrictWords:
    """`strict_kernel`: prefixes, 63 bytes, no trimming."""

    @pytest.mark.parametrize(
        ("command", "call"),
        [
            (b"scanner", "scan"),
            (b"offx", "off"),
            (b"clear all", "clear"),
            (b"clearing", "clear"),
            (b"scan=online", ("start", None)),
            (b"scan=offline", "stop"),
        ],
    )
    def test_words_are_matched_as_prefixes(
        self, kernel: File, command: bytes, call: object
    ) -> None:
        kernel.write(command)
        assert kernel.calls == [call]

    def test_only_the_first_63_bytes_are_read(self, kernel: File) -> None:
        kernel.write(b"scan=" + b"0" * 57 + b"5" + b"9999")
        assert kernel.calls == ["stop", ("start", 5.0)]

    def test_an_embedded_nul_ends_the_command(self, kernel: File) -> None:
        kernel.write(b"scan=5\0junk")
        assert kernel.calls == ["stop", ("start", 5.0)]

    @pytest.mark.parametrize("command", [b" scan", b"\tscan", b"\nscan", b"\0scan"])
    def test_nothing_is_trimmed(self, kernel: File, command: bytes) -> None:
        kernel.refuses(command, errno.EINVAL)

    @pytest.mark.parametrize("command", [b"stats", b"help"])
    def test_words_that_the_kernel_lacks_are_einval(self, kernel: File, command: bytes) -> None:
        message = kernel.refuses(command, errno.EINVAL)
        assert "stats" not in message.split("accepted are")[1]

    def test_the_mode_can_be_chosen_for_one_file(self) -> None:
        control = ControlFile(FakeDetector(), strict_kernel=True)
        assert control.execute(b"scanner") == ""


class TestNumbers:
    @Both
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            (b"10", 10.0),
            (b"+10", 10.0),
            (b"10\n", 10.0),
            (b"0x10", 16.0),
            (b"0X1f", 31.0),
            (b"+0x10", 16.0),
            (b"010", 8.0),
            (b"00010", 8.0),
        ],
    )
    def test_the_base_is_seen_from_the_prefix(
        self, strict: bool, text: bytes, value: float
    ) -> None:
        file = File(strict)
        file.write(b"scan=" + text)
        assert file.calls == ["stop", ("start", value)]

    @Both
    @pytest.mark.parametrize(
        "text",
        [b"", b"x", b"-1", b"5s", b"5 s", b"08", b"0x", b"0xg", b"++5", b"+", b"1e3", b"nan", b"."],
    )
    def test_a_bad_number_is_einval_and_changes_nothing(self, strict: bool, text: bytes) -> None:
        file = File(strict)
        message = file.refuses(b"scan=" + text, errno.EINVAL)
        assert "scan=SECS" in message
        assert file.calls == []

    def test_a_second_newline_is_einval_in_the_kernel(self, kernel: File) -> None:
        kernel.refuses(b"scan=5\n\n", errno.EINVAL)

    def test_a_blank_is_einval_in_the_kernel(self, kernel: File) -> None:
        kernel.refuses(b"scan= 5", errno.EINVAL)
        kernel.refuses(b"scan=5 ", errno.EINVAL)

    @Both
    @pytest.mark.parametrize(
        "text",
        [b"4294967296", b"0x100000000", b"18446744073709551616", b"9" * 40, b"9" * 40 + b"x"],
    )
    def test_an_overflow_is_erange_and_changes_nothing(self, strict: bool, text: bytes) -> None:
        file = File(strict)
        file.refuses(b"scan=" + text, errno.ERANGE)
        assert file.calls == []

    @Both
    def test_junk_behind_a_number_of_64_bits_is_einval_not_erange(self, strict: bool) -> None:
        File(strict).refuses(b"scan=4294967296x", errno.EINVAL)

    @Both
    @pytest.mark.parametrize("text", [b"4294968", b"4294967295"])
    def test_the_period_is_capped_at_uint_max_milliseconds(self, strict: bool, text: bytes) -> None:
        file = File(strict)
        file.write(b"scan=" + text)
        assert file.calls == ["stop", ("start", 4294967.295)]

    @pytest.mark.parametrize(
        ("text", "value"),
        [(b"0.5", 0.5), (b".25", 0.25), (b"2.", 2.0), (b"+1.5", 1.5), (b"010.5", 10.5)],
    )
    def test_decimals_are_accepted(self, file: File, text: bytes, value: float) -> None:
        file.write(b"scan=" + text)
        assert file.calls == ["stop", ("start", value)]

    def test_decimals_are_einval_in_the_kernel(self, kernel: File) -> None:
        kernel.refuses(b"scan=0.5", errno.EINVAL)

    def test_a_tiny_period_is_a_millisecond_and_not_a_stop(self, file: File) -> None:
        file.write(b"scan=0.0000001")
        assert file.calls == ["stop", ("start", 0.001)]

    def test_decimal_zero_stops(self, file: File) -> None:
        file.write(b"scan=0.0")
        assert file.calls == ["stop"]

    def test_huge_decimals_are_erange(self, file: File) -> None:
        file.refuses(b"scan=" + b"9" * 500 + b".0", errno.ERANGE)

    @given(st.integers(0, 2**64 - 1), st.sampled_from(["{}", "{:#x}", "0{:o}", "+{}", "{}\n"]))
    def test_what_python_writes_is_read_back(self, value: int, form: str) -> None:
        assert number(form.format(value), 2**64 - 1) == value


class TestDump:
    @Both
    @pytest.mark.parametrize("text", [b"", b"x", b"0xzz", b"-1", b"9" * 30])
    def test_all_parse_errors_are_einval(self, strict: bool, text: bytes) -> None:
        message = File(strict).refuses(b"dump=" + text, errno.EINVAL)
        assert "dump=ADDR" in message

    @Both
    def test_an_unknown_object_is_einval(self, strict: bool) -> None:
        file = File(strict)
        with pytest.raises(ControlError, match="Unknown object at 0x00001234") as caught:
            file.write(b"dump=0x1234")
        assert caught.value.errno == errno.EINVAL

    @Both
    def test_the_whole_64_bits_are_an_address(self, strict: bool) -> None:
        file = File(strict)
        with pytest.raises(ControlError):
            file.write(b"dump=0xffffffffffffffff")
        assert file.calls == [("dump", 2**64 - 1)]

    @Both
    def test_through_the_file_the_object_goes_to_the_log_not_the_file(
        self, strict: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        opened = File(strict).control.open()
        with caplog.at_level(logging.INFO, "kmemleak_core"):
            opened.write(f"dump={KNOWN:#x}\n".encode())
        assert f"Object {KNOWN:#x}" in caplog.text
        assert opened.read(1000, 0) == b""


class TestInterrupted:
    def interrupt_a_scan(self, file: File) -> str:
        file.detector.hold = threading.Event()
        return file.control.execute(b"scan", interrupted=lambda: True)

    def test_an_interrupted_scan_says_so(self, file: File) -> None:
        with pytest.raises(ControlError, match="interrupted") as caught:
            self.interrupt_a_scan(file)
        assert caught.value.errno == errno.EINTR

    def test_in_the_kernel_an_interrupted_scan_returns_success(self, kernel: File) -> None:
        assert self.interrupt_a_scan(kernel) == ""

    @Both
    def test_an_interrupted_scan_reports_nothing_new(self, strict: bool) -> None:
        file = File(strict)
        try:
            self.interrupt_a_scan(file)
        except ControlError:
            assert not strict
        assert file.control.read() == b""


class Busy:
    """A file with a scan that goes on in another thread."""

    def __init__(self, strict: bool) -> None:
        self.file = File(strict)
        self.done = self.file.detector.hold = threading.Event()
        self._thread = threading.Thread(target=self.file.write, args=(b"scan",))

    def __enter__(self) -> Busy:
        self._thread.start()
        assert self.file.detector.scanning_now.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self._thread.join(10)


class TestSerialised:
    """Reads and writes take turns."""

    @Both
    @pytest.mark.parametrize("command", [b"scan", b"clear", b"stack=off", b"dump=1"])
    def test_a_command_that_must_not_wait_is_ebusy(self, strict: bool, command: bytes) -> None:
        with Busy(strict) as busy, pytest.raises(ControlError) as caught:
            busy.file.control.execute(command, wait=False)
        assert caught.value.errno == errno.EBUSY

    @Both
    def test_a_read_that_must_not_wait_is_ebusy(self, strict: bool) -> None:
        with Busy(strict) as busy, pytest.raises(ControlError) as caught:
            busy.file.control.read(wait=False)
        assert caught.value.errno == errno.EBUSY

    @Both
    @pytest.mark.parametrize("what", ["read", "clear"])
    def test_one_who_is_interrupted_while_waiting_gets_eintr(self, strict: bool, what: str) -> None:
        with Busy(strict) as busy:
            control = busy.file.control
            asks: dict[str, Callable[[], object]] = {
                "read": lambda: control.read(interrupted=lambda: True),
                "clear": lambda: control.execute(b"clear", interrupted=lambda: True),
            }
            with pytest.raises(ControlError) as caught:
                asks[what]()
        assert caught.value.errno == errno.EINTR
        assert busy.file.calls == ["scan"]

    @Both
    def test_a_command_waits_for_the_scan_that_goes_on(self, strict: bool) -> None:
        with Busy(strict) as busy:
            waiting = threading.Thread(target=busy.file.write, args=(b"clear",))
            waiting.start()
            assert busy.file.calls == ["scan"]
            busy.done.set()
            waiting.join(10)
        assert busy.file.calls == ["scan", "clear"]
        assert busy.file.control.read() == b""

    def test_all_files_of_one_detector_take_turns(self) -> None:
        with Busy(False) as busy, pytest.raises(ControlError) as caught:
            ControlFile(busy.file.detector).execute(b"clear", wait=False)
        assert caught.value.errno == errno.EBUSY

    def test_files_of_two_detectors_do_not(self) -> None:
        with Busy(False), Busy(False):
            pass

    @Both
    @pytest.mark.parametrize("command", [b"scan=off", b"scan=on", b"scan=9", b"off"])
    def test_starting_and_stopping_does_not_hold_up_the_scanning_thread(
        self, strict: bool, command: bytes
    ) -> None:
        """The kernel joins its thread with the lock held that the thread wants."""
        with Busy(strict) as busy:
            busy.file.control.execute(command, wait=False)

    def test_a_failed_command_gives_its_turn_back(self, file: File) -> None:
        file.refuses(b"bogus", errno.EINVAL)
        file.refuses(b"scan=x", errno.EINVAL)
        file.control.execute(b"scan", wait=False)
        file.control.execute(b"scan=3", wait=False)


class TestFailures:
    def test_a_detector_that_is_switched_off_meanwhile_is_eperm(self, file: File) -> None:
        from kmemleak_core.errors import KmemleakError

        def scan(cancel: object = None) -> None:
            file.detector.disable("off")
            raise KmemleakError("disabled")

        file.detector.scan = scan  # type: ignore[method-assign,assignment]
        with pytest.raises(ControlError) as caught:
            file.write(b"scan")
        assert caught.value.errno == errno.EPERM

    def test_an_error_of_the_detector_is_eio(self, file: File) -> None:
        from kmemleak_core.errors import FaultError

        file.detector.failure = FaultError(0x10)
        with pytest.raises(ControlError, match="0x10") as caught:
            file.write(b"scan")
        assert caught.value.errno == errno.EIO

    def test_no_memory_is_enomem(self, file: File) -> None:
        file.detector.failure = MemoryError()
        with pytest.raises(ControlError) as caught:
            file.write(b"scan")
        assert caught.value.errno == errno.ENOMEM

    def test_a_report_with_bytes_that_are_no_text_keeps_them(self, file: File) -> None:
        file.detector.records = ["comm \udcff\n"]
        assert file.control.read() == b"comm \xff\n"

    def test_a_report_with_what_no_encoding_has_is_escaped(self, file: File) -> None:
        file.detector.records = ["comm \ud800\n"]
        assert file.control.read() == b"comm \\ud800\n"


class TestPosition:
    """The file position, as a file server meets with it."""

    def test_pieces_make_up_the_report(self, file: File) -> None:
        file.write(b"scan")
        opened = file.control.open()
        pieces = []
        offset = 0
        while piece := opened.read(7, offset):
            pieces.append(piece)
            offset += len(piece)
        assert b"".join(pieces) == file.control.read()

    def test_clearing_between_two_reads_tears_and_skips_nothing(self, file: File) -> None:
        for _ in range(3):
            file.write(b"scan")
        whole = file.control.read()
        opened = file.control.open()
        first = opened.read(50, 0)
        file.write(b"clear")
        assert first + opened.read(10_000, 50) == whole

    def test_a_new_leak_between_two_reads_is_not_half_there(self, file: File) -> None:
        file.write(b"scan")
        whole = file.control.read()
        opened = file.control.open()
        first = opened.read(10, 0)
        file.write(b"scan")
        assert first + opened.read(10_000, 10) == whole
        assert opened.read(10_000, len(whole)) == b""

    def test_reading_at_0_again_shows_the_present(self, file: File) -> None:
        opened = file.control.open()
        assert opened.read(1000, 0) == b""
        file.write(b"scan")
        assert opened.read(1000, 0) == file.control.read()

    def test_two_openers_have_reports_of_their_own(self, file: File) -> None:
        file.write(b"scan")
        first, second = file.control.open(), file.control.open()
        head = first.read(5, 0)
        file.write(b"clear")
        assert second.read(1000, 0) == b""
        assert (head + first.read(1000, 5)).startswith(b"unreferenced object")

    @Both
    def test_after_a_write_a_read_at_its_end_skips_as_many_bytes(self, strict: bool) -> None:
        file = File(strict)
        opened = file.control.open()
        taken = opened.write(b"scan\n")
        assert opened.read(1000, taken) == file.control.read()[5:]
        assert opened.read(1000, 0) == file.control.read()

    @Both
    def test_success_consumes_the_entire_write(self, strict: bool) -> None:
        data = b"scan\n" if not strict else b"scan" + b"x" * 500
        assert File(strict).control.open().write(data) == len(data)

    def test_offsets_behind_the_end_are_empty(self, file: File) -> None:
        file.write(b"scan")
        assert file.control.open().read(100, 1 << 40) == b""

    def test_an_opener_who_must_not_wait_gets_ebusy(self) -> None:
        with Busy(False) as busy:
            opened = busy.file.control.open(wait=False)
            with pytest.raises(ControlError) as caught:
                opened.read(10, 0)
        assert caught.value.errno == errno.EBUSY


def test_the_accepted_words_of_the_kernel_lack_ours() -> None:
    assert "help" in accepted_words()
    assert "help" not in accepted_words(strict=True)
