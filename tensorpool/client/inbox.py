"""Frame descriptors on their way in: on the shared stream, or a consumer's own (Wire §5)."""

from __future__ import annotations

from collections import deque

from tensorpool.aeron.client import MediaDriverLost, Subscription
from tensorpool.client.descriptors import CODEC
from tensorpool.client.hot import DescriptorSink
from tensorpool.client.keeper import LeaseKeeper
from tensorpool.client.presence import Presence
from tensorpool.client.slots import Descriptor
from tensorpool.settings import Endpoint

_POLL_LIMIT = 64
_DRAIN_LIMIT = 65_536
_EPOCH, _SEQ = 1, 2


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
        self._keeper = keeper
        self._presence = presence
        self.connection = 0
        self._current: Subscription | None = None
        self._own: Subscription | None = None
        self._own_endpoint: Endpoint | None = None
        self.listen_to(0)

    def listen_to(self, stream_id: int) -> None:
        """Keep this stream's descriptors, once the driver has said its id."""
        self._on_descriptor = DescriptorSink(CODEC.header, stream_id, self.waiting.append)

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
        both = sorted(set(self.waiting), key=lambda d: (d[_EPOCH], d[_SEQ]))
        self.waiting.clear()
        self.waiting.extend(both)
        self._current, self.is_own = own, True
        shared.close()

    def close(self) -> None:
        """Close what is open; idempotent."""
        for subscription in (self._current, self._own):
            if subscription is not None:
                subscription.close()
        self._current = self._own = None
