"""How a consumer waits for the next frame: at once when frames are dense, cheaply when not.

There is nothing to block on: descriptors lie in a log that is polled. So the pauses grow with
the silence. While frames come often a pause ends within tens of microseconds; a consumer of a
silent stream looks 200 times a second, which costs a fraction of a percent of a core.

A stream with a beat, such as a camera's, is slept through: no frame of late came sooner than the
shortest of the last pauses between frames, so most of that is one sleep instead of many looks.
"""

from __future__ import annotations

import os
import time
from collections import deque

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
_BEATS = 8
"""So many pauses between frames make a beat; a burst among them ends it."""
_SLEPT_SHARE = 0.875
_LEAST_SLEPT_NS = 200_000
"""Shorter beats are not worth a sleep: its end is some 60 us late."""
_LONGEST_SLEPT_NS = 5 * NS_PER_MS
"""In naps no longer than that: a close by another thread waits for the end of one."""


class AdaptiveIdle:
    """Pauses that grow with the time since the last frame. For one thread."""

    __slots__ = ("_beats", "_frame_ns", "_since_ns", "_tries")

    def __init__(self) -> None:
        self._tries = 0
        self._since_ns = 0
        self._frame_ns = 0
        self._beats: deque[int] = deque(maxlen=_BEATS)

    @property
    def has_waited(self) -> bool:
        """Whether there is anything to `reset`."""
        return bool(self._tries or self._beats)

    def reset(self) -> None:
        """There was a frame."""
        if self._tries:
            now_ns = monotonic_ns()
            self._beats.append(now_ns - self._frame_ns)
            self._frame_ns = now_ns
            self._tries = 0
        elif self._beats:
            self._beats.clear()  # it waited for us: frames are dense

    def pause_s(self) -> float:
        """How long to pause before the next look: 0 means look again at once."""
        tries = self._tries
        self._tries = tries + 1
        if tries == 0:
            self._since_ns = monotonic_ns()
        if len(self._beats) == _BEATS and (slept_ns := self._sleep_through_ns()):
            self._tries = _SPINS + _YIELDS  # then with short pauses at once
            return slept_ns / NS_PER_S
        if tries < _SPINS + _YIELDS:
            return 0.0
        silence_ns = monotonic_ns() - self._since_ns
        for limit_ns, pause_s in _STEPS:
            if silence_ns < limit_ns:
                return pause_s
        return LONGEST_PAUSE_S

    def _sleep_through_ns(self) -> int:
        """How long no frame is to be expected; 0 if frames have no beat."""
        due_ns = int(min(self._beats) * _SLEPT_SHARE) - (monotonic_ns() - self._frame_ns)
        return 0 if due_ns < _LEAST_SLEPT_NS else min(due_ns, _LONGEST_SLEPT_NS)

    def wait(self, at_most_s: float) -> None:
        """Pause, `at_most_s` seconds at most; other threads run meanwhile."""
        pause_s = self.pause_s()
        if pause_s:
            time.sleep(min(pause_s, at_most_s))
        elif self._tries > _SPINS:
            os.sched_yield()
