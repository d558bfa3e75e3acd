"""Durations counted into buckets: two integer additions an observation, none when scraped."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from tensorpool.clock import NS_PER_S

DUTY_CYCLE_BOUNDS_S = (1e-5, 5e-5, 1e-4, 5e-4, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
REQUEST_BOUNDS_S = (1e-4, 2.5e-4, 5e-4, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0)
WORK_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0)


class Histogram:
    """Counts of durations by bucket. One thread observes; any thread may read.

    Args:
        bounds_s: upper bounds of the buckets in seconds, ascending; one without bound follows.

    Attributes:
        sum_ns: of everything observed.
    """

    def __init__(self, bounds_s: Sequence[float]) -> None:
        self._labels = [*(f"{bound:g}" for bound in bounds_s), "+Inf"]
        self._bounds_ns = [round(bound * NS_PER_S) for bound in bounds_s]
        self._counts = [0] * len(self._labels)
        self.sum_ns = 0

    def observe_ns(self, duration_ns: int) -> None:
        """Count one duration; a bound belongs to its bucket."""
        self._counts[bisect_left(self._bounds_ns, duration_ns)] += 1
        self.sum_ns += duration_ns

    @property
    def count(self) -> int:
        """How many were observed."""
        return sum(self._counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bound in seconds and how many were at most that, as Prometheus has it."""
        total, cumulated = 0, []
        for label, count in zip(self._labels, list(self._counts), strict=True):
            total += count
            cumulated.append((label, float(total)))
        return cumulated
