"""The lease keeper: one background thread a pool, for any number of leases.

It has the connection and the lock, lets `LeaseProtocol` speak and hear for each lease, and comes
back after the loss of the media driver. Users of leases never talk to the driver themselves.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from tensorpool.aeron.client import AeronClient, MediaDriverLost, has_media_driver_file
from tensorpool.aeron.idle import BackoffIdle
from tensorpool.client import fork
from tensorpool.client.channels import Channels
from tensorpool.client.errors import ClientError, PoolClosed
from tensorpool.client.events import EventLog, PoolEvent
from tensorpool.client.lease import ClientLease, LeaseStatus
from tensorpool.client.lease_protocol import LeaseProtocol
from tensorpool.client.mapping import EpochRegions
from tensorpool.clock import NS_PER_MS, monotonic_ns
from tensorpool.errors import TensorPoolError
from tensorpool.logs import RateLimit, counted
from tensorpool.settings import HostSettings

_log = logging.getLogger(__name__)

_FAULT_PAUSE_S = 0.05
_HURRIED_PARK_NS = NS_PER_MS // 2
"""While an answer is awaited, which may be long: there may be no driver at the moment."""
_REST_S = 0.004
"""Between two looks while no answer is awaited: what comes then is seldom, and each look costs."""
_TICK_NS = 50 * NS_PER_MS
"""How often a lease's traffic is looked after: thousands of leases share one thread."""
_POLL_LIMIT = 64
_CATCH_UP_POLLS = 64
"""For what a process has missed while it was stopped; more is heard by the thread, as ever."""


class LeaseKeeper:
    """Keeps the leases of one pool.

    Attributes:
        connection: grows with every connection to a media driver; publications and
            subscriptions made before are dead.
    """

    def __init__(
        self, settings: HostSettings, on_event: Callable[[PoolEvent], None] | None
    ) -> None:
        self.settings = settings
        self.connection = 0
        self._events = EventLog(on_event)
        self._protocol = LeaseProtocol(settings.policies, self._events)
        self._lock = threading.RLock()
        self._client: AeronClient | None = None
        self._channels: Channels
        self._is_forked = False
        self._is_closing = threading.Event()
        self._wake = threading.Event()
        self._due_ns = 0
        self._fault_log = RateLimit()
        self._is_hurried = False
        self._thread = threading.Thread(target=self._run, name="tensorpool-keeper", daemon=True)

    # -- called by users ------------------------------------------------------------------

    def start(self) -> None:
        """Connect now, then keep on in the background.

        Raises:
            MediaDriverLost: no media driver is there.
        """
        self._connect()
        self._thread.start()
        fork.watch(self)

    def check_usable(self) -> None:
        """Whether the calling thread may ask for anything.

        Raises:
            ForkedProcess: this is a child of the process that connected.
            PoolClosed: the pool was closed.
            ClientError: it is the keeper's own thread, in an event callback.
        """
        if self._is_forked:
            raise fork.refuse()
        if self._is_closing.is_set():
            raise PoolClosed("the pool was closed")
        if threading.current_thread() is self._thread:
            raise ClientError(
                "an event callback runs on the keeper's thread and cannot wait for it: hand the "
                "event to another thread"
            )

    @property
    def events(self) -> deque[PoolEvent]:
        """The latest events, oldest first."""
        return self._events.latest

    @property
    def is_forked(self) -> bool:
        """Whether this is a child of the process that connected."""
        return self._is_forked

    def on_forked(self) -> None:
        """In a child: nothing here is ours; the next use of an attachment notices it."""
        self._is_forked = True
        self.connection = -1

    @property
    def client(self) -> AeronClient:
        """The present connection.

        Raises:
            MediaDriverLost: there is none just now.
        """
        client = self._client
        if self._is_forked:
            raise fork.refuse()
        if client is None:
            raise MediaDriverLost("no media driver at the moment; the pool is reconnecting")
        return client

    def has_lost_connection(self, connection: int) -> bool:
        """Whether what was made with that connection is dead."""
        return self._client is None or connection != self.connection or self._client.is_lost

    def add(self, lease: ClientLease) -> None:
        """Attach and keep the lease.

        Raises:
            HostError: the media driver refuses a channel.
            ForkedProcess, PoolClosed, ClientError: see `check_usable`.
        """
        self.check_usable()
        with self._lock:
            if self._client is not None:
                with suppress(MediaDriverLost):  # then the next connection makes up for it
                    lease.talk.on_connected(self._channels)
            self._protocol.leases.append(lease)
        self._touch()

    def release(self, lease: ClientLease, timeout_s: float) -> None:
        """Detach and forget the lease, waiting a little for the driver's word."""
        with lease.changed:
            if lease.status is LeaseStatus.ATTACHED:
                lease.status = LeaseStatus.DETACHING
                lease.next_action_ns = 0
                self._touch()
                lease.changed.wait_for(lambda: lease.status is LeaseStatus.CLOSED, timeout_s)
            lease.status = LeaseStatus.CLOSED
            lease.regions = None
            lease.bump()
        with self._lock:
            if lease in self._protocol.leases:
                self._protocol.abandon(lease)
            lease.talk.on_closed()

    def drop(
        self, lease: ClientLease, regions: EpochRegions | None, error: TensorPoolError
    ) -> bool:
        """These regions of the lease break a rule: give it back, attach again (Driver §4.7a).

        Returns whether it was dropped. It is kept if others were announced meanwhile, or if it is
        over by its time, which the keeper's thread is about to see: a process that was stopped for
        long finds the files of a former epoch gone, and no rule broken.
        """
        with self._lock:
            if self._client is not None:
                with suppress(MediaDriverLost):  # then the keeper's thread says so
                    for _ in range(_CATCH_UP_POLLS):
                        if not self._channels.poll(self._protocol.on_fragment, _POLL_LIMIT):
                            break
            with lease.changed:
                if lease.status is not LeaseStatus.ATTACHED or lease.regions is not regions:
                    return False
                if monotonic_ns() >= lease.deadline_ns:
                    lease.next_action_ns = 0
                    self._touch()
                    return False
                if self._client is not None:
                    self._protocol.send_detach(lease, monotonic_ns())  # its answer is ignored
                lease.regions = None
                self._protocol.retry_later(lease, error)
                self._events.emit("protocol_error", lease.stream_id, lease.lease_id, str(error))
        self._touch()
        return True

    def close(self) -> None:
        """End the thread and the connection; in a forked child nothing: they are the parent's."""
        if self._is_forked:
            return
        self._is_closing.set()
        self._touch()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()
        with self._lock:
            self._disconnect()

    def _touch(self) -> None:
        """A user's thread has given the keeper something to do."""
        self._wake.set()

    # -- the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        idle = BackoffIdle(_HURRIED_PARK_NS)
        while not self._is_closing.is_set():
            try:
                work = self._do_work()
            except MediaDriverLost as error:
                self._on_media_driver_lost(error)
                work = 0
            except Exception:  # noqa: BLE001 - a keeper that ends takes every lease with it
                # For example a full file system, where no connection can be made, or no memory.
                if (suppressed := self._fault_log.take()) is not None:
                    _log.exception("lease keeper", extra=counted(suppressed))
                work = 0
                self._is_closing.wait(_FAULT_PAUSE_S)
            self._events.deliver()
            if work or self._is_hurried:
                idle.idle(work)
            else:
                self._wake.wait(_REST_S)
        self._events.deliver()

    def _do_work(self) -> int:
        with self._lock:
            if self._client is None:
                self._wake.clear()  # connecting leads to everything there is to do
                self._due_ns, self._is_hurried = 0, False
                if not has_media_driver_file(self.settings.aeron_dir):
                    return 0
                self._connect()
                self._events.emit("media_driver_back")
            if self.client.is_lost:
                raise MediaDriverLost("silent for a second")
            work = self._channels.poll(self._protocol.on_fragment, _POLL_LIMIT)
            now_ns = monotonic_ns()
            # Whatever changes a lease comes by a message, by a user's thread, or in its time.
            if work or now_ns >= self._due_ns or self._wake.is_set():
                self._wake.clear()  # before the walk: what is touched during it is seen next
                work += self._tend_all(now_ns)
            return work

    def _tend_all(self, now_ns: int) -> int:
        """Look after every lease; when that is due again, and whether somebody waits for it."""
        work, due_ns, is_hurried = 0, now_ns + _TICK_NS, False
        for lease in self._protocol.leases:
            work += self._protocol.tend(lease, now_ns)
            if lease.status is LeaseStatus.ATTACHED:
                if now_ns >= lease.next_tick_ns:
                    # All in the same walk, not each at a time of its own.
                    lease.next_tick_ns = (now_ns // _TICK_NS + 1) * _TICK_NS
                    with lease.changed:
                        work += lease.talk.tick(lease, self._channels, now_ns)
                due_ns = min(due_ns, lease.next_tick_ns)
            if lease.status is not LeaseStatus.CLOSED:
                due_ns = min(due_ns, lease.next_action_ns)
            is_hurried |= lease.status in _IN_A_HURRY
        self._due_ns, self._is_hurried = due_ns, is_hurried
        return work

    def _connect(self) -> None:
        client = AeronClient(self.settings.aeron_dir, f"tensorpool-client {os.getpid()}")
        try:
            channels = Channels(client, self.settings.driver)
            for lease in self._protocol.leases:
                lease.talk.on_connected(channels)
        except BaseException:
            client.close()
            raise
        self._channels = channels
        self._client = client
        self.connection += 1
        self._protocol.on_connected(channels)

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _on_media_driver_lost(self, error: MediaDriverLost) -> None:
        with self._lock:
            if self._client is not None:
                self._events.emit("media_driver_lost", detail=str(error))
            self._disconnect()
        # Leases live on in the driver; a keepalive from the next connection keeps them.


_IN_A_HURRY = {LeaseStatus.ATTACHING, LeaseStatus.DETACHING}
"""Somebody waits for an answer."""
