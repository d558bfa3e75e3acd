"""Many clients of one wire session, and how long others wait while they live on short leases."""

from __future__ import annotations

import itertools
import random
import time
from collections import deque
from collections.abc import Callable
from statistics import median, quantiles

from tensorpool.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from tensorpool.wire.control import ResponseCode
from tensorpool.wire.driver import (
    HugepagesPolicy,
    PublishMode,
    Role,
    ShmAttachRequest,
    ShmAttachResponse,
    ShmLeaseRevoked,
)
from tests.wire_client import WireClient

_FIRST_CLIENT = 1000
_ARRIVALS_PER_ROUND = 25
_REMEMBERED = 64
"""Keepalives of a lease: more than are sent until its revocation is heard."""


class Crowd:
    """Clients with a consumer's lease each, on one stream; each sends once an interval.

    Attributes:
        leases: lease id by client id.
    """

    def __init__(self, wire: WireClient, stream_id: int, count: int) -> None:
        self._wire = wire
        self._stream_id = stream_id
        self.leases: dict[int, int] = {}
        self._sent_ns: dict[int, deque[int]] = {}
        for number in range(count):
            client_id = _FIRST_CLIENT + number
            answer = wire.attach(stream_id, Role.CONSUMER, client_id)
            assert answer.code == ResponseCode.OK, answer
            assert answer.lease_id is not None
            self.leases[client_id] = answer.lease_id
            if number % _ARRIVALS_PER_ROUND == 0:
                self._keep_alive(self.leases)
        self._keep_alive(self.leases)
        self._gap_ns = wire.settings.policies.lease_keepalive_interval_ns // count
        self._turn = itertools.cycle(self.leases)
        self._next_ns = monotonic_ns()

    def has(self, lease_id: int) -> bool:
        """Whether it is one of the crowd's leases."""
        return lease_id in self._sent_ns

    def step(self) -> None:
        """Send what is due: the clients take turns, evenly over the interval."""
        now_ns = monotonic_ns()
        while self._next_ns <= now_ns:
            self._next_ns += self._gap_ns
            self._keep_alive([next(self._turn)])

    def lost(self) -> list[ShmLeaseRevoked]:
        """Revocations that were heard of leases whose client had kept sending.

        This process itself may be kept from sending by a busy machine; a lease that ended as long
        after its last keepalive as it lives has ended as it should.
        """
        return [
            message
            for message in self._wire.heard
            if isinstance(message, ShmLeaseRevoked)
            and message.lease_id in self._sent_ns
            and self._silence_ns(message) < self._wire.settings.policies.lease_ttl_ns
        ]

    def _silence_ns(self, revoked: ShmLeaseRevoked) -> int:
        """How long its client had been silent when it ended."""
        before = [at for at in self._sent_ns[revoked.lease_id] if at <= revoked.timestamp_ns]
        return revoked.timestamp_ns - before[-1]

    def run_until(self, is_over: Callable[[], bool], deadline_s: float) -> None:
        """Keep alive and hear until `is_over`.

        Raises:
            AssertionError: it is not within the deadline.
        """
        deadline_ns = monotonic_ns() + int(deadline_s * NS_PER_S)
        while not is_over():
            assert monotonic_ns() < deadline_ns, f"not over within {deadline_s:g} s"
            self.step()
            if self._wire.poll() == 0:
                time.sleep(0.0001)

    def pass_time(self, duration_ns: int) -> None:
        """Keep alive and hear that long."""
        end_ns = monotonic_ns() + duration_ns
        self.run_until(lambda: monotonic_ns() >= end_ns, 2 * duration_ns / NS_PER_S + 1)

    def _keep_alive(self, clients: dict[int, int] | list[int]) -> None:
        for client_id in clients:
            lease_id = self.leases[client_id]
            self._wire.keep_alive(lease_id, self._stream_id, client_id, Role.CONSUMER)
            self._sent_ns.setdefault(lease_id, deque(maxlen=_REMEMBERED)).append(monotonic_ns())


class Attaching:
    """Attach requests, from sending to the answer.

    Attributes:
        waits_ns: of those that were answered OK.
    """

    def __init__(self, wire: WireClient, crowd: Crowd) -> None:
        self._wire = wire
        self._crowd = crowd
        self._ids = itertools.count(random.getrandbits(40))
        self._answers: dict[int, ShmAttachResponse] = {}
        self.waits_ns: list[int] = []

    def ask(self, stream_id: int, role: Role, client_id: int) -> int:
        """Send a request and return its correlation id."""
        correlation_id = next(self._ids)
        self._wire.send(
            ShmAttachRequest(
                correlation_id,
                stream_id,
                client_id,
                role,
                publish_mode=PublishMode.EXISTING_OR_CREATE,
                require_hugepages=HugepagesPolicy.UNSPECIFIED,
            )
        )
        return correlation_id

    def answer(self, correlation_id: int) -> ShmAttachResponse | None:
        """Its answer, if it has been heard.

        Of the rest, only what is said of the crowd is kept: looking through all that was ever heard
        would be the longest part of what is measured.
        """
        heard, self._wire.heard = self._wire.heard, []
        for message in heard:
            if isinstance(message, ShmAttachResponse):
                self._answers[message.correlation_id] = message
            elif isinstance(message, ShmLeaseRevoked) and self._crowd.has(message.lease_id):
                self._wire.heard.append(message)
        return self._answers.get(correlation_id)

    def once(self, stream_id: int, role: Role, client_id: int, deadline_s: float) -> None:
        """Attach, measured, and detach; the crowd is kept alive meanwhile."""
        started_ns = monotonic_ns()
        correlation_id = self.ask(stream_id, role, client_id)
        self._crowd.run_until(lambda: self.answer(correlation_id) is not None, deadline_s)
        self.waits_ns.append(monotonic_ns() - started_ns)
        answer = self._answers.pop(correlation_id)
        assert answer.code == ResponseCode.OK, answer
        self._wire.detach(answer.lease_id or 0, stream_id, client_id, role)

    def figures(self) -> str:
        """Count, median, 99th percentile and worst."""
        median_ns, worst_ns = median(self.waits_ns), max(self.waits_ns)
        p99_ns = quantiles(self.waits_ns, n=100)[98]
        return (
            f"{len(self.waits_ns)} attaches: median {median_ns / NS_PER_MS:.2f} ms, "
            f"p99 {p99_ns / NS_PER_MS:.2f} ms, worst {worst_ns / NS_PER_MS:.2f} ms"
        )
