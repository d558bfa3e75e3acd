"""Frame descriptors on their way in: on the shared stream, or a consumer's own (Wire §5)."""

from __future__ import annotations

from collections import deque
from typing import Any

from tensorpool.aeron.client import MediaDriverLost, Subscription
from tensorpool.client.descriptors import BLOCK, CODEC, MESSAGE_BYTES
from tensorpool.client.keeper import LeaseKeeper
from tensorpool.client.presence import Presence
from tensorpool.settings import Endpoint
from tensorpool.wire.codec import MESSAGE_HEADER

type Descriptor = tuple[int, int, int, int, int, int]
"""Stream id, epoch, seq, time of publication, metadata version, trace id; nulls as on the wire."""

_HEADER = CODEC.header
_POLL_LIMIT = 64
_DRAIN_LIMIT = 65_536
_SEQ = 2


class DescriptorInbox:
    """Descriptors of one stream, in order. For the consumer's thread.

    A consumer that is granted a stream of its own stays on the shared one until the first
    descriptor has come on its own: a producer that does not serve it costs nothing.

    Attributes:
        waiting: descriptors polled and not taken yet.
        connection: the keeper's connection that it listens on.
        is_own: whether they come on this consumer's own stream.
    """

    def __init__(self, keeper: LeaseKeeper, presence: Presence) -> None:
        self.waiting: deque[Descriptor] = deque()
        self.is_own = False
        self.stream_id = 0
        self._keeper = keeper
        self._presence = presence
        self.connection = 0
        self._current: Subscription | None = None
        self._own: Subscription | None = None
        self._own_endpoint: Endpoint | None = None

    def settle(self) -> None:
        """The connection, the lease or the grant changed: listen where frames come now."""
        keeper = self._keeper
        try:
            if self.connection != keeper.connection:
                self._current = self._own = self._own_endpoint = None
                self.is_own = False
                connection = keeper.connection
                self._current = keeper.client.subscription(keeper.settings.driver.descriptor)
                self.connection = connection
            granted = self._presence.own_stream
            if granted != self._own_endpoint:
                self._move(granted)
        except MediaDriverLost:
            return  # the next connection is noticed by its number

    def fill(self) -> bool:
        """Poll once; whether anything waits now."""
        current = self._current
        if current is None:
            return False
        try:
            current.raw_poll(self._on_descriptor, _POLL_LIMIT, assemble=False)
            if self._own is not None and not self.is_own:
                self._try_own(current, self._own)
        except Exception:
            # The keeper's thread may close a lost connection at any moment; the next one is
            # noticed by its number.
            if not self._keeper.has_lost_connection(self.connection):
                raise
            self._current = self._own = None
            return False
        return bool(self.waiting)

    def drain(self) -> None:
        """Poll until nothing more is there, or very much is."""
        while len(self.waiting) < _DRAIN_LIMIT:
            before = len(self.waiting)
            self.fill()
            if len(self.waiting) == before:
                return

    def _on_descriptor(self, buffer: Any, _: Any) -> None:
        view = memoryview(buffer)
        if len(view) != MESSAGE_BYTES or view[:8] != _HEADER:
            return  # other messages may share the stream (Wire §5)
        descriptor = BLOCK.unpack_from(view, MESSAGE_HEADER.size)
        if descriptor[0] == self.stream_id:
            self.waiting.append(descriptor)

    def _move(self, granted: Endpoint | None) -> None:
        keeper = self._keeper
        former = self._own
        if self.is_own:
            self._current = keeper.client.subscription(keeper.settings.driver.descriptor)
            self.is_own = False
        self._own, self._own_endpoint = None, granted
        if former is not None:
            former.close()
        if granted is not None:
            self._own = keeper.client.subscription(granted)
            self._presence.own_subscription = self._own

    def _try_own(self, shared: Subscription, own: Subscription) -> None:
        """Change over at the first descriptor on our own stream; what both say is said once."""
        before = len(self.waiting)
        own.raw_poll(self._on_descriptor, _POLL_LIMIT, assemble=False)
        if len(self.waiting) == before:
            return
        # The shared stream was told first, so everything up to here is in its log by now.
        while shared.raw_poll(self._on_descriptor, _POLL_LIMIT, assemble=False):
            continue
        self.waiting = deque(sorted(set(self.waiting), key=lambda d: (d[1], d[_SEQ])))
        self._current, self.is_own = own, True
        shared.close()

    def close(self) -> None:
        """Close what is open; idempotent."""
        subscriptions = {id(s): s for s in (self._current, self._own) if s is not None}
        self._current = self._own = None
        if not self._keeper.has_lost_connection(self.connection):
            for subscription in subscriptions.values():
                subscription.close()
