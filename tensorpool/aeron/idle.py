"""What an agent does between two duty cycles without work: park, longer and longer."""

from __future__ import annotations

import pyaeron

_MAX_SPINS = 10
_MAX_YIELDS = 10
_MIN_PARK_NS = 50_000


class BackoffIdle:
    """Spin, yield, then park up to `max_park_ns`, the interpreter lock released meanwhile."""

    def __init__(self, max_park_ns: int) -> None:
        self._strategy = pyaeron.IdleStrategy.backoff(
            max_spins=_MAX_SPINS,
            max_yields=_MAX_YIELDS,
            min_park_ns=_MIN_PARK_NS,
            max_park_ns=max_park_ns,
        )

    def idle(self, work_count: int) -> None:
        """Reset after work, else wait a little."""
        self._strategy.idle(work_count)
