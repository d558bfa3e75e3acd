"""When to start a child again: exponential back-off with jitter, and when to give up."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from tensorpool.clock import NS_PER_S
from tensorpool.settings import LauncherSettings

STEADY_NS = NS_PER_S
"""A child that served this long was no failed start: the back-off begins anew."""


class RestartPolicy:
    """Judges one child's unwanted ends.

    The wait doubles with each end in a row without `STEADY_NS` of service, from
    `restart_backoff_initial_ms` up to `restart_backoff_max_ms`; a random half of it keeps
    processes that fell together from rising together.
    """

    def __init__(
        self, settings: LauncherSettings, uniform: Callable[[], float] = random.random
    ) -> None:
        self._settings = settings
        self._uniform = uniform
        self._restarts: deque[int] = deque()
        self._streak = 0

    def delay_ns(self, now_ns: int, served_ns: int) -> int | None:
        """How long to wait before the restart, or None: it is a crash loop.

        Args:
            now_ns: when the child ended (CLOCK_MONOTONIC).
            served_ns: how long it had been ready, 0 if it never was.
        """
        settings = self._settings
        while self._restarts and now_ns - self._restarts[0] > settings.crash_loop_window_ns:
            self._restarts.popleft()
        if len(self._restarts) >= settings.crash_loop_restarts:
            return None
        self._restarts.append(now_ns)
        if served_ns >= STEADY_NS:
            self._streak = 0
        # Bounded: the shift of a long streak would be a number of many digits.
        doubled = settings.restart_backoff_initial_ns << min(self._streak, 32)
        self._streak += 1
        delay = min(doubled, settings.restart_backoff_max_ns)
        return round(delay * (0.5 + self._uniform() / 2))
