"""A child's end in words."""

import signal

import pytest

from tensorpool.child import ExitCode, Failed
from tensorpool.launcher.exits import explain


def test_its_own_words_come_first() -> None:
    ended = explain(ExitCode.FATAL, Failed("no permission on /x", fatal=True))
    assert ended.reason == "no permission on /x"
    assert ended.is_fatal


def test_a_crash_with_words_is_not_fatal() -> None:
    assert not explain(ExitCode.CRASHED, Failed("media driver lost", fatal=False)).is_fatal


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGTERM, signal.SIGBUS])
def test_a_signal_is_named(number: signal.Signals) -> None:
    ended = explain(-number, None)
    assert number.name in ended.reason
    assert not ended.is_fatal


def test_sigkill_hints_at_memory() -> None:
    assert "memory" in explain(-signal.SIGKILL, None).reason


def test_an_unknown_signal_is_numbered() -> None:
    assert "signal 99" in explain(-99, None).reason


def test_who_was_killed_by_us_is_told_so() -> None:
    ended = explain(-signal.SIGKILL, None, "hung: no sign of life for 5.0 s")
    assert ended.reason == "hung: no sign of life for 5.0 s"


def test_ending_unasked_without_an_error_is_told() -> None:
    assert explain(0, None).reason == "ended without being told to"


def test_fatal_status_without_words_is_fatal_all_the_same() -> None:
    assert explain(ExitCode.FATAL, None).is_fatal
    assert not explain(ExitCode.CRASHED, None).is_fatal
