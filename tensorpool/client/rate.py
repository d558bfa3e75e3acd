"""At most so many frames a second: for a consumer in RATE_LIMITED mode on a shared stream."""

from __future__ import annotations

from tensorpool.clock import NS_PER_S, monotonic_ns


class RateGate:
    """Lets frames through by their own clock, so that how they are polled does not matter.

    A clock that stands still or runs backwards (every frame stamped 0) is replaced by ours.
    """

    __slots__ = ("_due_ns", "_last_ns", "_local_due_ns", "_period_ns")

    def __init__(self, max_rate_hz: int) -> None:
        self._period_ns = NS_PER_S // max_rate_hz if max_rate_hz else 0
        self._due_ns = 0
        self._local_due_ns = 0
        self._last_ns = 0

    def admits(self, timestamp_ns: int) -> bool:
        """Whether the frame of this time may pass (Wire §11)."""
        if not self._period_ns:
            return True
        now_ns = monotonic_ns()
        advances = timestamp_ns > self._last_ns
        self._last_ns = timestamp_ns
        if advances and timestamp_ns < self._due_ns:
            return False
        if not advances and now_ns < self._local_due_ns:
            return False
        self._due_ns = _next_due(self._due_ns, timestamp_ns, self._period_ns)
        self._local_due_ns = _next_due(self._local_due_ns, now_ns, self._period_ns)
        return True


def _next_due(due_ns: int, now_ns: int, period_ns: int) -> int:
    """On the grid of the period, so that the mean rate is kept; after a pause from now on."""
    return due_ns + period_ns if 0 <= now_ns - due_ns < period_ns else now_ns + period_ns
