"""Epochs made before they are needed: whoever attaches as a producer then waits for no file.

Of small streams only (`policies.prepare_ahead_max_bytes`), and one after the other, so that each is
above the one before. Each takes as much memory as the epoch in service; they are a favour, and
where something is short there are none.
"""

from __future__ import annotations

import logging
from collections import deque

from tensorpool.clock import NS_PER_S, monotonic_ns
from tensorpool.driver.epoch import EpochPlan
from tensorpool.driver.provisioning import Provisioned, Provisioner
from tensorpool.settings import HostSettings

_log = logging.getLogger(__name__)
_PAUSE_NS = 60 * NS_PER_S
"""After one could not be made, or had to make room."""


class EpochsAhead:
    """A few epochs a stream, ready or the last of them being made, above the one in service."""

    def __init__(self, settings: HostSettings, provisioner: Provisioner) -> None:
        self._settings = settings
        self._provisioner = provisioner
        self._making: dict[int, EpochPlan] = {}
        self._ready: dict[int, deque[Provisioned]] = {}
        """Oldest first; none of them empty."""
        self._unwanted: set[EpochPlan] = set()
        self._not_before_ns = 0

    @property
    def ready_bytes(self) -> int:
        """Bytes of those that are ready; any thread may ask."""
        return sum(ready[0].plan.total_bytes * len(ready) for ready in list(self._ready.values()))

    def wants(self, plan: EpochPlan) -> bool:
        """Whether an epoch like this should be made ahead now."""
        return (
            plan.stream_id not in self._making
            and len(self._ready.get(plan.stream_id, ()))
            < self._settings.epochs_ahead(plan.total_bytes)
            and monotonic_ns() >= self._not_before_ns
        )

    def begin(self, plan: EpochPlan) -> None:
        """Have it made."""
        self._making[plan.stream_id] = plan
        self._provisioner.prepare(plan)

    def keep(self, result: Provisioned) -> bool:
        """Take a result that nobody waits for; whether it was one."""
        stream_id = result.plan.stream_id
        if result.plan in self._unwanted:
            self._unwanted.remove(result.plan)
            if result.epoch is not None:
                self._provisioner.discard(result.epoch)
            return True
        if self._making.get(stream_id) is not result.plan:
            return False
        del self._making[stream_id]
        if result.epoch is not None:
            self._ready.setdefault(stream_id, deque()).append(result)
        else:
            self._not_before_ns = monotonic_ns() + _PAUSE_NS
            fields = {"stream_id": stream_id, "why": str(result.error)}
            _log.info("no epoch made ahead", extra=fields)
        return True

    def serve(self, stream_id: int) -> bool:
        """Let the oldest be the result that its provisioning waits for; whether there is one."""
        ready = self._ready.get(stream_id)
        if ready is None:
            return self._making.pop(stream_id, None) is not None
        self._provisioner.hand_over(ready.popleft())
        if not ready:
            del self._ready[stream_id]
        return True

    def drop(self, stream_id: int) -> None:
        """The stream is served no longer."""
        if (plan := self._making.pop(stream_id, None)) is not None:
            self._unwanted.add(plan)
        for result in self._ready.pop(stream_id, ()):
            assert result.epoch is not None, "no other is kept"
            self._provisioner.discard(result.epoch)

    def make_room(self) -> bool:
        """Remove those that are ready: one that is needed falls short; whether there were any."""
        self._not_before_ns = monotonic_ns() + _PAUSE_NS
        stream_ids = list(self._ready)
        for stream_id in stream_ids:
            self.drop(stream_id)
        return bool(stream_ids)
