"""A rate limit by the frames' own clock, whatever that clock does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tensorpool.client.rate import RateGate

SECOND = 10**9


@given(rate=st.integers(1, 200), factor=st.integers(1, 20), start=st.integers(0, 2**62))
def test_the_mean_rate_is_kept(rate: int, factor: int, start: int) -> None:
    gate = RateGate(rate)
    frames = rate * factor
    admitted = sum(gate.admits(start + i * SECOND // frames) for i in range(1, frames + 1))
    assert rate - 1 <= admitted <= rate + 1


def test_no_limit_admits_all() -> None:
    gate = RateGate(0)
    assert all(gate.admits(i) for i in (5, 5, 1))


def test_a_pause_is_no_credit_for_a_burst() -> None:
    gate = RateGate(10)
    assert gate.admits(SECOND)
    assert gate.admits(100 * SECOND)
    assert not gate.admits(100 * SECOND + 1)


def test_a_clock_that_jumps_back_does_not_cut_the_stream_off() -> None:
    gate = RateGate(1_000_000_000)
    assert gate.admits(2**62)
    assert gate.admits(1)
