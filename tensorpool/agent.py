"""The agent contract and its runner: one thread, one loop, work counted, lag tracked.

An agent does its work in small bounded steps; waiting is the runner's business
(Aeron's and Agrona's model).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from tensorpool.clock import monotonic_ns
from tensorpool.metrics import Histogram, Sample
from tensorpool.metrics.histogram import DUTY_CYCLE_BOUNDS_S


class Agent(Protocol):
    """One role of the host, run by one duty cycle."""

    role_name: str

    def on_start(self) -> None:
        """Acquire what the first duty cycle needs."""

    def do_work(self) -> int:
        """One duty cycle: never blocks; returns how much was done, 0 to idle."""

    def on_close(self) -> None:
        """Release everything; called once, also after an error."""


class Idle(Protocol):
    """How to wait between duty cycles."""

    def idle(self, work_count: int) -> None:
        """Wait if `work_count` is 0."""


class DutyCycleTracker:
    """How long duty cycles take: the longest since it was last asked, and all of them counted."""

    def __init__(self) -> None:
        self.durations = Histogram(DUTY_CYCLE_BOUNDS_S)
        self._started_ns = 0
        self._longest_ns = 0

    def start(self) -> None:
        """A cycle begins."""
        self._started_ns = monotonic_ns()

    def stop(self) -> None:
        """The cycle ended."""
        duration_ns = monotonic_ns() - self._started_ns
        self.durations.observe_ns(duration_ns)
        self._longest_ns = max(self._longest_ns, duration_ns)

    def take_longest_ns(self) -> int:
        """The longest cycle since the last call, in nanoseconds."""
        longest, self._longest_ns = self._longest_ns, 0
        return longest

    def samples(self) -> Iterator[Sample]:
        """What a scrape shows of it."""
        yield Sample("tensorpool_duty_cycle_seconds", self.durations)
