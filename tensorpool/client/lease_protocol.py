"""The client's half of the lease protocol: what a lease says to the driver, and what it hears.

Attach with back-off and jitter, keepalive, detach; answers, revocations, shutdowns and announces.
It has no thread: the keeper's calls it, with the keeper's lock held.
"""

from __future__ import annotations

import logging
import random
from time import time_ns
from typing import Any

from tensorpool import wire
from tensorpool.aeron.client import Offer
from tensorpool.client.channels import Channels
from tensorpool.client.errors import AttachRejected
from tensorpool.client.events import EventLog
from tensorpool.client.lease import ClientLease, LeaseStatus, choose_client_id
from tensorpool.client.mapping import EpochRegions
from tensorpool.clock import NS_PER_MS, NS_PER_S, monotonic_ns
from tensorpool.errors import TensorPoolError
from tensorpool.settings import Policies
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
_UNANSWERED, _ABANDONED = 100, 1000
_CORRELATION_MASK = (1 << 63) - 1
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


class LeaseProtocol:
    """The leases of one pool, and what becomes of them.

    Attributes:
        leases: those that are to be attached, and stay so.
    """

    def __init__(self, policies: Policies, events: EventLog) -> None:
        self.leases: list[ClientLease] = []
        self._policies = policies
        self._events = events
        self._channels: Channels
        self._joined_ns = 0
        self._correlation_id = random.getrandbits(62)
        self._abandoned: dict[int, tuple[int, Role]] = {}

    def on_connected(self, channels: Channels) -> None:
        """Speak on these channels from now on."""
        self._channels = channels
        self._joined_ns = monotonic_ns()
        for lease in self.leases:
            lease.next_tick_ns = 0
            with lease.changed:
                lease.bump()

    # -- what is said ----------------------------------------------------------------------

    def tend(self, lease: ClientLease, now_ns: int) -> int:
        """Do what is due with the lease by its time; how much work that was."""
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
                    self.send_detach(lease, now_ns)
                case LeaseStatus.CLOSED:
                    return 0
        return 1

    def _send_attach(self, lease: ClientLease, now_ns: int) -> None:
        lease.correlation_id = self._next_correlation_id()
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
            lease.unanswered[request.correlation_id] = None
            _forget_oldest(lease.unanswered, _UNANSWERED)
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
        configured = self._policies.lease_keepalive_interval_ns
        return min(configured, lease.ttl_ns // _KEEPALIVES_PER_LIFE)

    def send_detach(self, lease: ClientLease, now_ns: int) -> None:
        """Give the lease back; `lease.changed` is held."""
        lease.correlation_id = self._next_correlation_id()
        request = ShmDetachRequest(
            lease.correlation_id, lease.lease_id, lease.stream_id, lease.client_id, lease.role
        )
        if self._channels.control(request) is Offer.SENT:
            lease.next_action_ns = now_ns + _ATTACH_TIMEOUT_NS
        else:
            lease.next_action_ns = now_ns + NS_PER_MS

    def abandon(self, lease: ClientLease) -> None:
        """Forget a lease; what it may yet be granted is given back when that is heard."""
        self.leases.remove(lease)
        for correlation_id in lease.unanswered:
            self._abandoned[correlation_id] = lease.client_id, lease.role
        _forget_oldest(self._abandoned, _ABANDONED)

    def _next_correlation_id(self) -> int:
        self._correlation_id = (self._correlation_id + 1) & _CORRELATION_MASK
        return self._correlation_id

    def _lose(self, lease: ClientLease, what: str, detail: str) -> None:
        """Stop using the lease at once and attach again soon (Driver §4.7, §4.9)."""
        lease.status = LeaseStatus.BACKOFF
        lease.regions = None
        lease.attempts = 0
        lease.next_action_ns = monotonic_ns() + _jittered(_BACKOFF_FIRST_NS)
        lease.bump()
        self._events.emit(what, lease.stream_id, lease.lease_id, detail)

    # -- what is heard ---------------------------------------------------------------------

    def on_fragment(self, buffer: memoryview, _: int) -> None:
        """Act upon a message."""
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
                for lease in self.leases:
                    if lease.stream_id == message.stream_id:
                        lease.next_tick_ns = 0  # what was heard may want an answer
                        with lease.changed:
                            lease.talk.hear(lease, message, now_ns)

    def _on_attach_response(self, response: ShmAttachResponse) -> None:
        correlation_id = response.correlation_id
        lease = next((each for each in self.leases if correlation_id in each.unanswered), None)
        if lease is None:
            self._give_back(response)
            return
        with lease.changed:
            del lease.unanswered[correlation_id]
            if lease.status not in {LeaseStatus.ATTACHING, LeaseStatus.BACKOFF}:
                return
            if response.code != ResponseCode.OK:
                # A refusal is of its request alone: a later one may be answered otherwise.
                if correlation_id == lease.correlation_id:
                    self._on_rejected(lease, response)
                return
            # A grant is the lease that all of them asked for, however late it comes.
            try:
                self._accept(lease, response)
            except TensorPoolError as error:
                # A protocol error: drop the attach and try again (Driver §4.7a).
                self.retry_later(lease, error)
                self._events.emit("protocol_error", lease.stream_id, None, str(error))

    def _give_back(self, response: ShmAttachResponse) -> None:
        """A grant that nobody wants any more would be in the way of others until it expires."""
        asked = self._abandoned.pop(response.correlation_id, None)
        if asked is None or response.code != ResponseCode.OK or response.lease_id is None:
            return  # somebody else's, or a duplicate (Driver §B.1)
        client_id, role = asked
        request = ShmDetachRequest(
            self._next_correlation_id(),
            response.lease_id,
            response.stream_id or 0,
            client_id,
            role,
        )
        self._channels.control(request)  # if that fails, it does expire

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
            lease.ttl_ns = self._policies.lease_ttl_ns
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
        lease.unanswered.clear()
        lease.status = LeaseStatus.ATTACHED
        lease.bump()
        what = "attached" if lease.attaches == 1 else "reattached"
        self._events.emit(what, lease.stream_id, lease.lease_id, f"epoch {regions.epoch}")
        lease.talk.on_regions(lease)
        lease.next_tick_ns = 0

    def _on_rejected(self, lease: ClientLease, response: ShmAttachResponse) -> None:
        error = AttachRejected(response.code, response.error_message or "no reason given")
        patience_ns = _BACKOFF_MAX_NS
        is_id_taken = response.error_message.startswith(_ID_TAKEN)
        is_strangers = is_id_taken and not lease.has_fixed_id and lease.asked == 1
        if is_strangers:
            lease.client_id, lease.asked = choose_client_id(), 0  # Driver §B.2
        elif lease.attempts == 0:
            self._events.emit("attach_rejected", lease.stream_id, None, str(error))
        if is_id_taken and not is_strangers:
            # Our predecessor's lease, or our own, is superseded 1.25 keepalive intervals after
            # its last sign of life (design §4.12): be there then.
            interval_ns = self._policies.lease_keepalive_interval_ns
            patience_ns = max(interval_ns // _TRIES_PER_INTERVAL, _BACKOFF_FIRST_NS)
        self.retry_later(lease, error, patience_ns)

    def retry_later(
        self, lease: ClientLease, error: Exception, patience_ns: int = _BACKOFF_MAX_NS
    ) -> None:
        """Attach again after a while, longer each time; `lease.changed` is held (Driver §B.2)."""
        lease.error = error
        lease.status = LeaseStatus.BACKOFF
        backoff_ns = min(_BACKOFF_FIRST_NS << min(lease.attempts, 10), patience_ns)
        lease.attempts += 1
        lease.next_action_ns = monotonic_ns() + _jittered(backoff_ns)
        lease.bump()

    def _on_detach_response(self, response: ShmDetachResponse) -> None:
        for lease in self.leases:
            is_ours = lease.correlation_id == response.correlation_id
            if is_ours and lease.status is LeaseStatus.DETACHING:
                with lease.changed:
                    lease.status = LeaseStatus.CLOSED
                    lease.bump()

    def _on_revoked(self, revoked: ShmLeaseRevoked) -> None:
        if revoked.reason not in LeaseRevokeReason or revoked.role not in Role:
            _log.warning("ShmLeaseRevoked with an unknown reason or role rejected")
            return
        for lease in self.leases:
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
        self._events.emit("producer_gone", lease.stream_id, revoked.lease_id)

    def _on_shutdown(self, shutdown: ShmDriverShutdown) -> None:
        for lease in self.leases:
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
        for lease in self.leases:
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
            self._events.emit("epoch_changed", lease.stream_id, lease.lease_id, f"{announce.epoch}")

    def _is_fresh(self, announce: ShmPoolAnnounce) -> bool:
        """Not too old; the join time counts on the monotonic clock only (Wire §10.1.1)."""
        window_ns = _FRESH_PERIODS * self._policies.announce_period_ns
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
        window_ns = _FRESH_PERIODS * self._policies.announce_period_ns
        waited_ns = monotonic_ns() - lease.vacant_since_ns
        return announce.epoch == lease.vacant_epoch and waited_ns > window_ns


def _forget_oldest(by_correlation_id: dict[int, Any], kept: int) -> None:
    while len(by_correlation_id) > kept:
        del by_correlation_id[next(iter(by_correlation_id))]


def _jittered(duration_ns: int) -> int:
    return int(duration_ns * random.uniform(0.5, 1.5))
