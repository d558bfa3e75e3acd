"""What an agent does between two duty cycles without work."""

from __future__ import annotations

from typing import Literal

import pyaeron

from tensorpool.clock import NS_PER_MS, monotonic_ns

_MAX_SPINS = 10
_MAX_YIELDS = 10
_MIN_PARK_NS = 50_000
_QUIET_AFTER_NS = 50 * NS_PER_MS


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


class BusySpinIdle:
    """Never wait; other threads of the process get the interpreter lock all the same."""

    def __init__(self) -> None:
        self._strategy = pyaeron.IdleStrategy.busy_spin()

    def idle(self, work_count: int) -> None:
        """Pause for a few cycles of the processor."""
        self._strategy.idle(work_count)


class DutyCycleIdle:
    """Short parks while there is work now and then, long ones once all is quiet.

    Work within the last 50 ms foretells more of it: whoever sends a request then waits
    `prompt_park_ns` at most, and the first one after a silence `quiet_park_ns`, or
    `deserted_park_ns` where nobody is there to wait. Right after work that somebody waited for
    parks are shorter still. With `busy_spin` it never parks at all.
    """

    def __init__(
        self,
        strategy: Literal["backoff", "busy_spin"],
        prompt_park_ns: int,
        quiet_park_ns: int,
        deserted_park_ns: int = 0,
    ) -> None:
        is_spinning = strategy == "busy_spin"
        self._prompt = BusySpinIdle() if is_spinning else BackoffIdle(prompt_park_ns)
        self._quiet = self._prompt if is_spinning else BackoffIdle(quiet_park_ns)
        self._deserted = (
            BackoffIdle(deserted_park_ns) if deserted_park_ns and not is_spinning else self._quiet
        )
        self._last_work_ns = 0

    def idle(
        self, work_count: int, *, had_other_work: bool = False, is_deserted: bool = False
    ) -> None:
        """Wait a little if `work_count` is 0.

        Args:
            work_count: what was done that somebody waits for.
            had_other_work: whether something was done that nobody waits for.
            is_deserted: whether there is nobody who might ask for something.
        """
        now_ns = monotonic_ns()
        if work_count or had_other_work:
            self._last_work_ns = now_ns
        is_quiet = now_ns - self._last_work_ns > _QUIET_AFTER_NS
        if not is_quiet:
            self._prompt.idle(work_count)
        else:
            (self._deserted if is_deserted else self._quiet).idle(work_count)
