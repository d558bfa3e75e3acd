"""How a consumer waits for the next frame: at once when frames are dense, cheaply when not.

There is nothing to block on: descriptors lie in a log that is polled. So the pauses grow with
the silence. While frames come often a pause ends within tens of microseconds; a consumer of a
silent stream looks 200 times a second, which costs a fraction of a percent of a core.
"""

from __future__ import annotations

import os
import time

from tensorpool.clock import NS_PER_MS, NS_PER_S, monotonic_ns

_SPINS = 20
_YIELDS = 10
_BUSY_NS = 2 * NS_PER_MS
_STEPS = (
    # silence so far (ns), pause (s)
    (_BUSY_NS, 10e-6),
    (50 * NS_PER_MS, 100e-6),
    (NS_PER_S, 500e-6),
    (3 * NS_PER_S, 1e-3),
)
LONGEST_PAUSE_S = 5e-3


class AdaptiveIdle:
    """Pauses that grow with the time since the last frame. For one thread."""

    __slots__ = ("_since_ns", "_tries")

    def __init__(self) -> None:
        self._tries = 0
        self._since_ns = 0

    def reset(self) -> None:
        """There was a frame."""
        self._tries = 0

    def pause_s(self) -> float:
        """How long to pause before the next look: 0 means look again at once."""
        tries = self._tries
        self._tries = tries + 1
        if tries == 0:
            self._since_ns = monotonic_ns()
        if tries < _SPINS + _YIELDS:
            return 0.0
        silence_ns = monotonic_ns() - self._since_ns
        for limit_ns, pause_s in _STEPS:
            if silence_ns < limit_ns:
                return pause_s
        return LONGEST_PAUSE_S

    def wait(self, at_most_s: float) -> None:
        """Pause, `at_most_s` seconds at most; other threads run meanwhile."""
        pause_s = self.pause_s()
        if pause_s:
            time.sleep(min(pause_s, at_most_s))
        elif self._tries > _SPINS:
            os.sched_yield()
