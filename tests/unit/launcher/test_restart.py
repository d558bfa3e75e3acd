"""Back-off, jitter, and when it is a crash loop."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tensorpool.launcher.restart import STEADY_NS, RestartPolicy
from tensorpool.settings import LauncherSettings

MS = 1_000_000


def settings(limit: int = 10, window_ms: int = 30_000) -> LauncherSettings:
    return LauncherSettings(
        restart_backoff_initial_ns=50 * MS,
        restart_backoff_max_ns=2000 * MS,
        crash_loop_restarts=limit,
        crash_loop_window_ns=window_ms * MS,
        hang_timeout_ns=5000 * MS,
        idle_strategy="backoff",
    )


def highest() -> float:
    return 1.0


def delays(policy: RestartPolicy, count: int, served_ns: int = 0) -> list[int | None]:
    return [policy.delay_ns(index, served_ns) for index in range(count)]


def test_the_wait_doubles_up_to_its_maximum() -> None:
    policy = RestartPolicy(settings(), highest)
    assert delays(policy, 8) == [n * MS for n in (50, 100, 200, 400, 800, 1600, 2000, 2000)]


def test_jitter_takes_away_at_most_half() -> None:
    assert RestartPolicy(settings(), lambda: 0.0).delay_ns(0, 0) == 25 * MS
    assert RestartPolicy(settings(), highest).delay_ns(0, 0) == 50 * MS


def test_a_child_that_served_starts_the_back_off_anew() -> None:
    policy = RestartPolicy(settings(), highest)
    delays(policy, 5)
    assert policy.delay_ns(5, STEADY_NS - 1) == 1600 * MS
    assert policy.delay_ns(6, STEADY_NS) == 50 * MS


def test_more_restarts_than_the_limit_within_the_window_are_a_crash_loop() -> None:
    policy = RestartPolicy(settings(limit=3), highest)
    assert None not in delays(policy, 3)
    assert policy.delay_ns(3, 0) is None


def test_service_does_not_excuse_a_crash_loop() -> None:
    policy = RestartPolicy(settings(limit=2), highest)
    assert delays(policy, 3, STEADY_NS)[-1] is None


def test_restarts_before_the_window_are_forgotten() -> None:
    policy = RestartPolicy(settings(limit=1, window_ms=10), highest)
    assert policy.delay_ns(0, 0) is not None
    assert policy.delay_ns(10 * MS, 0) is None
    assert policy.delay_ns(10 * MS + 1, 0) is not None


@given(
    ends=st.lists(st.tuples(st.integers(0, 10**11), st.integers(0, 3 * STEADY_NS)), max_size=60),
    uniform=st.floats(0, 1, exclude_max=True),
)
def test_a_wait_is_bounded_and_restarts_never_exceed_the_limit(
    ends: list[tuple[int, int]], uniform: float
) -> None:
    policy = RestartPolicy(settings(limit=4), lambda: uniform)
    now = 0
    granted: list[int] = []
    for gap, served in ends:
        now += gap
        delay = policy.delay_ns(now, served)
        if delay is None:
            assert len([when for when in granted if now - when <= 30_000 * MS]) == 4
            continue
        assert 25 * MS <= delay <= 2000 * MS
        granted.append(now)


@pytest.mark.parametrize("streak", [64, 1000])
def test_a_long_streak_stays_at_the_maximum(streak: int) -> None:
    policy = RestartPolicy(settings(limit=10**6), highest)
    assert delays(policy, streak)[-1] == 2000 * MS
