"""The test helper and the pytest plugin: a test that leaks fails with the report."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

import kmemleak_core as km

pytest_plugins = ["pytester"]


def detector(**options: object) -> km.Kmemleak:
    memory = km.MemoryImage.from_segments([(0x1000, bytearray(4096))])
    made = km.Kmemleak(memory, **{"min_age": 0.0, **options})  # type: ignore[arg-type]
    made.add_root(0x1000, 256)
    return made


def point(watched: km.Kmemleak, place: int, value: int) -> None:
    watched.memory.write(place, value.to_bytes(8, "little"))


def test_a_block_without_leaks_passes() -> None:
    watched = detector()
    with km.expect_no_leaks(watched) as same:
        watched.alloc(0x1200, 64)
        point(watched, 0x1000, 0x1200)
        watched.alloc(0x1300, 64)
        watched.free(0x1300)
    assert same is watched


@pytest.mark.parametrize("checksums", [True, False])
def test_a_leak_within_the_block_raises_with_the_report(checksums: bool) -> None:
    watched = detector(checksums=checksums)
    found = pytest.raises(km.LeaksFound, match="1 object leaked, 64 bytes\nunreferenced")
    with found as caught, km.expect_no_leaks(watched):
        watched.alloc(0x1200, 64)
    assert [leak.address for leak in caught.value.leaks] == [0x1200]
    assert "unreferenced object 0x00001200 (size 64)" in caught.value.report
    assert isinstance(caught.value, AssertionError)


@pytest.mark.parametrize("checksums", [True, False])
def test_leaks_from_before_the_block_are_forgiven(checksums: bool) -> None:
    watched = detector(checksums=checksums)
    watched.alloc(0x1200, 64)
    with km.expect_no_leaks(watched):
        pass


def test_an_older_object_that_is_lost_within_the_block_counts() -> None:
    watched = detector()
    watched.alloc(0x1200, 64)
    point(watched, 0x1000, 0x1200)
    with pytest.raises(km.LeaksFound), km.expect_no_leaks(watched):
        point(watched, 0x1000, 0)


def test_min_age_and_min_unref_scans_are_waited_for() -> None:
    watched = detector(min_age=0.05, min_unref_scans=3)
    with pytest.raises(km.LeaksFound), km.expect_no_leaks(watched):
        watched.alloc(0x1200, 64)


def test_an_error_of_the_block_itself_is_not_hidden() -> None:
    watched = detector()
    watched.alloc(0x1200, 64)
    point(watched, 0x1000, 0x1200)
    with pytest.raises(KeyError), km.expect_no_leaks(watched):
        raise KeyError(point(watched, 0x1000, 0))


def test_a_disabled_detector_does_not_pass_for_a_clean_one() -> None:
    watched = detector()
    with pytest.raises(km.KmemleakError, match="disabled"), km.expect_no_leaks(watched):
        watched.disable()


CONFTEST = """
import pytest
import kmemleak_core as km

@pytest.fixture
def kmemleak_detector():
    memory = km.MemoryImage.from_segments([(0x1000, bytearray(4096))])
    detector = km.Kmemleak(memory, min_age=0.0)
    detector.add_root(0x1000, 256)
    detector.alloc(0x1800, 16)  # a leak from before the test
    return detector
"""


def test_the_fixture_fails_a_test_that_leaks_and_shows_the_report(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(
        """
        def test_that_leaks(kmemleak):
            kmemleak.alloc(0x1200, 64)

        def test_that_does_not(kmemleak):
            kmemleak.alloc(0x1200, 64)
            kmemleak.free(0x1200)
        """
    )
    result = pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*ERROR at teardown of test_that_leaks*", "1 object leaked, 64 bytes"]
    )
    result.stdout.fnmatch_lines(["unreferenced object 0x00001200 (size 64):"])
    result.stdout.no_fnmatch_line("*0x00001800*")


def test_without_an_override_the_fixture_watches_this_process(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import ctypes

        def test_that_leaks(kmemleak):
            block = ctypes.create_string_buffer(64)
            kmemleak.kept = block
            kmemleak.alloc(ctypes.addressof(block), 64)
        """
    )
    result = pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, errors=1)


def test_the_plugin_is_registered_with_pytest() -> None:
    (found,) = entry_points(group="pytest11", name="kmemleak")
    assert found.value == "pytest_kmemleak"


def test_other_runs_of_pytest_do_not_import_the_package() -> None:
    script = "import sys, pytest_kmemleak; print('kmemleak_core' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
