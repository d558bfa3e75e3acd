"""Frame descriptors on their way in: on the shared stream, or a consumer's own (Wire §5)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from tensorpool.aeron.client import MediaDriverLost, Subscription
from tensorpool.client.descriptors import CODEC
from tensorpool.client.hot import DescriptorSink
from tensorpool.client.keeper import LeaseKeeper
from tensorpool.client.presence import Presence
from tensorpool.client.slots import Descriptor
from tensorpool.settings import Endpoint

_POLL_LIMIT = 64
MOST_POLLS = 256
"""At a time, of so many descriptors each. Those of all streams come by, and none of them is left to
a later call: who calls seldom would fall ever further behind."""
_DRAIN_LIMIT = 65_536
_EPOCH, _SEQ = 1, 2


class _Shared(Protocol):
    """The shared stream: a subscription of one's own, or a share of one (`Gathering`)."""

    def raw_poll(self, handler: object, limit: int, *, assemble: bool) -> int: ...

    def close(self) -> None: ...


class SharedBranch(_Shared, Protocol):
    """A share of a subscription that several consumers have between them."""

    def open(self) -> None:
        """Listen. Raises MediaDriverLost: there is no connection just now."""


class DescriptorInbox:
    """Descriptors of one stream, in order. For the consumer's thread.

    A consumer that is granted a stream of its own stays on the shared one until the first
    descriptor has come on its own: a producer that does not serve it costs nothing.

    Attributes:
        sink: what keeps them as they are heard.
        connection: the keeper's connection that it listens on.
        is_own: whether they come on this consumer's own stream.
    """

    def __init__(self, keeper: LeaseKeeper, presence: Presence) -> None:
        self.is_own = False
        self._keeper = keeper
        self._presence = presence
        self.connection = 0
        self._current: Subscription | _Shared | None = None
        self._branch: SharedBranch | None = None
        self._own: Subscription | None = None
        self._own_endpoint: Endpoint | None = None
        self.listen_to(0)

    def listen_to(self, stream_id: int) -> None:
        """Keep this stream's descriptors, once the driver has said its id."""
        self.sink = DescriptorSink(CODEC.header, stream_id, deque())

    @property
    def waiting(self) -> deque[Descriptor]:
        """Descriptors polled and not taken yet."""
        return self.sink.waiting

    @property
    def sole_source(self) -> Subscription | None:
        """The one subscription that descriptors come by; None where that is not all there is."""
        is_sole = self._branch is None and (self._own is None or self.is_own)
        return self._current if is_sole and isinstance(self._current, Subscription) else None

    def settle(self) -> None:
        """The connection, the lease or the grant changed: listen where frames come now."""
        keeper = self._keeper
        try:
            if self.connection != keeper.connection:
                self._current = self._own = self._own_endpoint = None
                self.is_own = False
                connection = keeper.connection
                self._current = self._shared()
                self.connection = connection
            granted = self._presence.own_stream
            if granted != self._own_endpoint:
                self._move(granted)
        except MediaDriverLost:
            return  # the next connection is noticed by its number

    @property
    def has_branch(self) -> bool:
        """Whether it has a share of a subscription instead of one of its own."""
        return self._branch is not None

    @property
    def listens_apart(self) -> bool:
        """Whether descriptors come, or may come, on this consumer's own stream."""
        return self._own is not None

    def take(self, buffer: Any, header: Any) -> None:
        """Keep the descriptor if it is one of this stream."""
        self.sink(buffer, header)

    def listen_by(self, branch: SharedBranch | None) -> None:
        """Listen to the shared stream by this from now on; None: by a subscription of our own.

        Nothing is missed: the new one listens before the old one is read to its end, and what both
        say is passed over by its seq. Without a connection just now, `settle` makes up for it.
        """
        former, self._branch = self._branch, branch
        if not self.is_own:
            current = self._current
            try:
                self._current = self._shared()
            except MediaDriverLost:
                self._current, self.connection = None, 0
            if current is not None:
                with suppress(Exception):  # a connection that is lost is noticed by its number
                    self._read_out(current)
                current.close()
        if former is not None:
            former.close()

    def _read_out(self, current: Subscription | _Shared) -> None:
        for _ in range(_DRAIN_LIMIT // _POLL_LIMIT):
            if not current.raw_poll(self.sink, _POLL_LIMIT, assemble=False):
                return

    def fill(self) -> bool:
        """Poll until something waits, or nothing more is there; whether anything waits now."""
        for _ in range(MOST_POLLS):
            if not self._poll() or self.waiting:
                break
        return bool(self.waiting)

    def drain(self) -> None:
        """Poll until nothing more is there, or very much is."""
        for _ in range(_DRAIN_LIMIT // _POLL_LIMIT):
            if not self._poll() or len(self.waiting) >= _DRAIN_LIMIT:
                return

    def read_on(self, kept: int, drop: Callable[[Descriptor], None]) -> None:
        """Poll until nothing more is there; what waits beyond `kept` is dropped, oldest first."""
        for _ in range(MOST_POLLS):
            is_more = self._poll()
            while len(self.waiting) > kept:
                drop(self.waiting.popleft())
            if not is_more:
                return

    def _poll(self) -> bool:
        """Poll once; whether more may be there."""
        current = self._current
        if current is None:
            return False
        try:
            heard = current.raw_poll(self.sink, _POLL_LIMIT, assemble=False)
            if self._own is not None and not self.is_own:
                self._try_own(current, self._own)
        except Exception:
            # The keeper's thread may close a lost connection at any moment; the next one is
            # noticed by its number.
            if not self._keeper.has_lost_connection(self.connection):
                raise
            self._current = self._own = None
            return False
        return heard >= _POLL_LIMIT

    def _shared(self) -> Subscription | _Shared:
        if self._branch is None:
            return self._keeper.client.subscription(self._keeper.settings.driver.descriptor)
        self._branch.open()
        return self._branch

    def _move(self, granted: Endpoint | None) -> None:
        keeper = self._keeper
        former = self._own
        if self.is_own:
            self._current = self._shared()
            self.is_own = False
        self._own, self._own_endpoint = None, granted
        if former is not None:
            former.close()
        if granted is not None:
            self._own = keeper.client.subscription(granted)
            self._presence.own_subscription = self._own

    def _try_own(self, shared: Subscription | _Shared, own: Subscription) -> None:
        """Change over at the first descriptor on our own stream; what both say is said once."""
        before = len(self.waiting)
        own.raw_poll(self.sink, _POLL_LIMIT, assemble=False)
        if len(self.waiting) == before:
            return
        # The shared stream was told first, so everything up to here is in its log by now.
        while shared.raw_poll(self.sink, _POLL_LIMIT, assemble=False):
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
        self._current = self._own = self._branch = None
