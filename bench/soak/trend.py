"""Does a series grow? Its slope by Theil and Sen, with the spread of it, and a verdict.

A soak's series are noisy in ways that least squares takes badly: peaks while an epoch is made, the
saw-tooth of an allocator, neighbours on the machine. So the samples are cut into blocks of equal
numbers, each block stands for itself by its medians, and the slope is the median of the slopes
between every two blocks. Up to 29 % of the blocks may be off without moving it far. The spread
is the range that the true slope is in with 95 % confidence, by the distribution of Kendall's
rank statistic; blocks rather than samples, since neighbouring samples say the same twice.

The verdict, with `allowed` the larger of 1 % of the series' level and its own slack, an hour:

    too short   fewer than eight blocks, or less than ten minutes: caches are still filling
    flat        the whole range is within `allowed`; or the slope is, whatever its sign
    no trend    the range includes 0, but is wider than `allowed`: the series says nothing
                about growth that small
    grows       the whole range is above 0, and the slope is above `allowed`
    falls       the same below 0
"""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

BLOCKS = 20
LEAST_BLOCKS = 8
LEAST_S = 600.0
ALLOWED_SHARE = 0.01
SECONDS_AN_HOUR = 3600.0
_NORMAL_95 = 1.959964


class Verdict(enum.Enum):
    """What a series does; see the module."""

    TOO_SHORT = "too short"
    FLAT = "flat"
    NO_TREND = "no trend"
    GROWS = "grows"
    FALLS = "falls"


@dataclass(frozen=True, slots=True)
class Slope:
    """A slope in units an hour, and the range of it at 95 % confidence."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Trend:
    """What a series does: its median level, its slope if there is one, and the verdict."""

    level: float
    slope: Slope | None
    verdict: Verdict


def trend(times_s: Sequence[float], values: Sequence[float], slack: float) -> Trend:
    """Judge a series.

    Args:
        times_s: of the samples, in seconds, ascending.
        values: as many.
        slack: growth an hour, in the unit of the values, that is none.

    Raises:
        ValueError: there is no sample.
    """
    if not values:
        raise ValueError("a series without samples has no trend")
    level = statistics.median(values)
    times, medians = block_medians(times_s, values, BLOCKS)
    if len(medians) < LEAST_BLOCKS:
        return Trend(level, None, Verdict.TOO_SHORT)
    slope = theil_sen(times, medians)
    if times_s[-1] - times_s[0] < LEAST_S:
        return Trend(level, slope, Verdict.TOO_SHORT)
    return Trend(level, slope, _judge(slope, max(ALLOWED_SHARE * abs(level), slack)))


def _judge(slope: Slope, allowed: float) -> Verdict:
    if slope.low <= 0 <= slope.high:
        is_narrow = max(-slope.low, slope.high) <= allowed
        return Verdict.FLAT if is_narrow else Verdict.NO_TREND
    if abs(slope.median) <= allowed:
        return Verdict.FLAT
    return Verdict.GROWS if slope.median > 0 else Verdict.FALLS


def block_medians(
    times_s: Sequence[float], values: Sequence[float], count: int
) -> tuple[list[float], list[float]]:
    """Median time and median value of each of `count` blocks; of each sample if there are less."""
    count = min(count, len(values))
    edges = [len(values) * number // count for number in range(count + 1)]
    blocks = list(pairwise(edges))
    return (
        [statistics.median(times_s[first:end]) for first, end in blocks],
        [statistics.median(values[first:end]) for first, end in blocks],
    )


def theil_sen(times_s: Sequence[float], values: Sequence[float]) -> Slope:
    """The median of the slopes between every two points, an hour, and its 95 % range.

    The range takes no account of equal values, which only makes it wider.

    Raises:
        ValueError: fewer than two points.
    """
    points = sorted(zip(times_s, values, strict=True))
    slopes = sorted(
        (later[1] - former[1]) / (later[0] - former[0]) * SECONDS_AN_HOUR
        for former, later in combinations(points, 2)
        if later[0] > former[0]
    )
    if not slopes:
        raise ValueError("a slope takes two points at different times")
    count = len(points)
    spread = _NORMAL_95 * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    lowest = max(0, math.floor((len(slopes) - spread) / 2))
    return Slope(statistics.median(slopes), slopes[lowest], slopes[-1 - lowest])
