"""A keeper's publications and subscriptions on one connection: one subscription an endpoint.

Several kinds of messages may share an Aeron stream (Wire §5), so what is heard is told apart by
its template, never by where it came from.
"""

from __future__ import annotations

from typing import Any

from tensorpool import wire
from tensorpool.aeron.client import (
    AeronClient,
    FragmentHandler,
    Offer,
    Publication,
    Subscription,
)
from tensorpool.settings import DriverSettings, Endpoint


class Channels:
    """What the keeper's thread sends on and listens to.

    Raises:
        MediaDriverLost: the media driver does not answer; nothing is left open.
        HostError: it refuses a channel.
    """

    def __init__(self, client: AeronClient, driver: DriverSettings) -> None:
        self._client = client
        self._driver = driver
        self._publications: dict[Endpoint, Publication] = {}
        self._subscriptions: dict[Endpoint, Subscription] = {}
        # Nothing of these may be lost, so publishers wait for us (design §4.1).
        for endpoint in (driver.control, driver.announce):
            self._listen(endpoint, tether=True)
        for endpoint in (driver.control, driver.qos):
            self._publication(endpoint)

    def listen_to_qos(self) -> None:
        """Hear QoS from now on; idempotent."""
        self._listen(self._driver.qos)

    def listen_to_metadata(self) -> None:
        """Hear metadata from now on; idempotent."""
        self._listen(self._driver.metadata)

    def poll(self, handler: FragmentHandler, limit: int) -> int:
        """Hand what was heard to `handler`; how many messages."""
        return sum(s.poll(handler, limit) for s in list(self._subscriptions.values()))

    def control(self, message: tuple[Any, ...]) -> Offer:
        """Offer a message on the control stream."""
        return self._publication(self._driver.control).offer(wire.encode(message))

    def qos(self, message: tuple[Any, ...]) -> Offer:
        """Offer a message on the QoS stream."""
        return self._publication(self._driver.qos).offer(wire.encode(message))

    def metadata(self, message: tuple[Any, ...]) -> Offer:
        """Offer a message on the metadata stream."""
        return self._publication(self._driver.metadata).offer(wire.encode(message))

    def publication_for(self, endpoint: Endpoint) -> Publication:
        """A publication of its own, for another thread to offer on."""
        return self._client.publication(endpoint)

    def _listen(self, endpoint: Endpoint, *, tether: bool = False) -> None:
        if endpoint not in self._subscriptions:
            self._subscriptions[endpoint] = self._client.subscription(endpoint, tether=tether)

    def _publication(self, endpoint: Endpoint) -> Publication:
        publication = self._publications.get(endpoint)
        if publication is None:
            publication = self._publications[endpoint] = self._client.publication(endpoint)
        return publication
