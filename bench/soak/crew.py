"""All workers of a soak, and what befalls them: SIGKILL, and stops longer than a lease lives."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from types import TracebackType
from typing import Self

from bench.soak.clients import Tally
from bench.soak.in_use import InUse
from bench.soak.plan import Plan, Role
from bench.soak.worker import Churn, Worker

FROZEN_S = 4.0
"""Longer than a lease lives (3 s), and than the media driver waits for a client (2 s)."""
SILENCE_S = 60.0
"""A worker that reads no frame for so long is a fault."""
_MINUTE_S = 60.0


class Crew:
    """Starts the workers; a context manager that ends them.

    Attributes:
        faults: what was done to them, by its name.
        problems: what is not as it must be, besides what the tallies say.
    """

    def __init__(self, plan: Plan, config: str) -> None:
        self.faults: Counter[str] = Counter()
        self.problems: list[str] = []
        self._plan = plan
        self._config = config
        self._jobs = plan.jobs()
        self._past = Tally()
        now = time.monotonic()
        self._warm_at = now + plan.warm_up_minutes * _MINUTE_S
        self._workers = [self._start(place) for place in range(plan.workers)]
        self._seen = [(0, now)] * plan.workers
        self._victims = itertools.cycle(range(plan.steady_workers, plan.workers))
        self._sleepers = itertools.cycle(range(plan.steady_workers))
        self._next_kill = now + plan.kill_s
        self._next_freeze = now + self._freeze_s(now)
        self._frozen: Worker | None = None
        self._thaw_at = 0.0

    @property
    def steady_pids(self) -> list[int]:
        """The workers that live as long as the soak."""
        return [worker.pid for worker in self._workers[: self._plan.steady_workers]]

    @property
    def steady_in_use(self) -> list[InUse]:
        """What each of them has in use, as of its last answer; empty if one has not told."""
        told = [worker.tally.in_use for worker in self._workers[: self._plan.steady_workers]]
        known = [each for each in told if each is not None]
        return known if len(known) == len(told) else []

    def step(self) -> None:
        """Do to the workers what is due now."""
        now = time.monotonic()
        if self._frozen is not None and now >= self._thaw_at:
            self._frozen.thaw()
            self._frozen = None
        if now >= self._next_kill:
            self._next_kill = now + self._plan.kill_s
            place = next(self._victims)
            self._workers[place].kill()
            self.faults["SIGKILL of a worker"] += 1
            self._replace(place)
        if now >= self._next_freeze and self._frozen is None:
            self._next_freeze = now + self._freeze_s(now)
            self._frozen = self._workers[next(self._sleepers)]
            self._frozen.freeze()
            self._thaw_at = now + FROZEN_S
            self.faults[f"stop of a worker for {FROZEN_S:g} s"] += 1

    def look(self) -> Tally:
        """What all have done so far; also notices who ended or does nothing."""
        for place, worker in enumerate(self._workers):
            if worker.is_frozen:
                continue
            try:
                checked = worker.ask().checked
            except (TimeoutError, EOFError, OSError) as error:
                worker.kill()
                self.problems.append(
                    f"worker {place} (status {worker.exit_code}): {type(error).__name__} {error}"
                )
                self._replace(place)
                continue
            before, since = self._seen[place]
            now = time.monotonic()
            if checked != before:
                self._seen[place] = checked, now
            elif now - since > SILENCE_S and self._reads(place):
                self.problems.append(f"worker {place} has read no frame for {now - since:.0f} s")
                self._seen[place] = checked, now
        return self.total()

    def total(self) -> Tally:
        """What all have done, the dead included, as of their last answers."""
        total = Tally()
        for tally in (self._past, *(worker.tally for worker in self._workers)):
            total.add(tally)
        return total

    def stop(self) -> None:
        """Let all detach and end."""
        for worker in self._workers:
            worker.ask_to_stop()
        self.problems += filter(None, [worker.stop() for worker in self._workers])

    def _freeze_s(self, now: float) -> float:
        is_warm = now >= self._warm_at
        return self._plan.freeze_s / (1 if is_warm else self._plan.warm_up_haste)

    def _reads(self, place: int) -> bool:
        return any(job.role is Role.CONSUMER for job in self._jobs[place])

    def _start(self, place: int) -> Worker:
        plan = self._plan
        churn = Churn(plan.churn_hz / plan.workers, plan.warm_up_haste, self._warm_at)
        return Worker(self._config, self._jobs[place], plan.rate_hz, churn)

    def _replace(self, place: int) -> None:
        self._past.add(self._workers[place].tally)
        self._workers[place] = self._start(place)
        self._seen[place] = 0, time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.kill()
