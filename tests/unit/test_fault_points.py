"""Fault points kill where and when they are told to, once; untold they are nothing."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tensorpool import fault_points
from tensorpool.fault_points import ONCE_VARIABLE, POINT_VARIABLE, FaultPoint, armed

_PASSES_FOUR = """
from tensorpool.fault_points import FaultPoint, fault_point
for number in range(1, 5):
    fault_point(FaultPoint.STAGING_MADE)
    fault_point(FaultPoint.EPOCH_RENAMED)
    print(number, flush=True)
"""


def passes_four(**variables: str) -> tuple[int, str]:
    """Exit status and output of a process that passes two points four times."""
    done = subprocess.run(
        [sys.executable, "-c", _PASSES_FOUR],
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, "".join(done.stdout.split())


def test_without_the_variable_nothing_is_armed() -> None:
    assert POINT_VARIABLE not in os.environ
    assert fault_points.fault_point is fault_points._pass
    assert passes_four() == (0, "1234")


@pytest.mark.parametrize(("text", "output"), [("EPOCH_RENAMED", ""), ("EPOCH_RENAMED:3", "12")])
def test_it_kills_at_the_passing_that_is_named(text: str, output: str) -> None:
    assert passes_four(**{POINT_VARIABLE: text}) == (-signal.SIGKILL, output)


def test_a_point_that_is_not_passed_so_often_kills_nobody() -> None:
    assert passes_four(**{POINT_VARIABLE: "STAGING_MADE:5"}) == (0, "1234")


def test_it_kills_once(tmp_path: Path) -> None:
    variables = {POINT_VARIABLE: "STAGING_MADE", ONCE_VARIABLE: str(tmp_path / "once")}
    assert passes_four(**variables) == (-signal.SIGKILL, "")
    assert passes_four(**variables) == (0, "1234")


@pytest.mark.parametrize("text", ["NO_SUCH", "", ":2", "STAGING_MADE:0", "STAGING_MADE:x"])
def test_what_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=POINT_VARIABLE):
        armed(text, None)


def test_every_point_is_in_the_drivers_code() -> None:
    driver = Path(fault_points.__file__).parent / "driver"
    text = "".join(path.read_text() for path in driver.glob("*.py"))
    for point in FaultPoint:
        assert text.count(f"fault_point(FaultPoint.{point.name})") == 1
