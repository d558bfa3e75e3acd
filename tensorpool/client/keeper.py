"""The lease keeper: one background thread a pool, for any number of leases.

It attaches, keeps alive, watches revocations, shutdowns and announces, reattaches with
back-off and jitter, and comes back after the loss of the media driver. Users of leases
never talk to the driver themselves.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from time import time_ns

from tensorpool import wire
from tensorpool.aeron.client import (
    AeronClient,
    MediaDriverLost,
    Offer,
    has_media_driver_file,
)
from tensorpool.aeron.idle import BackoffIdle
from tensorpool.client import fork
from tensorpool.client.channels import Channels
from tensorpool.client.errors import AttachRejected, ClientError, PoolClosed
from tensorpool.client.lease import ClientLease, LeaseStatus
from tensorpool.client.mapping import EpochRegions
from tensorpool.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from tensorpool.errors import TensorPoolError
from tensorpool.logs import RateLimit, counted
from tensorpool.settings import HostSettings
from tensorpool.wire.control import (
    CONTROL,
    ClockDomain,
    ConsumerConfig,
    ConsumerHello,
    DataSourceAnnounce,
    DataSourceMeta,
    QosConsumer,
    ResponseCode,
    ShmPoolAnnounce,
)
from tensorpool.wire.driver import (
    DRIVER,
    HugepagesPolicy,
    LeaseRevokeReason,
    Role,
    ShmAttachRequest,
    ShmAttachResponse,
    ShmDetachRequest,
    ShmDetachResponse,
    ShmDriverShutdown,
    ShmLeaseKeepalive,
    ShmLeaseRevoked,
)

_log = logging.getLogger(__name__)

_ATTACH_TIMEOUT_NS = 2 * NS_PER_S
_BACKOFF_FIRST_NS = 20 * NS_PER_MS
_BACKOFF_MAX_NS = NS_PER_S
_TRIES_PER_INTERVAL = 20
_KEEPALIVES_PER_LIFE = 3
_FRESH_PERIODS = 3
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
_ID_TAKEN = "client_id already attached"
_INTERESTING = {
    (schema.schema_id, schema.by_type[kind].template_id)
    for schema, kind in (
        (DRIVER, ShmAttachResponse),
        (DRIVER, ShmDetachResponse),
        (DRIVER, ShmLeaseRevoked),
        (DRIVER, ShmDriverShutdown),
        (CONTROL, ShmPoolAnnounce),
        (CONTROL, ConsumerConfig),
        (CONTROL, ConsumerHello),
        (CONTROL, DataSourceAnnounce),
        (CONTROL, DataSourceMeta),
        (CONTROL, QosConsumer),
    )
}


@dataclass(frozen=True, slots=True)
class PoolEvent:
    """Something that happened to a lease or to the connection.

    Attributes:
        what: a stable word: `attached`, `reattached`, `attach_rejected`, `protocol_error`,
            `lease_revoked`, `lease_expired`, `driver_shutdown`, `epoch_changed`,
            `media_driver_lost`, `media_driver_back`.
        stream_id: the lease's stream, None for the connection.
        lease_id: the lease, None if there is none.
        detail: reason and numbers, for people.
        at_ns: when, CLOCK_MONOTONIC.
    """

    what: str
    stream_id: int | None = None
    lease_id: int | None = None
    detail: str = ""
    at_ns: int = field(default_factory=monotonic_ns)


class LeaseKeeper:
    """Keeps the leases of one pool.

    Attributes:
        connection: grows with every connection to a media driver; publications and
            subscriptions made before are dead.
        events: the latest events, oldest first.
    """

    def __init__(
        self, settings: HostSettings, on_event: Callable[[PoolEvent], None] | None
    ) -> None:
        self.settings = settings
        self.connection = 0
        self.events: deque[PoolEvent] = deque(maxlen=1000)
        self._on_event = on_event
        self._lock = threading.RLock()
        self._leases: list[ClientLease] = []
        self._undelivered: deque[PoolEvent] = deque()
        self._client: AeronClient | None = None
        self._channels: Channels
        self._is_forked = False
        self._joined_ns = 0
        self._correlation_id = random.getrandbits(62)
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
            self._leases.append(lease)
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
            if lease in self._leases:
                self._leases.remove(lease)
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
                        if not self._channels.poll(self._on_fragment, _POLL_LIMIT):
                            break
            with lease.changed:
                if lease.status is not LeaseStatus.ATTACHED or lease.regions is not regions:
                    return False
                if monotonic_ns() >= lease.deadline_ns:
                    lease.next_action_ns = 0
                    self._touch()
                    return False
                if self._client is not None:
                    self._send_detach(lease, monotonic_ns())  # best effort; its answer is ignored
                lease.regions = None
                self._retry_later(lease, error)
                self._emit(PoolEvent("protocol_error", lease.stream_id, lease.lease_id, str(error)))
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

    def choose_client_id(self) -> int:
        """A random non-zero client id (Driver §B.2)."""
        return random.randrange(1, 1 << 31)

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
            self._deliver()
            if work or self._is_hurried:
                idle.idle(work)
            else:
                self._wake.wait(_REST_S)
        self._deliver()

    def _do_work(self) -> int:
        with self._lock:
            if self._client is None:
                self._wake.clear()  # connecting leads to everything there is to do
                self._due_ns, self._is_hurried = 0, False
                if not has_media_driver_file(self.settings.aeron_dir):
                    return 0
                self._connect()
                self._emit(PoolEvent("media_driver_back"))
            if self.client.is_lost:
                raise MediaDriverLost("silent for a second")
            work = self._channels.poll(self._on_fragment, _POLL_LIMIT)
            now_ns = monotonic_ns()
            # Whatever changes a lease comes by a message, by a user's thread, or in its time.
            if work or now_ns >= self._due_ns or self._wake.is_set():
                self._wake.clear()  # before the walk: what is touched during it is seen next
                work += self._tend_all(now_ns)
            return work

    def _tend_all(self, now_ns: int) -> int:
        """Look after every lease; when that is due again, and whether somebody waits for it."""
        work, due_ns, is_hurried = 0, now_ns + _TICK_NS, False
        for lease in self._leases:
            work += self._tend(lease, now_ns)
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
            for lease in self._leases:
                lease.talk.on_connected(channels)
        except BaseException:
            client.close()
            raise
        self._channels = channels
        self._client = client
        self._joined_ns = monotonic_ns()
        self.connection += 1
        for lease in self._leases:
            lease.next_tick_ns = 0
            with lease.changed:
                lease.bump()

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _on_media_driver_lost(self, error: MediaDriverLost) -> None:
        with self._lock:
            if self._client is not None:
                self._emit(PoolEvent("media_driver_lost", detail=str(error)))
            self._disconnect()
        # Leases live on in the driver; a keepalive from the next connection keeps them.

    def _emit(self, event: PoolEvent) -> None:
        self.events.append(event)
        _log.info(event.what, extra={k: v for k, v in _event_fields(event).items() if v})
        if self._on_event is not None:
            self._undelivered.append(event)

    def _deliver(self) -> None:
        """Call the user back, with no lock held."""
        while self._undelivered:
            event = self._undelivered.popleft()
            try:
                assert self._on_event is not None
                self._on_event(event)
            except Exception:  # noqa: BLE001 - a user's fault must not end the keeper
                _log.exception("the event callback failed", extra={"event": event.what})

    # -- one lease ------------------------------------------------------------------------

    def _tend(self, lease: ClientLease, now_ns: int) -> int:
        if now_ns < lease.next_action_ns:
            return 0
        with lease.changed:
            match lease.status:
                case LeaseStatus.BACKOFF | LeaseStatus.ATTACHING:
                    self._send_attach(lease, now_ns)
                case LeaseStatus.ATTACHED if now_ns >= lease.deadline_ns:
                    self._lose(lease, "lease_expired", "no keepalive went out in time")
                case LeaseStatus.ATTACHED:
                    self._send_keepalive(lease, now_ns)
                case LeaseStatus.DETACHING:
                    self._send_detach(lease, now_ns)
                case LeaseStatus.CLOSED:
                    return 0
        return 1

    def _send_attach(self, lease: ClientLease, now_ns: int) -> None:
        self._correlation_id = (self._correlation_id + 1) & ((1 << 63) - 1)
        lease.correlation_id = self._correlation_id
        request = ShmAttachRequest(
            lease.correlation_id,
            lease.stream_id,
            lease.client_id,
            lease.role,
            publish_mode=lease.publish_mode,
            require_hugepages=HugepagesPolicy.UNSPECIFIED,
        )
        lease.status = LeaseStatus.ATTACHING
        if self._channels.control(request) is Offer.SENT:
            lease.asked += 1
            lease.next_action_ns = now_ns + _ATTACH_TIMEOUT_NS
        else:
            lease.next_action_ns = now_ns + _BACKOFF_FIRST_NS

    def _send_keepalive(self, lease: ClientLease, now_ns: int) -> None:
        message = ShmLeaseKeepalive(
            lease.lease_id, lease.stream_id, lease.client_id, lease.role, time_ns()
        )
        if self._channels.control(message) is Offer.SENT:
            lease.next_action_ns = now_ns + self._keepalive_interval_ns(lease)
            lease.deadline_ns = now_ns + lease.ttl_ns
            lease.attempts = 0
        else:
            lease.next_action_ns = now_ns + _BACKOFF_FIRST_NS

    def _keepalive_interval_ns(self, lease: ClientLease) -> int:
        """As configured, but early enough for a lease that the driver granted for less."""
        configured = self.settings.policies.lease_keepalive_interval_ns
        return min(configured, lease.ttl_ns // _KEEPALIVES_PER_LIFE)

    def _send_detach(self, lease: ClientLease, now_ns: int) -> None:
        self._correlation_id += 1
        lease.correlation_id = self._correlation_id
        request = ShmDetachRequest(
            lease.correlation_id, lease.lease_id, lease.stream_id, lease.client_id, lease.role
        )
        if self._channels.control(request) is Offer.SENT:
            lease.next_action_ns = now_ns + _ATTACH_TIMEOUT_NS
        else:
            lease.next_action_ns = now_ns + NS_PER_MS

    def _lose(self, lease: ClientLease, what: str, detail: str) -> None:
        """Stop using the lease at once and attach again soon (Driver §4.7, §4.9)."""
        lease.status = LeaseStatus.BACKOFF
        lease.regions = None
        lease.attempts = 0
        lease.next_action_ns = monotonic_ns() + _jittered(_BACKOFF_FIRST_NS)
        lease.bump()
        self._emit(PoolEvent(what, lease.stream_id, lease.lease_id, detail))

    # -- messages -------------------------------------------------------------------------

    def _on_fragment(self, buffer: memoryview, _: int) -> None:
        try:
            header = wire.read_header(buffer)
            if (header.schema_id, header.template_id) not in _INTERESTING:
                return
            message = wire.decode(buffer)
        except wire.WireError as error:
            # Fail closed (Driver §4.4a): what cannot be read is not acted upon.
            _log.warning("message rejected", extra={"why": str(error)})
            return
        match message:
            case ShmAttachResponse():
                self._on_attach_response(message)
            case ShmDetachResponse():
                self._on_detach_response(message)
            case ShmLeaseRevoked():
                self._on_revoked(message)
            case ShmDriverShutdown():
                self._on_shutdown(message)
            case ShmPoolAnnounce():
                self._on_announce(message)
            case _:
                now_ns = monotonic_ns()
                for lease in self._leases:
                    if lease.stream_id == message.stream_id:
                        lease.next_tick_ns = 0  # what was heard may want an answer
                        with lease.changed:
                            lease.talk.hear(lease, message, now_ns)

    def _awaiting(self, correlation_id: int, status: LeaseStatus) -> ClientLease | None:
        for lease in self._leases:
            if lease.correlation_id == correlation_id and lease.status is status:
                return lease
        return None

    def _on_attach_response(self, response: ShmAttachResponse) -> None:
        lease = self._awaiting(response.correlation_id, LeaseStatus.ATTACHING)
        if lease is None:
            return  # somebody else's, or a duplicate (Driver §B.1)
        with lease.changed:
            if response.code != ResponseCode.OK:
                self._on_rejected(lease, response)
                return
            try:
                self._accept(lease, response)
            except TensorPoolError as error:
                # A protocol error: drop the attach and try again (Driver §4.7a).
                self._retry_later(lease, error)
                self._emit(PoolEvent("protocol_error", lease.stream_id, None, str(error)))

    def _accept(self, lease: ClientLease, response: ShmAttachResponse) -> None:
        required = (
            response.lease_id,
            response.stream_id,
            response.epoch,
            response.layout_version,
            response.header_nslots,
            response.header_slot_bytes,
        )
        if None in required:
            raise wire.MalformedMessage("attach response OK with a required field missing")
        regions = EpochRegions(
            response.stream_id or 0,
            response.epoch or 0,
            response.layout_version or 0,
            response.header_nslots or 0,
            response.header_slot_bytes or 0,
            response.header_region_uri,
            response.payload_pools,
        )
        regions.check()
        if lease.stream_id not in {0, regions.stream_id}:
            raise wire.MalformedMessage(
                f"attach to stream {lease.stream_id} answered with stream {regions.stream_id}"
            )
        now_ns = monotonic_ns()
        expiry_ns = response.lease_expiry_timestamp_ns
        if expiry_ns is None:
            lease.ttl_ns = self.settings.policies.lease_ttl_ns
        elif expiry_ns > now_ns:
            lease.ttl_ns = expiry_ns - now_ns
        else:
            raise wire.MalformedMessage("attach response OK with a lease that has expired already")
        lease.deadline_ns = now_ns + lease.ttl_ns
        lease.next_action_ns = now_ns + self._keepalive_interval_ns(lease)
        lease.lease_id = response.lease_id or 0
        lease.node_id = response.node_id or 0
        lease.stream_id = regions.stream_id
        lease.regions = regions
        lease.regions_ns = lease.vacant_since_ns = 0
        lease.error = None
        lease.attaches += 1
        lease.status = LeaseStatus.ATTACHED
        lease.bump()
        what = "attached" if lease.attaches == 1 else "reattached"
        self._emit(PoolEvent(what, lease.stream_id, lease.lease_id, f"epoch {regions.epoch}"))
        lease.talk.on_regions(lease)
        lease.next_tick_ns = 0

    def _on_rejected(self, lease: ClientLease, response: ShmAttachResponse) -> None:
        error = AttachRejected(response.code, response.error_message or "no reason given")
        patience_ns = _BACKOFF_MAX_NS
        is_id_taken = response.error_message.startswith(_ID_TAKEN)
        is_strangers = is_id_taken and not lease.has_fixed_id and lease.asked == 1
        if is_strangers:
            lease.client_id, lease.asked = self.choose_client_id(), 0  # Driver §B.2
        elif lease.attempts == 0:
            self._emit(PoolEvent("attach_rejected", lease.stream_id, None, str(error)))
        if is_id_taken and not is_strangers:
            # Our predecessor's lease, or our own, is superseded 1.25 keepalive intervals after
            # its last sign of life (design §4.12): be there then.
            interval_ns = self.settings.policies.lease_keepalive_interval_ns
            patience_ns = max(interval_ns // _TRIES_PER_INTERVAL, _BACKOFF_FIRST_NS)
        self._retry_later(lease, error, patience_ns)

    def _retry_later(
        self, lease: ClientLease, error: Exception, patience_ns: int = _BACKOFF_MAX_NS
    ) -> None:
        lease.error = error
        lease.status = LeaseStatus.BACKOFF
        backoff_ns = min(_BACKOFF_FIRST_NS << min(lease.attempts, 10), patience_ns)
        lease.attempts += 1
        lease.next_action_ns = monotonic_ns() + _jittered(backoff_ns)
        lease.bump()

    def _on_detach_response(self, response: ShmDetachResponse) -> None:
        lease = self._awaiting(response.correlation_id, LeaseStatus.DETACHING)
        if lease is not None:
            with lease.changed:
                lease.status = LeaseStatus.CLOSED
                lease.bump()

    def _on_revoked(self, revoked: ShmLeaseRevoked) -> None:
        if revoked.reason not in LeaseRevokeReason or revoked.role not in Role:
            _log.warning("ShmLeaseRevoked with an unknown reason or role rejected")
            return
        for lease in self._leases:
            if lease.status is not LeaseStatus.ATTACHED or lease.stream_id != revoked.stream_id:
                continue
            if (lease.lease_id, lease.role) == (revoked.lease_id, revoked.role):
                with lease.changed:
                    reason = LeaseRevokeReason(revoked.reason).name
                    self._lose(lease, "lease_revoked", f"{reason}: {revoked.error_message}")
            elif lease.role is Role.CONSUMER and revoked.role == Role.PRODUCER:
                self._on_producer_gone(lease, revoked)

    def _on_producer_gone(self, lease: ClientLease, revoked: ShmLeaseRevoked) -> None:
        """Nothing to read until the next epoch is announced (Driver §4.9).

        The two streams have no common order: a revocation older than the announce that we
        follow is that of an earlier producer.
        """
        if lease.regions is None or revoked.timestamp_ns < lease.regions_ns:
            return
        with lease.changed:
            lease.vacant_epoch, lease.vacant_since_ns = lease.regions.epoch, monotonic_ns()
            lease.regions = None
            lease.bump()
        self._emit(PoolEvent("producer_gone", lease.stream_id, revoked.lease_id))

    def _on_shutdown(self, shutdown: ShmDriverShutdown) -> None:
        for lease in self._leases:
            if lease.status is LeaseStatus.ATTACHED:
                with lease.changed:
                    self._lose(lease, "driver_shutdown", shutdown.error_message)
            elif lease.status is LeaseStatus.DETACHING:
                with lease.changed:
                    lease.status = LeaseStatus.CLOSED
                    lease.bump()

    def _on_announce(self, announce: ShmPoolAnnounce) -> None:
        """A newer epoch of a stream of ours: map that one from now on (Wire §10.1.1)."""
        if announce.announce_clock_domain not in ClockDomain:
            return
        if not self._is_fresh(announce):
            return
        for lease in self._leases:
            if lease.stream_id != announce.stream_id or lease.status is not LeaseStatus.ATTACHED:
                continue
            if lease.regions is not None and announce.epoch == lease.regions.epoch:
                with lease.changed:
                    lease.bump()  # its user looks at the superblocks again (Wire §15.1)
            if not self._is_news(lease, announce):
                continue
            if lease.role is Role.PRODUCER and announce.producer_id != lease.client_id:
                # A driver that knows nothing of our lease has gone on without us (Driver §4.13).
                with lease.changed:
                    self._lose(lease, "lease_lost", f"epoch {announce.epoch} is not ours")
                continue
            with lease.changed:
                lease.regions_ns = announce.announce_timestamp_ns
                lease.vacant_since_ns = 0
                lease.regions = EpochRegions(
                    announce.stream_id,
                    announce.epoch,
                    announce.layout_version,
                    announce.header_nslots,
                    announce.header_slot_bytes,
                    announce.header_region_uri,
                    announce.payload_pools,
                )
                lease.talk.on_regions(lease)
                lease.next_tick_ns = 0
                lease.bump()
            self._emit(
                PoolEvent("epoch_changed", lease.stream_id, lease.lease_id, f"{announce.epoch}")
            )

    def _is_fresh(self, announce: ShmPoolAnnounce) -> bool:
        """Not too old; the join time counts on the monotonic clock only (Wire §10.1.1)."""
        window_ns = _FRESH_PERIODS * self.settings.policies.announce_period_ns
        timestamp_ns = announce.announce_timestamp_ns
        if announce.announce_clock_domain == ClockDomain.REALTIME_SYNCED:
            return time_ns() - timestamp_ns <= window_ns
        return timestamp_ns >= self._joined_ns and monotonic_ns() - timestamp_ns <= window_ns

    def _is_news(self, lease: ClientLease, announce: ShmPoolAnnounce) -> bool:
        """Whether it names other regions than those that the lease uses."""
        if lease.regions is not None:
            return announce.epoch > lease.regions.epoch
        if announce.epoch > lease.vacant_epoch:
            return True
        # A driver that lets an epoch outlive its producer: after the wait that Driver §4.9
        # recommends, what it goes on announcing is what there is.
        window_ns = _FRESH_PERIODS * self.settings.policies.announce_period_ns
        waited_ns = monotonic_ns() - lease.vacant_since_ns
        return announce.epoch == lease.vacant_epoch and waited_ns > window_ns


_IN_A_HURRY = {LeaseStatus.ATTACHING, LeaseStatus.DETACHING}
"""Somebody waits for an answer."""


def _jittered(duration_ns: int) -> int:
    return int(duration_ns * random.uniform(0.5, 1.5))


def _event_fields(event: PoolEvent) -> dict[str, object]:
    return {"stream_id": event.stream_id, "lease_id": event.lease_id, "detail": event.detail}
