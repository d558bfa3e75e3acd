"""One poll loop over many consumers.

Every consumer by itself listens to the shared descriptor stream with a subscription of its own, and
each of them is told of every frame on the host. Gathered, they have one between them: a descriptor
is heard once, and goes to those whose stream it is of. So a frame costs the same however many idle
streams are gathered beside its own.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from tensorpool.aeron.client import Subscription
from tensorpool.client.consumer import Consumer
from tensorpool.client.descriptors import CODEC
from tensorpool.client.errors import PoolClosed, SharedMemoryDenied
from tensorpool.client.frame import Frame
from tensorpool.client.idle import LONGEST_PAUSE_S, AdaptiveIdle
from tensorpool.client.inbox import MOST_POLLS, DescriptorInbox
from tensorpool.client.keeper import LeaseKeeper
from tensorpool.client.usage import CLOSE_PATIENCE_S, OneUser
from tensorpool.clock import NS_PER_MS, monotonic_ns
from tensorpool.wire.codec import MESSAGE_HEADER

_STREAM_ID = struct.Struct(f"<{MESSAGE_HEADER.size}xI")
"""The first field of a FrameDescriptor (Wire §10.2)."""
assert CODEC.block.format.startswith("<I")
_POLL_LIMIT = 64
_MOST_TOLD = 65_536
"""Of an idle gathering, which the keeper reads on for; who is missing is found at the next look."""
_LOOK_NS = 2 * NS_PER_MS
"""How often every consumer is looked at: leases, epochs and grants seldom change."""


class Gathering:
    """Frames of many consumers in one loop. For one thread at a time; `Pool.gather` makes it.

    The consumers stay what they are: each counts its own frames, keeps its own lease, and tells
    what it knows; only frames are had from here meanwhile, and from here alone (`ConcurrentUse`).
    """

    def __init__(self, keeper: LeaseKeeper, consumers: Sequence[Consumer]) -> None:
        self._hub = _Hub(keeper)
        self._user = OneUser("gathering", "gather")
        self._is_closed = False
        self._consumers: list[Consumer] = []
        self._apart: list[Consumer] = []
        self._idle = AdaptiveIdle()
        self._look_ns = 0
        try:
            for consumer in consumers:
                consumer.join_gathering(self._user, partial(_Branch, self._hub, consumer))
                self._consumers.append(consumer)
        except BaseException:
            self.close()
            raise

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """Those that are gathered and not closed."""
        return tuple(self._consumers)

    def next(self, timeout_s: float | None = None) -> tuple[Consumer, Frame] | None:
        """The next frame of any of them and whose it is, in the order in which they were told.

        None after `timeout_s` seconds (None: wait for ever; 0: do not wait). Waiting is as cheap
        as that of `Consumer.next`.

        Raises:
            PoolClosed: every consumer was closed, or the gathering.
            SharedMemoryDenied: a supervisor told one of them not to read shared memory; the others
                can be read on.
            ConcurrentUse, ForkedProcess: as `Consumer.next` does.
        """
        user = self._user
        if not user.enter_after_keeper():
            raise user.refusal()
        try:
            taken = self._take()
            if taken is None and timeout_s != 0:
                taken = self._wait(timeout_s)
            if taken is not None:
                self._idle.reset()
            return taken
        finally:
            user.leave()

    def poll(self, handler: Callable[[Consumer, Frame], None], limit: int = 64) -> int:
        """Hand the frames that are there, `limit` at most, to `handler`; how many. Never waits.

        Raises:
            as `next` does, and whatever `handler` raises.
        """
        with self._user:
            count = 0
            while count < limit and (taken := self._take()) is not None:
                handler(*taken)
                count += 1
            return count

    def __iter__(self) -> Iterator[tuple[Consumer, Frame]]:
        """Frames as they come, until every consumer is closed, or the gathering.

        Raises:
            as `next` does.
        """
        while True:
            try:
                taken = self.next()
            except PoolClosed:
                return
            if taken is not None:
                yield taken

    async def __aiter__(self) -> AsyncIterator[tuple[Consumer, Frame]]:
        """Frames as they come, for `async for`; other tasks run meanwhile. As `__iter__`."""
        while True:
            try:
                taken = self.next(0)
            except PoolClosed:
                return
            if taken is not None:
                yield taken
            await asyncio.sleep(0 if taken is not None else self._idle.pause_s())

    def close(self) -> None:
        """Let every consumer listen by itself again; idempotent. They are not closed.

        Another thread that waits in `next` gets PoolClosed, and one that iterates ends its loop.
        """
        self._is_closed = True
        self._user.wait_free(CLOSE_PATIENCE_S)
        consumers, self._consumers = self._consumers, []
        for consumer in consumers:
            consumer.leave_gathering()
        self._hub.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _wait(self, timeout_s: float | None) -> tuple[Consumer, Frame] | None:
        deadline_ns = None if timeout_s is None else monotonic_ns() + int(timeout_s * 1e9)
        while (taken := self._take()) is None:
            left_s = LONGEST_PAUSE_S
            if deadline_ns is not None:
                left_s = (deadline_ns - monotonic_ns()) / 1e9
                if left_s <= 0:
                    return None
            self._idle.wait(left_s)
        return taken

    def _take(self) -> tuple[Consumer, Frame] | None:
        """The next frame that is there and whole. The hot path."""
        hub = self._hub
        told = hub.told
        while True:
            if self._is_closed or not self._consumers:
                raise PoolClosed("the gathering was closed, or every consumer in it")
            while told:
                consumer = told.popleft()
                try:
                    frame = consumer.take_gathered(hub.batch)
                except PoolClosed:
                    self._forget(consumer)
                    continue
                if frame is not None:
                    return consumer, frame
            now_ns = monotonic_ns()
            if now_ns >= self._look_ns:
                self._look_ns = now_ns + _LOOK_NS
                self._look()
            elif self._apart:
                self._visit(self._apart)
            hub.poll()
            if not told:
                return None

    def _look(self) -> None:
        """Catch up with what has changed of each."""
        self._visit(list(self._consumers))
        self._apart = [consumer for consumer in self._consumers if consumer.listens_apart]

    def _visit(self, consumers: list[Consumer]) -> None:
        denied: SharedMemoryDenied | None = None
        for consumer in consumers:
            try:
                waiting = consumer.count_waiting()
            except PoolClosed:
                self._forget(consumer)
            except SharedMemoryDenied as error:
                denied = error  # said once all were looked at: it is no fault of theirs
            else:
                self._hub.told.extend([consumer] * waiting)
        if denied is not None:
            raise denied

    def _forget(self, consumer: Consumer) -> None:
        """It was closed."""
        self._consumers = [one for one in self._consumers if one is not consumer]
        self._apart = [one for one in self._apart if one is not consumer]
        consumer.leave_gathering()


class _Hub:
    """The one subscription, and whose descriptors are whose.

    Attributes:
        told: a consumer for each descriptor that it was given, in the order of their arrival.
        batch: counts the times that descriptors were heard.
    """

    def __init__(self, keeper: LeaseKeeper) -> None:
        self.told: deque[Consumer] = deque(maxlen=_MOST_TOLD)
        self.batch = 0
        self._keeper = keeper
        self._connection = 0
        self._subscription: Subscription | None = None
        self._routes: dict[int, list[_Branch]] = {}

    def open(self, branch: _Branch) -> None:
        """Give it the descriptors of its stream from now on.

        Raises:
            MediaDriverLost: there is no connection just now.
        """
        connection = self._keeper.connection
        if self._subscription is None or self._connection != connection:
            endpoint = self._keeper.settings.driver.descriptor
            self._subscription = self._keeper.client.subscription(endpoint)
            self._connection = connection
        branches = self._routes.setdefault(branch.consumer.stream_id, [])
        if branch not in branches:
            branches.append(branch)

    def shut(self, branch: _Branch) -> None:
        """Give it no more."""
        branches = self._routes.get(branch.consumer.stream_id, [])
        if branch in branches:
            branches.remove(branch)

    def poll(self) -> int:
        """Hear until somebody is told, or nothing more is there; messages of the last poll."""
        if self._subscription is None:
            return 0
        self.batch += 1
        heard = 0
        try:
            for _ in range(MOST_POLLS):
                heard = self._subscription.raw_poll(self._route, _POLL_LIMIT, assemble=False)
                if heard < _POLL_LIMIT or self.told:
                    break
        except Exception:
            # As in DescriptorInbox: the keeper's thread may close a lost connection.
            if not self._keeper.has_lost_connection(self._connection):
                raise
            self._subscription = None
            return 0
        return heard

    def close(self) -> None:
        """Close the subscription; idempotent."""
        subscription, self._subscription = self._subscription, None
        self._routes.clear()
        if subscription is not None:
            subscription.close()

    def _route(self, buffer: Any, header: Any) -> None:
        try:
            (stream_id,) = _STREAM_ID.unpack_from(buffer)
        except struct.error:
            return  # shorter than any descriptor
        for branch in self._routes.get(stream_id, ()):
            inbox = branch.inbox
            before = len(inbox.waiting)
            inbox.take(buffer, header)
            if len(inbox.waiting) != before:
                self.told.append(branch.consumer)


class _Branch:
    """What a gathered consumer has in place of a subscription to the shared stream."""

    def __init__(self, hub: _Hub, consumer: Consumer, inbox: DescriptorInbox) -> None:
        self.consumer = consumer
        self.inbox = inbox
        self._hub = hub

    def open(self) -> None:
        """Listen.

        Raises:
            MediaDriverLost: there is no connection just now.
        """
        self._hub.open(self)

    def raw_poll(self, handler: object, limit: int, *, assemble: bool) -> int:  # noqa: ARG002
        """As a subscription's; whatever comes goes to all that are gathered."""
        return self._hub.poll()

    def close(self) -> None:
        """Listen no more; idempotent."""
        self._hub.shut(self)
