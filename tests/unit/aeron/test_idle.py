"""How long an agent parks: by what it has done, and for whom."""

from __future__ import annotations

from typing import Any

import pytest

from tensorpool.aeron import idle
from tensorpool.aeron.idle import DutyCycleIdle
from tensorpool.clock import NS_PER_MS

PROMPT, QUIET, DESERTED = (park * NS_PER_MS for park in (1, 8, 25))


@pytest.fixture
def parked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Longest park of the strategy that was asked to idle, and the work count that it was told."""
    told: list[tuple[int, int]] = []

    class Recorded:
        def __init__(self, max_park_ns: int) -> None:
            self.idle = lambda work_count: told.append((max_park_ns, work_count))

    monkeypatch.setattr(idle, "BackoffIdle", Recorded)
    return told


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    now = [10**12]
    monkeypatch.setattr(idle, "monotonic_ns", lambda: now[0])
    return now


def test_parks_are_long_once_all_is_quiet_and_longest_where_nobody_is(
    parked: list[tuple[int, int]], clock: list[int]
) -> None:
    agent = DutyCycleIdle("backoff", PROMPT, QUIET, DESERTED)
    agent.idle(3)
    clock[0] += 50 * NS_PER_MS
    agent.idle(0, is_deserted=True)
    clock[0] += 1
    agent.idle(0)
    agent.idle(0, is_deserted=True)
    agent.idle(1, is_deserted=True)
    assert parked == [(PROMPT, 3), (PROMPT, 0), (QUIET, 0), (DESERTED, 0), (PROMPT, 1)]


def test_work_that_nobody_waits_for_keeps_parks_short_but_begins_none_anew(
    parked: list[tuple[int, int]], clock: list[int]
) -> None:
    agent = DutyCycleIdle("backoff", PROMPT, QUIET)
    for _ in range(3):
        agent.idle(0, had_other_work=True)
        clock[0] += 40 * NS_PER_MS
    clock[0] += 11 * NS_PER_MS
    agent.idle(0, is_deserted=True)
    assert parked == [(PROMPT, 0)] * 3 + [(QUIET, 0)]


@pytest.mark.usefixtures("parked")
def test_a_spinning_one_never_parks(monkeypatch: pytest.MonkeyPatch) -> None:
    spun: list[int] = []
    monkeypatch.setattr(idle.BusySpinIdle, "idle", lambda _, count: spun.append(count))
    agent: Any = DutyCycleIdle("busy_spin", PROMPT, QUIET, DESERTED)
    agent.idle(0)
    agent.idle(0, is_deserted=True)
    assert spun == [0, 0]
