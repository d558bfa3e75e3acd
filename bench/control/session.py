"""One Aeron session that attaches and detaches, and hears what the driver says of its leases."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from bench.control.messages import attach_request, detach_request
from tensorpool import wire
from tensorpool.aeron.client import AeronClient, Offer
from tensorpool.settings import HostSettings
from tensorpool.wire.control import ResponseCode, ShmPoolAnnounce
from tensorpool.wire.driver import (
    DRIVER,
    Role,
    ShmAttachResponse,
    ShmDetachResponse,
    ShmLeaseRevoked,
)

DEADLINE_S = 20.0
_WAIT_PAUSE_S = 0.00005
"""A client that spins takes the core that the driver is to wake up on, for a slice of 3 ms."""
_POLL_LIMIT = 256
_HEARD = {
    DRIVER.by_type[kind].template_id
    for kind in (ShmAttachResponse, ShmDetachResponse, ShmLeaseRevoked)
}


@dataclass(slots=True)
class Held:
    """A lease of ours; `sent_s`: when its last keepalive, or its attach, went out (monotonic)."""

    lease_id: int
    stream_id: int
    client_id: int
    role: Role
    sent_s: float


class Session:
    """Many clients' control messages through one publication. For one thread.

    Attributes:
        revoked: when the end of a lease was heard (monotonic seconds), by lease id; only of those
            that were not detached.
        announced: the last epoch heard of each stream, by stream id.
        meanwhile: what else is to be done while it waits.
    """

    def __init__(self, settings: HostSettings) -> None:
        self.revoked: dict[int, float] = {}
        self.announced: dict[int, int] = {}
        self.meanwhile: Callable[[], None] = lambda: None
        self._attached: dict[int, tuple[ShmAttachResponse, float]] = {}
        self._detached: dict[int, float] = {}
        self._leaving: set[int] = set()
        self._ids = itertools.count(random.getrandbits(40))
        self._client = AeronClient(settings.aeron_dir, "bench-control")
        self._control = self._client.publication(settings.driver.control)
        self._answers = self._client.subscription(settings.driver.control, tether=True)
        self._announces = self._client.subscription(settings.driver.announce)
        self.wait_until(lambda: self._control.is_connected and self._answers.is_connected)

    def send(self, data: bytes) -> None:
        """Offer until it is taken.

        Raises:
            TimeoutError: the control stream takes nothing.
        """
        deadline_s = 0.0
        while self._control.offer(data) is not Offer.SENT:
            deadline_s = deadline_s or time.monotonic() + DEADLINE_S
            if time.monotonic() > deadline_s:
                raise TimeoutError("the control stream takes nothing")
            self.poll()

    def request_attach(self, stream_id: int, client_id: int, role: Role) -> int:
        """Ask for a lease; the correlation id."""
        correlation_id = next(self._ids)
        self.send(attach_request(correlation_id, stream_id, client_id, role))
        return correlation_id

    def request_detach(self, held: Held) -> int:
        """Give a lease back; the correlation id."""
        correlation_id = next(self._ids)
        self._leaving.add(held.lease_id)
        self.send(
            detach_request(correlation_id, held.lease_id, held.stream_id, held.client_id, held.role)
        )
        return correlation_id

    def await_lease(
        self, correlation_id: int, client_id: int, role: Role, sent_s: float
    ) -> tuple[Held, int, float]:
        """The lease that the attach, sent at `sent_s`, is given; its epoch; when that was heard.

        Raises:
            RuntimeError: it is given none.
            TimeoutError: it is not answered.
        """
        self.wait_until(lambda: correlation_id in self._attached)
        answer, heard_s = self._attached.pop(correlation_id)
        if answer.code != ResponseCode.OK or answer.lease_id is None or answer.stream_id is None:
            raise RuntimeError(f"an attach was refused: {answer.error_message}")
        held = Held(answer.lease_id, answer.stream_id, client_id, role, sent_s)
        return held, answer.epoch or 0, heard_s

    def await_detached(self, correlation_id: int) -> float:
        """When the answer to the detach was heard, whatever it says.

        Raises:
            TimeoutError: it is not answered.
        """
        self.wait_until(lambda: correlation_id in self._detached)
        return self._detached.pop(correlation_id)

    def poll(self) -> int:
        """Hear what is there; how much it was."""
        self._answers.skip_own(self._control)
        return self._answers.poll(self._hear, _POLL_LIMIT) + self._announces.poll(
            self._hear_announce, _POLL_LIMIT
        )

    def wait_until(
        self,
        is_done: Callable[[], bool],
        deadline_s: float = DEADLINE_S,
        pause_s: float = _WAIT_PAUSE_S,
    ) -> None:
        """Poll until `is_done`, asleep for `pause_s` in between.

        Raises:
            TimeoutError: it is not within the deadline.
        """
        until_s = time.monotonic() + deadline_s
        while not is_done():
            self.poll()
            self.meanwhile()
            time.sleep(pause_s)
            if time.monotonic() > until_s:
                raise TimeoutError(f"the driver does not answer within {deadline_s:g} s")

    def pass_time(self, seconds: float, pause_s: float = 0.001) -> None:
        """Poll now and then for that long, asleep in between."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            self.poll()
            self.meanwhile()
            time.sleep(min(pause_s, left_s))

    def round_trip(self) -> None:
        """Wait until the driver has taken everything that was sent so far."""
        self.await_detached(self.request_detach(Held(0, 0, 0, Role.CONSUMER, 0.0)))

    def close(self) -> None:
        """Leave."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _hear(self, buffer: memoryview, _: int) -> None:
        header = wire.read_header(buffer)
        if header.schema_id != DRIVER.schema_id or header.template_id not in _HEARD:
            return
        now_s = time.monotonic()
        match DRIVER.decode(buffer, header):
            case ShmAttachResponse() as answer:
                self._attached[answer.correlation_id] = (answer, now_s)
            case ShmDetachResponse() as answer:
                self._detached[answer.correlation_id] = now_s
            case ShmLeaseRevoked() as end:
                if end.lease_id in self._leaving:
                    self._leaving.discard(end.lease_id)
                else:
                    self.revoked[end.lease_id] = now_s

    def _hear_announce(self, buffer: memoryview, _: int) -> None:
        message = wire.decode(buffer)
        if isinstance(message, ShmPoolAnnounce):
            self.announced[message.stream_id] = message.epoch
