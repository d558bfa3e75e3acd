"""Which series grow: known slopes are found, noise is no growth, and the verdict says which."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.soak.trend import (
    BLOCKS,
    LEAST_S,
    Verdict,
    block_medians,
    theil_sen,
    trend,
)

HOUR_S = 3600.0
TIMES = [second * 5.0 for second in range(720)]
FLOATS = st.floats(-1e6, 1e6, allow_nan=False)
SERIES = st.lists(FLOATS, min_size=2, max_size=40)


def line(slope: float, level: float = 100.0) -> list[float]:
    return [level + slope * at / HOUR_S for at in TIMES]


def noisy(values: list[float], seed: int, width: float) -> list[float]:
    dice = random.Random(seed)
    return [value + dice.gauss(0, width) for value in values]


@given(slope=st.floats(-1e3, 1e3), level=FLOATS, count=st.integers(2, 30))
def test_the_slope_of_a_line_is_found(slope: float, level: float, count: int) -> None:
    found = theil_sen(TIMES[:count], line(slope, level)[:count])
    assert math.isclose(found.median, slope, abs_tol=1e-3)
    assert found.low <= found.median <= found.high


@given(SERIES)
def test_the_range_holds_the_slope_and_turns_with_the_series(values: list[float]) -> None:
    times = TIMES[: len(values)]
    up, down = theil_sen(times, values), theil_sen(times, [-value for value in values])
    assert up.low <= up.median <= up.high
    assert (down.low, down.median, down.high) == (-up.high, -up.median, -up.low)


@given(SERIES, st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_matter(values: list[float], dice: random.Random) -> None:
    points = list(zip(TIMES, values, strict=False))
    shuffled = dice.sample(points, len(points))
    expected = theil_sen(*zip(*points, strict=True))
    assert theil_sen(*zip(*shuffled, strict=True)) == expected


@given(st.sets(st.integers(0, 19), max_size=5), FLOATS)
def test_a_few_wild_points_do_not_move_it_far(wild: set[int], value: float) -> None:
    times, values = TIMES[:20], line(12.0)[:20]
    found = theil_sen(times, [value if n in wild else v for n, v in enumerate(values)])
    assert math.isclose(found.median, 12.0, rel_tol=1e-6)


def test_points_at_one_time_have_no_slope() -> None:
    with pytest.raises(ValueError, match="two points"):
        theil_sen([1.0, 1.0], [1.0, 2.0])


@given(st.lists(FLOATS, min_size=1, max_size=200), st.integers(1, 30))
def test_blocks_hold_every_sample_once(values: list[float], count: int) -> None:
    times, medians = block_medians(range(len(values)), values, count)
    assert len(times) == len(medians) == min(count, len(values))
    assert times == sorted(times)
    assert min(values) <= min(medians) <= max(medians) <= max(values)


@given(level=st.floats(0, 1e6))
def test_a_constant_is_flat(level: float) -> None:
    found = trend(TIMES, [level] * len(TIMES), slack=1.0)
    assert (found.verdict, found.level) == (Verdict.FLAT, level)
    assert found.slope is not None
    assert found.slope.low == found.slope.median == found.slope.high == 0


@pytest.mark.parametrize(
    ("slope", "level", "verdict"),
    [
        (0.5, 10.0, Verdict.FLAT),
        (1.5, 10.0, Verdict.GROWS),
        (-1.5, 10.0, Verdict.FALLS),
        (1.5, 1000.0, Verdict.FLAT),
        (15.0, 1000.0, Verdict.GROWS),
    ],
    ids=["within slack", "a leak", "the other way", "within one percent", "beyond one percent"],
)
def test_a_drift_counts_beyond_slack_and_one_percent(
    slope: float, level: float, verdict: Verdict
) -> None:
    assert trend(TIMES, line(slope, level), slack=1.0).verdict is verdict


@given(st.integers(0, 10**6))
def test_a_leak_shows_through_noise(seed: int) -> None:
    found = trend(TIMES, noisy(line(10.0), seed, width=3.0), slack=1.0)
    assert found.verdict is Verdict.GROWS


def test_much_noise_is_no_growth_and_said_to_be_wide() -> None:
    verdicts = [trend(TIMES, noisy(line(0.0), seed, 20.0), 1.0).verdict for seed in range(200)]
    assert verdicts.count(Verdict.NO_TREND) > 180
    assert verdicts.count(Verdict.GROWS) < 20


def test_peaks_that_come_and_go_are_flat() -> None:
    values = [150.0 if number % 6 == 0 else 100.0 for number in range(len(TIMES))]
    assert trend(TIMES, values, slack=1.0).verdict is Verdict.FLAT


def test_little_is_too_short_to_tell() -> None:
    few = trend(TIMES[:7], line(50.0)[:7], slack=1.0)
    assert (few.verdict, few.slope) == (Verdict.TOO_SHORT, None)
    brief = [at for at in TIMES if at < LEAST_S]
    short = trend(brief, line(50.0)[: len(brief)], slack=1.0)
    assert len(brief) > BLOCKS
    assert short.verdict is Verdict.TOO_SHORT
    assert short.slope is not None


def test_no_sample_no_trend() -> None:
    with pytest.raises(ValueError, match="without samples"):
        trend([], [], slack=1.0)
