"""Leases of many clients that are kept alive on time, on one session."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence

from bench.control.layout import CROWD_STREAMS, KEEPALIVE_S
from bench.control.messages import keepalive
from bench.control.session import Held, Session
from tensorpool.wire.driver import Role

_FIRST_CLIENT = 100_000
_WINDOW = 32
"""Requests under way at a time where the rate is measured."""

client_ids = itertools.count(_FIRST_CLIENT)
"""Never the same one again in this process."""


class Crowd:
    """Consumers that take turns, evenly over the keepalive interval.

    Attributes:
        leases: in the order of their turns.
    """

    def __init__(self, session: Session) -> None:
        self.leases: deque[Held] = deque()
        self._session = session
        self._next_s = time.monotonic()

    def grow(self, count: int) -> None:
        """Attach that many more, which are kept alive from now on."""
        self.leases.extend(attach_many(self._session, count))
        self._next_s = time.monotonic()
        for lease in self.leases:
            self._keep_alive(lease)

    def step(self) -> None:
        """Send the keepalives that are due."""
        now_s = time.monotonic()
        while self.leases and self._next_s <= now_s:
            self._next_s += KEEPALIVE_S / len(self.leases)
            self._keep_alive(self.leases[0])
            self.leases.rotate(-1)

    def flood(self, seconds: float) -> int:
        """Send keepalives, in turn, as fast as they are taken; how many they were."""
        count = 0
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            for _ in range(64):
                self._keep_alive(self.leases[0])
                self.leases.rotate(-1)
            count += 64
            self._session.poll()
        self._next_s = time.monotonic()
        return count

    def check(self) -> None:
        """Raise RuntimeError if one of them has ended."""
        ended = self._session.revoked.keys() & {lease.lease_id for lease in self.leases}
        if ended:
            raise RuntimeError(f"{len(ended)} leases ended although they were kept alive")

    def _keep_alive(self, lease: Held) -> None:
        lease.sent_s = time.monotonic()
        self._session.send(
            keepalive(lease.lease_id, lease.stream_id, lease.client_id, lease.role, time.time_ns())
        )


def attach_many(session: Session, count: int) -> list[Held]:
    """Consumers' leases over the crowd's streams, some requests under way at a time."""
    streams = itertools.cycle(CROWD_STREAMS)
    under_way: deque[tuple[int, int, float]] = deque()
    held = []
    for number in range(count + _WINDOW):
        if number < count:
            client_id, sent_s = next(client_ids), time.monotonic()
            correlation_id = session.request_attach(next(streams), client_id, Role.CONSUMER)
            under_way.append((correlation_id, client_id, sent_s))
        if number >= _WINDOW and under_way:
            correlation_id, client_id, sent_s = under_way.popleft()
            lease, _, _ = session.await_lease(correlation_id, client_id, Role.CONSUMER, sent_s)
            held.append(lease)
    return held


def detach_many(session: Session, leases: Sequence[Held]) -> None:
    """Give them all back, some requests under way at a time."""
    under_way: deque[int] = deque()
    for lease in leases:
        under_way.append(session.request_detach(lease))
        if len(under_way) == _WINDOW:
            session.await_detached(under_way.popleft())
    while under_way:
        session.await_detached(under_way.popleft())
