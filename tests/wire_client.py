"""A client that speaks the wire and nothing else: what it sends and hears, message by message."""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from tensorpool import wire
from tensorpool.aeron.client import AeronClient, Offer
from tensorpool.config import load, to_settings
from tensorpool.settings import Endpoint, HostSettings
from tensorpool.wire.control import ShmPoolAnnounce
from tensorpool.wire.driver import (
    HugepagesPolicy,
    PublishMode,
    Role,
    ShmAttachRequest,
    ShmAttachResponse,
    ShmDetachRequest,
    ShmDetachResponse,
    ShmLeaseKeepalive,
)

DEADLINE_S = 10.0


def settings_of(config: str) -> HostSettings:
    """The settings of the host that runs with this configuration file."""
    environ = {k: v for k, v in os.environ.items() if k != "AERON_DIR"}
    return to_settings(load(config, environ).config)


class WireClient:
    """One Aeron session on a host's control and announce streams.

    Args:
        settings: of the host.
        tether: whether the streams wait for this client to poll.

    Attributes:
        heard: every message of ours heard so far, in order, with its Aeron session.
    """

    def __init__(self, settings: HostSettings, *, tether: bool = True) -> None:
        self.settings = settings
        self.heard: list[Any] = []
        self._ids = itertools.count(random.getrandbits(40))
        self._client = AeronClient(settings.aeron_dir, "wire-client")
        driver = settings.driver
        self._subscriptions = [
            self._client.subscription(endpoint, tether=tether)
            for endpoint in {driver.control, driver.announce}
        ]
        self._control = self._client.publication(driver.control)

    def publication(self, endpoint: Endpoint) -> Any:
        """Another publication of the same session's client."""
        return self._client.publication(endpoint)

    def subscription(self, endpoint: Endpoint) -> Any:
        """Another subscription of the same session's client."""
        return self._client.subscription(endpoint)

    def send(self, message: Any) -> None:
        """Encode and send."""
        self.send_bytes(wire.encode(message))

    def send_bytes(self, data: bytes) -> None:
        """Send exactly these bytes on the control stream."""
        deadline = time.monotonic() + DEADLINE_S
        while self._control.offer(data) is not Offer.SENT:
            assert time.monotonic() < deadline, "the control stream takes nothing"

    def poll(self) -> int:
        """Hear what is there."""
        return sum(s.poll(self._hear, 100) for s in self._subscriptions)

    def expect(self, kind: type, matches: Callable[[Any], bool] = lambda _: True) -> Any:
        """The next message of this kind that matches, from those not yet expected."""
        deadline = time.monotonic() + DEADLINE_S
        seen = 0
        while time.monotonic() < deadline:
            for index in range(seen, len(self.heard)):
                message = self.heard[index]
                if isinstance(message, kind) and matches(message):
                    del self.heard[index]
                    return message
            seen = len(self.heard)
            if self.poll() == 0:
                time.sleep(0.0005)
        kinds = [type(message).__name__ for message in self.heard[-20:]]
        msg = f"no {kind.__name__} as expected within {DEADLINE_S} s; heard {kinds}"
        raise AssertionError(msg)

    def hears_nothing(self, kind: type, matches: Callable[[Any], bool] = lambda _: True) -> bool:
        """Whether no such message is among what has been heard, after a round trip to the driver.

        The round trip (a detach of no lease) proves that the driver has handled everything
        that was sent before.
        """
        self.round_trip()
        return not any(isinstance(m, kind) and matches(m) for m in self.heard)

    def round_trip(self) -> None:
        """Wait until the driver has handled everything sent so far."""
        correlation_id = next(self._ids)
        self.send(ShmDetachRequest(correlation_id, 0, 0, 0, Role.CONSUMER))
        self.expect(ShmDetachResponse, lambda m: m.correlation_id == correlation_id)

    def attach(
        self,
        stream_id: int,
        role: Role,
        client_id: int,
        /,
        *,
        publish_mode: int | None = PublishMode.EXISTING_OR_CREATE,
        **fields: Any,
    ) -> ShmAttachResponse:
        """Attach and return the answer, whatever it is."""
        correlation_id = self.request_attach(
            stream_id, role, client_id, publish_mode=publish_mode, **fields
        )
        answer = self.expect(ShmAttachResponse, lambda m: m.correlation_id == correlation_id)
        assert isinstance(answer, ShmAttachResponse)
        return answer

    def request_attach(
        self,
        stream_id: int,
        role: Role,
        client_id: int,
        /,
        *,
        publish_mode: int | None = PublishMode.EXISTING_OR_CREATE,
        **fields: Any,
    ) -> int:
        """Send an attach request; its correlation id."""
        correlation_id = next(self._ids)
        request = ShmAttachRequest(
            correlation_id,
            stream_id,
            client_id,
            role,
            publish_mode=publish_mode,
            require_hugepages=HugepagesPolicy.UNSPECIFIED,
        )
        self.send(request._replace(**fields))
        return correlation_id

    def detach(self, lease_id: int, stream_id: int, client_id: int, role: Role) -> Any:
        """Detach and return the answer."""
        correlation_id = next(self._ids)
        self.send(ShmDetachRequest(correlation_id, lease_id, stream_id, client_id, role))
        return self.expect(ShmDetachResponse, lambda m: m.correlation_id == correlation_id)

    def keep_alive(self, lease_id: int, stream_id: int, client_id: int, role: Role) -> None:
        """One keepalive."""
        self.send(ShmLeaseKeepalive(lease_id, stream_id, client_id, role, time.time_ns()))

    def announce(self, stream_id: int, *, above: int = 0) -> ShmPoolAnnounce:
        """The next announce of the stream with an epoch above `above`."""
        found = self.expect(ShmPoolAnnounce, lambda m: m.stream_id == stream_id and m.epoch > above)
        assert isinstance(found, ShmPoolAnnounce)
        return found

    def close(self) -> None:
        """Leave without a word, as a killed client does."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _hear(self, buffer: memoryview, _: int) -> None:
        try:
            self.heard.append(wire.decode(buffer))
        except wire.WireError:
            return  # its own deliberate garbage comes back on the shared control stream
